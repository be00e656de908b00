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

  // The same with 8-bit keys that turn in registers, the first of them at a position: of all tokens at once, by steps that turn together.
  template <typename Arguments>
  static __device__ __forceinline__ void multiply_turned_keys(float (&s)[kSlabs][kBlockTokens / 2], u32 query_tile,
                                                              u32 key_tile, int position, const Arguments& angles) {
    static_assert(kBlockTokens == 8 * kLoadTiles, "one load of a step has all tokens");
    using Rotary = flashinfer::Rotary<typename Shape::Variant, Shape::kHeadDim, Shape::kQuantised>;
    constexpr int kMost = Rotary::kApart ? Rotary::kSteps : 2;
    const int lane = Layout::thread_index() % 32, row = Layout::first_row(0) + (lane & 15);
    position += lane >> 2;
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
#pragma unroll
      for (int i = 0; i < kBlockTokens / 2; i++) s[m][i] = 0.f;
    }
#pragma unroll
    for (int k = 0; k < kQuerySteps; k++) {
      if (Rotary::turns_with_earlier(k)) continue;
      const int count = Rotary::together(k);
      Operands key[kMost];
#pragma unroll
      for (int n = 0; n < count; n++) {
        const int step = Rotary::step_of(k, n);
        u32 loaded[4];
        ldmatrix(loaded, key_tile + step / kColumnSteps * Layout::kKvColumnBytes + lane * Layout::kKvRowBytes +
                             Layout::template swizzled<Layout::kKvRowBytes>(step % kColumnSteps, lane) * 16);
        key_operands(key[n], loaded);
      }
#pragma unroll
      for (int i = 0; i < kLoadTiles; i++) {
#pragma unroll
        for (int half = 0; half < 2 && k < Rotary::kSteps; half++) {
          u32 x[kMost];
#pragma unroll
          for (int n = 0; n < count; n++) x[n] = key[n][i][half];
          Rotary::template turn_together<MathElement>(x, k, half, anew(lane & 3), position + i * 8, angles);
#pragma unroll
          for (int n = 0; n < count; n++) key[n][i][half] = x[n];
        }
      }
#pragma unroll
      for (int n = 0; n < count; n++) {
        const int step = Rotary::step_of(k, n);
#pragma unroll
        for (int m = 0; m < kSlabs; m++) {
          u32 query[4];
          ldmatrix(query, query_tile + step / kColumnSteps * Layout::kQueryColumnBytes +
                              (row + m * 16) * Shape::kRowBytes +
                              Shape::swizzled(step % kColumnSteps * 2 + (lane >> 4), row) * 16);
#pragma unroll
          for (int i = 0; i < kLoadTiles; i++) multiply(s[m], i, query, key[n][i]);
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
