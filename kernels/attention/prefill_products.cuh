// The portable prefill kernel's products: mma.sync m16n8k16, operands by ldmatrix.
//
// 8-bit elements come out of ldmatrix four to a register, neighbours in headDim (K), or pairs of those for two tokens (V). So
// the order of headDim inside a step of 16 is another one, alike for K and Q (PortableCopies stores Q that way), and for V and
// O (PrefillShape::pair_element).
#pragma once

#include "attention/prefill_portable_layout.cuh"
#include "attention/rotary.cuh"
#include "core/float8.cuh"

namespace flashinfer {

template <typename Shape>
struct PortableProducts {
  using Layout = PortableLayout<Shape>;
  using KvElement = typename Shape::KvElement;
  using MathElement = typename Shape::MathElement;

  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kValueDim = Shape::kValueDim;
  static constexpr int kSlabs = Shape::kSlabs;
  static constexpr int kQuerySteps = Shape::kHeadDim / 16;
  static constexpr int kColumnSteps = Shape::kColumn / 16;
  static constexpr int kLoadTiles = Shape::kQuantised ? 4 : 2;  // of 8 columns of B, from one ldmatrix

  // S = Q K^T.
  static __device__ __forceinline__ void multiply_keys(float (&s)[kSlabs][kBlockTokens / 2], u32 query_tile,
                                                       u32 key_tile) {
    const int lane = Layout::thread_index() % 32;
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
#pragma unroll
      for (int i = 0; i < kBlockTokens / 2; i++) s[m][i] = 0.f;
    }
    // Matrices of a K load, 16-bit: 8 tokens by chunk 0 and 1 of the step, then the next 8 tokens; 8-bit: 4 times 8 tokens.
    const int token = Shape::kQuantised ? lane : (lane & 7) + (lane >> 4) * 8, row = Layout::first_row(0) + (lane & 15);
    const u32 keys = key_tile + token * Layout::kKvRowBytes;
    const u32 rows = query_tile + row * Shape::kRowBytes;
    const u32 key_swizzle =
        Layout::template swizzled<Layout::kKvRowBytes>(Shape::kQuantised ? 0 : (lane >> 3) & 1, token) * 16;
    const u32 row_swizzle = Shape::swizzled(lane >> 4, row) * 16;
#pragma unroll
    for (int k = 0; k < kQuerySteps; k++) {
      u32 query[kSlabs][4];
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        ldmatrix(query[m], rows + k / kColumnSteps * Layout::kQueryColumnBytes + m * 16 * Shape::kRowBytes +
                               (row_swizzle ^ (k % kColumnSteps * 32)));
      }
#pragma unroll
      for (int j = 0; j < kBlockTokens / (8 * kLoadTiles); j++) {
        u32 loaded[4];
        ldmatrix(loaded, keys + k / kColumnSteps * Layout::kKvColumnBytes + j * 8 * kLoadTiles * Layout::kKvRowBytes +
                             (key_swizzle ^ (k % kColumnSteps * (16 * KvElement::kBytes))));
        Operands key;
        key_operands(key, loaded);
#pragma unroll
        for (int i = 0; i < kLoadTiles; i++) {
#pragma unroll
          for (int m = 0; m < kSlabs; m++) multiply(s[m], kLoadTiles * j + i, query[m], key[i]);
        }
      }
    }
  }

  // The same with 8-bit keys that turn in registers, the first of them at a position. A step comes with the one that turns
  // with it.
  template <typename Arguments>
  static __device__ __forceinline__ void multiply_turned_keys(float (&s)[kSlabs][kBlockTokens / 2], u32 query_tile,
                                                              u32 key_tile, int position, const Arguments& angles) {
    using Rotary = flashinfer::Rotary<typename Shape::Variant, Shape::kHeadDim, Shape::kQuantised>;
    const int lane = Layout::thread_index() % 32, row = Layout::first_row(0) + (lane & 15);
    position += lane >> 2;
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
#pragma unroll
      for (int i = 0; i < kBlockTokens / 2; i++) s[m][i] = 0.f;
    }
    const auto load_query = [&](u32(&query)[4], int step, int slab) {
      ldmatrix(query, query_tile + step / kColumnSteps * Layout::kQueryColumnBytes +
                          (row + slab * 16) * Shape::kRowBytes +
                          Shape::swizzled(step % kColumnSteps * 2 + (lane >> 4), row) * 16);
    };
    const auto load_keys = [&](Operands& key, int step, int j) {
      const int token = j * 8 * kLoadTiles + lane;
      u32 loaded[4];
      ldmatrix(loaded, key_tile + step / kColumnSteps * Layout::kKvColumnBytes + token * Layout::kKvRowBytes +
                           Layout::template swizzled<Layout::kKvRowBytes>(step % kColumnSteps, token) * 16);
      key_operands(key, loaded);
    };
    if constexpr (Rotary::kApart) {
#pragma unroll
      for (int j = 0; j < kBlockTokens / (8 * kLoadTiles); j++) {
        Operands key[kQuerySteps];
#pragma unroll
        for (int k = 0; k < Rotary::kSteps; k++) load_keys(key[k], k, j);
#pragma unroll
        for (int k = 0; k < kQuerySteps; k++) {
          if (k >= Rotary::kSteps) load_keys(key[k], k, j);
          u32 query[kSlabs][4];
#pragma unroll
          for (int m = 0; m < kSlabs; m++) load_query(query[m], k, m);
#pragma unroll
          for (int i = 0; i < kLoadTiles; i++) {
            u32 turned[2] = {key[k][i][0], key[k][i][1]};
#pragma unroll
            for (int half = 0; half < 2 && k < Rotary::kSteps; half++) {
              turned[half] =
                  Rotary::template turned<MathElement>([&](int step, int of) { return key[step][i][of]; }, k, half,
                                                       anew(lane & 3), position + (j * kLoadTiles + i) * 8, angles);
            }
#pragma unroll
            for (int m = 0; m < kSlabs; m++) multiply(s[m], kLoadTiles * j + i, query[m], turned);
          }
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < kQuerySteps; k++) {
        if (Rotary::is_second(k)) continue;
        const int steps[2] = {k, Rotary::second_of(k)};
        const bool alone = steps[1] == k;
        u32 query[2][kSlabs][4];
#pragma unroll
        for (int m = 0; m < kSlabs; m++) {
#pragma unroll
          for (int i = 0; i < (alone ? 1 : 2); i++) load_query(query[i][m], steps[i], m);
        }
#pragma unroll
        for (int j = 0; j < kBlockTokens / (8 * kLoadTiles); j++) {
          Operands key[2];
#pragma unroll
          for (int i = 0; i < (alone ? 1 : 2); i++) load_keys(key[i], steps[i], j);
#pragma unroll
          for (int i = 0; i < kLoadTiles; i++) {
#pragma unroll
            for (int half = 0; half < 2 && k < Rotary::kSteps; half++) {
              Rotary::template turn<MathElement>(key[0][i][half], key[alone ? 0 : 1][i][half], k, half, anew(lane & 3),
                                                 position + (j * kLoadTiles + i) * 8, angles);
            }
#pragma unroll
            for (int m = 0; m < kSlabs; m++) {
              multiply(s[m], kLoadTiles * j + i, query[0][m], key[0][i]);
              if (!alone) multiply(s[m], kLoadTiles * j + i, query[1][m], key[1][i]);
            }
          }
        }
      }
    }
  }

  // The scores' fragments are P's as operands.
  static __device__ __forceinline__ void round_probabilities(u32 (&p)[kBlockTokens / 16][4],
                                                             const float (&s)[kBlockTokens / 2]) {
#pragma unroll
    for (int k = 0; k < kBlockTokens / 16; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) p[k][i] = MathElement::pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
  }

  static __device__ __forceinline__ void rescale(float (&o)[kValueDim / 2], float2 factor) {
#pragma unroll
    for (int j = 0; j < kValueDim / 8; j++) {
      o[4 * j] *= factor.x;
      o[4 * j + 1] *= factor.x;
      o[4 * j + 2] *= factor.y;
      o[4 * j + 3] *= factor.y;
    }
  }

  // O += P V.
  static __device__ __forceinline__ void multiply_values(float (&o)[kSlabs][kValueDim / 2],
                                                         const u32 (&p)[kSlabs][kBlockTokens / 16][4], u32 value_tile) {
    const int lane = Layout::thread_index() % 32;
    // Matrices of a transposed V load: 8 tokens, the next 8, both of chunk 0, then of chunk 1.
    const int token = lane & 15;
    const u32 values = value_tile + token * Layout::kKvRowBytes;
    const u32 swizzle = Layout::template swizzled<Layout::kKvRowBytes>(lane >> 4, token) * 16;
    constexpr int kColumnLoads = Layout::kKvRowChunks / 2;
#pragma unroll
    for (int k = 0; k < kBlockTokens / 16; k++) {
#pragma unroll
      for (int j = 0; j < kValueDim / (8 * kLoadTiles); j++) {
        u32 loaded[4];
        ldmatrix_transposed(loaded, values + j / kColumnLoads * Layout::kKvColumnBytes + k * 16 * Layout::kKvRowBytes +
                                        (swizzle ^ j % kColumnLoads * 32));
        Operands value;
        value_operands(value, loaded);
#pragma unroll
        for (int i = 0; i < kLoadTiles; i++) {
#pragma unroll
          for (int m = 0; m < kSlabs; m++) multiply(o[m], kLoadTiles * j + i, p[m][k], value[i]);
        }
      }
    }
  }

 private:
  // Several tiles of B, 16 x 8 each, from what ldmatrix brought.
  using Operands = u32[kLoadTiles][2];

  static __device__ __forceinline__ void key_operands(Operands& b, const u32 (&a)[4]) {
#pragma unroll
    for (int i = 0; i < kLoadTiles; i++) {
      if constexpr (Shape::kQuantised) {
        b[i][0] = KvElement::widen_low(a[i]);
        b[i][1] = KvElement::widen_high(a[i]);
      } else {
        b[i][0] = a[2 * i];
        b[i][1] = a[2 * i + 1];
      }
    }
  }

  static __device__ __forceinline__ void value_operands(Operands& b, const u32 (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if constexpr (Shape::kQuantised) {  // two tokens of two neighbours become two neighbours of two tokens
        const u32 first = __byte_perm(a[2 * i], 0, 0x3120), last = __byte_perm(a[2 * i + 1], 0, 0x3120);
        b[2 * i][0] = KvElement::widen_low(first);
        b[2 * i + 1][0] = KvElement::widen_high(first);
        b[2 * i][1] = KvElement::widen_low(last);
        b[2 * i + 1][1] = KvElement::widen_high(last);
      } else {
        b[i][0] = a[2 * i];
        b[i][1] = a[2 * i + 1];
      }
    }
  }

  // Accumulator j of a row of them.
  template <int N>
  static __device__ __forceinline__ void multiply(float (&d)[N], int j, const u32 (&a)[4], const u32 (&b)[2]) {
    float(&part)[4] = *reinterpret_cast<float(*)[4]>(d + 4 * j);
    MathElement::mma(part, a, b[0], b[1]);
  }
};

}  // namespace flashinfer
