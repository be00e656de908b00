// The mathematics of one warp, with swapped operands so that N = 8 columns waste nothing at group 8 (mma.sync m16n8k16):
//   S^T [16 tokens x 8 columns] = K tile (A, ldmatrix) x Q^T (B, registers, loaded once per unit)
//   P^T = exp2(S^T * scale - running max), turned from accumulator to B layout by two movmatrix
//   O^T [headDim x 8 columns] += V^T (A, ldmatrix.trans) x P^T
// A warp does this for kWarpTiles tiles of columns, reading K and V once.
#pragma once

#include "attention/decode_query.cuh"

namespace flashinfer {

// The online softmax of one warp: O^T of its tokens and, for columns 2c and 2c + 1 of lane column c, max and sum.
template <typename Shape>
struct DecodeAccumulator {
  using MathElement = typename Shape::MathElement;
  using Hooks = typename Shape::Hooks;
  using Fragments = KvFragments<Shape>;
  static constexpr int kTiles = Shape::kWarpTiles;
  static constexpr int kHeadTiles = Shape::kHeadTiles;
  static constexpr int kSteps = Shape::kHeadDim / 16;
  static constexpr int kSlabs = Shape::kSlabs;
  // Two chains of products hide the latency of the instruction, where there are registers for two.
  static constexpr int kChains = kTiles == 1 && (Shape::kKeepsQuery || !Hooks::kRotates) ? 2 : 1;

  float o[kTiles][kSteps][4];
  float max[kTiles][2];
  float sum[kTiles][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int i = 0; i < kSteps; i++) {
        o[tile][i][0] = o[tile][i][1] = o[tile][i][2] = o[tile][i][3] = 0.f;
      }
      max[tile][0] = max[tile][1] = negative_infinity();
      sum[tile][0] = sum[tile][1] = 0.f;
    }
  }

  // Takes in the tile in shared memory, which starts at token `begin` and ends before `end`.
  __device__ __forceinline__ void attend(u32 stage, const QueryFragments<Shape>& q, int begin, int end, int lane) {
    const int left = end - begin;
    // x[0], x[1]: token lane / 4 of the slab, columns 2c and 2c + 1; x[2], x[3]: token lane / 4 + 8.
    float x[kSlabs][kTiles][4] = {};
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
      if (is_empty(slab, left)) continue;
      float s[kTiles][kChains][4] = {};
      if constexpr (Hooks::kRotates) {
        const int first = begin + slab * Shape::kSlabTokens - missing_rows(slab, left);
        if constexpr (DecodeRotary<Shape>::Rotary::kApart) {
          multiply_apart(s, stage + slab * Shape::kSlabBytes, q, first, lane);
        } else {
          multiply_turned(s, stage + slab * Shape::kSlabBytes, q, first, lane);
        }
      } else {
        multiply(s, stage + slab * Shape::kSlabBytes, q, lane);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          x[slab][tile][i] =
              (kChains == 2 ? s[tile][0][i] + s[tile][kChains - 1][i] : s[tile][0][i]) * q.scale.at[tile / kHeadTiles];
        }
      }
    }
    if constexpr (Hooks::kShapes) {
      shape(x, q, begin, left, lane);
    } else if (Shape::kQueryTokens > 1 || left < Shape::kTileTokens) {
#pragma unroll
      for (int slab = 0; slab < kSlabs; slab++) {
        const int missing = missing_rows(slab, left);
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int row = (lane >> 2) + (i >> 1) * 8, token = begin + slab * Shape::kSlabTokens + row - missing;
            const int limit = Shape::kQueryTokens == 1 ? end : q.limit[tile][i & 1];
            if (row < missing || token >= limit) x[slab][tile][i] = negative_infinity();
          }
        }
      }
    }
    float high[kTiles][2];
    bool rises = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        high[tile][h] = fmaxf(x[0][tile][h], x[0][tile][h + 2]);
#pragma unroll
        for (int slab = 1; slab < kSlabs; slab++) {
          high[tile][h] = fmaxf(high[tile][h], fmaxf(x[slab][tile][h], x[slab][tile][h + 2]));
        }
#pragma unroll
        for (int step = 4; step < 32; step <<= 1) {
          high[tile][h] = fmaxf(high[tile][h], __shfl_xor_sync(~0u, high[tile][h], step));
        }
        rises |= high[tile][h] > max[tile][h];
      }
    }
    if (__any_sync(~0u, rises)) rescale(high);
    u32 p[kSlabs][kTiles][2];
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
        float(&y)[4] = x[slab][tile];
#pragma unroll
        for (int i = 0; i < 4; i++) y[i] = exp2_fast(y[i] - origin(max[tile][i & 1]));
        sum[tile][0] += y[0] + y[2];
        sum[tile][1] += y[1] + y[3];
        p[slab][tile][0] = transpose_fragment(MathElement::pack(y[0], y[1]));
        p[slab][tile][1] = transpose_fragment(MathElement::pack(y[2], y[3]));
      }
    }
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
      if (is_empty(slab, left)) continue;
#pragma unroll
      for (int step = 0; step < kSteps; step += Fragments::kSteps) {
#pragma unroll
        for (int head = 0; head < Shape::kUnitHeads; head++) {
          Fragments values;
          values.load_values(stage + Shape::kTileBytes + slab * Shape::kSlabBytes, head * kSteps + step, lane);
#pragma unroll
          for (int i = 0; i < Fragments::kSteps; i++) {
#pragma unroll
            for (int tile = head * kHeadTiles; tile < (head + 1) * kHeadTiles; tile++) {
              MathElement::mma(o[tile][step + i], values.at[i], p[slab][tile][0], p[slab][tile][1]);
            }
          }
        }
      }
    }
  }

  // The sums of all lanes; then puts O, max and sum of so many columns of each KV head where the crew merges them.
  __device__ __forceinline__ void store(float* output, float2* state, int columns, int lane) {
#pragma unroll
    for (int step = 4; step < 32; step <<= 1) {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
        for (int h = 0; h < 2; h++) sum[tile][h] += __shfl_xor_sync(~0u, sum[tile][h], step);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int in_head = tile % kHeadTiles * 8 + (lane & 3) * 2 + h;
        if (in_head < columns) {
          const int column = tile / kHeadTiles * Shape::kUnitHeadColumns + in_head;
          float* target = output + column * Shape::kMergeRow;
#pragma unroll
          for (int step = 0; step < kSteps; step++) {
            target[Fragments::output_element(step, 0, lane)] = o[tile][step][h];
            target[Fragments::output_element(step, 1, lane)] = o[tile][step][h + 2];
          }
          if (lane < 4) state[column] = make_float2(max[tile][h], sum[tile][h]);
        }
      }
    }
  }

 private:
  // S^T of a slab.
  static __device__ __forceinline__ void multiply(float (&s)[kTiles][kChains][4], u32 slab,
                                                  const QueryFragments<Shape>& q, int lane) {
#pragma unroll
    for (int step = 0; step < kSteps; step += Fragments::kSteps) {
#pragma unroll
      for (int head = 0; head < Shape::kUnitHeads; head++) {
        Fragments keys;
        keys.load_keys(slab, head * kSteps + step, lane);
#pragma unroll
        for (int i = 0; i < Fragments::kSteps; i++) multiply_step(s, keys.at[i], q, head, step + i, lane);
      }
    }
  }

  // The same with keys that turn, the slab's first at a position. The second step of a pair comes with its first.
  static __device__ __forceinline__ void multiply_turned(float (&s)[kTiles][kChains][4], u32 slab,
                                                         const QueryFragments<Shape>& q, int position, int lane) {
    using Rotary = typename DecodeRotary<Shape>::Rotary;
    constexpr int kAtOnce = Fragments::kSteps;
    // Angles stay in registers from tile to tile if there are any left.
    const int quad = kTiles * Shape::kHeadDim <= 128 ? lane & 3 : anew(lane & 3);
    Fragments keys[Shape::kUnitHeads][kSteps / kAtOnce];
    bool loaded[kSteps / kAtOnce] = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (Rotary::is_second(step)) continue;
      const int second = Rotary::second_of(step);
#pragma unroll
      for (int head = 0; head < Shape::kUnitHeads; head++) {
        Fragments(&of)[kSteps / kAtOnce] = keys[head];
        if (!loaded[step / kAtOnce]) of[step / kAtOnce].load_keys(slab, head * kSteps + step, lane);
        if (!loaded[second / kAtOnce] && second / kAtOnce != step / kAtOnce) {
          of[second / kAtOnce].load_keys(slab, head * kSteps + second / kAtOnce * kAtOnce, lane);
        }
        u32(&x)[4] = of[step / kAtOnce].at[step % kAtOnce], (&y)[4] = of[second / kAtOnce].at[second % kAtOnce];
        if (step < Rotary::kSteps) {
#pragma unroll
          for (int i = 0; i < 4; i++) {  // rows lane / 4 and 8 more, then those in the step's second half
            Rotary::template turn<MathElement>(x[i], y[i], step, i >> 1, quad, position + (lane >> 2) + (i & 1) * 8,
                                               q.angles);
          }
        }
        multiply_step(s, x, q, head, step, lane);
        if (second != step) multiply_step(s, y, q, head, second, lane);
      }
      loaded[step / kAtOnce] = loaded[second / kAtOnce] = true;
    }
  }

  // The same where the second elements of pairs are in other lanes: a head's steps that turn are all there before one of them does.
  static __device__ __forceinline__ void multiply_apart(float (&s)[kTiles][kChains][4], u32 slab,
                                                        const QueryFragments<Shape>& q, int position, int lane) {
    using Rotary = typename DecodeRotary<Shape>::Rotary;
    constexpr int kAtOnce = Fragments::kSteps, kTurning = round_up(Rotary::kSteps, kAtOnce);
#pragma unroll
    for (int head = 0; head < Shape::kUnitHeads; head++) {
      Fragments keys[kSteps / kAtOnce];
      const auto load = [&](int step) { keys[step / kAtOnce].load_keys(slab, head * kSteps + step, lane); };
      const auto at = [&](int step, int i) { return keys[step / kAtOnce].at[step % kAtOnce][i]; };
#pragma unroll
      for (int step = 0; step < kTurning; step += kAtOnce) load(step);
#pragma unroll
      for (int step = 0; step < kSteps; step++) {
        if (step >= kTurning && step % kAtOnce == 0) load(step);
        const int quad = anew(lane & 3);  // else angles would stay in registers that are not there
        u32 key[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {  // as above
          key[i] = step >= Rotary::kSteps ? at(step, i)
                                          : Rotary::template turned<MathElement>(
                                                [&](int of, int half) { return at(of, half * 2 + (i & 1)); }, step,
                                                i >> 1, quad, position + (lane >> 2) + (i & 1) * 8, q.angles);
        }
        multiply_step(s, key, q, head, step, lane);
      }
    }
  }

  static __device__ __forceinline__ void multiply_step(float (&s)[kTiles][kChains][4], const u32 (&keys)[4],
                                                       const QueryFragments<Shape>& q, int head, int step, int lane) {
#pragma unroll
    for (int tile = head * kHeadTiles; tile < (head + 1) * kHeadTiles; tile++) {
      u32 b[2];
      q.read(b, tile, step, lane);
      MathElement::mma(s[tile][step % kChains], keys, b[0], b[1]);
    }
  }

  // Rows before a slab's first token: a box of the copy engine ends where the sequence does.
  static __device__ __forceinline__ int missing_rows(int slab, int left) {
    return Shape::kTensorCopy ? ::max(0, (slab + 1) * Shape::kSlabTokens - left) : 0;
  }

  // What logits are taken from: with several query tokens, or a variant that hides some, a column may have seen no token
  // yet, and -inf minus -inf would be NaN.
  static __device__ __forceinline__ float origin(float high) {
    return (Shape::kQueryTokens == 1 && !Hooks::kShapes) || high > negative_infinity() ? high : 0.f;
  }

  // What a variant makes of the scores of a tile; those that a column does not see become -inf.
  static __device__ __forceinline__ void shape(float (&x)[kSlabs][kTiles][4], const QueryFragments<Shape>& q, int begin,
                                               int left, int lane) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
      const int missing = missing_rows(slab, left);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int row = (lane >> 2) + (i >> 1) * 8, token = begin + slab * Shape::kSlabTokens + row - missing;
          const bool sees = row >= missing && token < q.limit[tile][i & 1] && token >= q.first[tile][i & 1];
          LogitsContext at = q.place[tile][i & 1];
          at.kv_position = token;
          float& score = x[slab][tile][i];
          score = sees ? Hooks::shape(score, at, q.arguments) : negative_infinity();
          if constexpr (Hooks::kTransforms) score *= Hooks::kLog2E;
        }
      }
    }
  }

  // Whether a slab of the tile has no token: what lies there may be anything.
  static __device__ __forceinline__ bool is_empty(int slab, int left) {
    return slab > 0 && left <= slab * Shape::kSlabTokens;
  }

  __device__ __forceinline__ void rescale(const float (&high)[kTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
      float factor[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float raised = fmaxf(max[tile][h], high[tile][h]);
        factor[h] = exp2_fast(max[tile][h] - origin(raised));  // 0 at the first tile: the old maximum is -inf
        max[tile][h] = raised;
        sum[tile][h] *= factor[h];
      }
#pragma unroll
      for (int d = 0; d < kSteps; d++) {
        o[tile][d][0] *= factor[0];
        o[tile][d][1] *= factor[1];
        o[tile][d][2] *= factor[0];
        o[tile][d][3] *= factor[1];
      }
    }
  }
};

}  // namespace flashinfer
