// The mathematics of one warp, with swapped operands so that N = 8 query heads of one KV head waste nothing at group 8
// (mma.sync m16n8k16):
//   S^T [16 tokens x 8 heads] = K tile (A, ldmatrix) x Q^T (B, registers, loaded once per unit)
//   P^T = exp2(S^T * scale - running max), turned from accumulator to B layout by two movmatrix
//   O^T [headDim x 8 heads] += V^T (A, ldmatrix.trans) x P^T
#pragma once

#include "attention/decode_work.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// Q of one unit as B operands; lane = 4 * head + column.
template <typename Shape>
struct QueryFragments {
  u32 at[Shape::kHeadDim / 16][2];

  // Columns beyond the unit's heads repeat its last one: a column's results depend on nothing else, and nobody reads
  // them.
  __device__ __forceinline__ void load(const DecodeParams& params, const DecodeUnit<Shape>& unit, int lane) {
    const int head = unit.first_head() + min(lane >> 2, unit.heads() - 1);
    const i64 offset = unit.valid ? unit.item.row * params.query_row_stride + head * params.query_head_stride : 0;
    const u16* source = params.query + offset + (lane & 3) * 2;
#pragma unroll
    for (int k = 0; k < Shape::kHeadDim / 16; k++) {
      at[k][0] = load_volatile(source + k * 16);
      at[k][1] = load_volatile(source + k * 16 + 8);
    }
  }

 private:
  // The query comes from the kernel before: the compiler must not lift its loads over wait_for_dependency.
  static __device__ __forceinline__ u32 load_volatile(const u16* p) {
    u32 v;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
  }
};

// The online softmax of one warp: O^T of its tokens and, for heads 2c and 2c + 1 of lane column c, max and sum.
template <typename Shape>
struct DecodeAccumulator {
  using Element = typename Shape::Element;
  static constexpr int kSteps = Shape::kHeadDim / 16;
  static constexpr int kColumnBytes = Shape::kTileTokens * 128;

  float o[kSteps][4];
  float max[2];
  float sum[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
    }
    max[0] = max[1] = negative_infinity();
    sum[0] = sum[1] = 0.f;
  }

  // Takes in the tile in shared memory, of which the first `left` tokens count.
  __device__ __forceinline__ void attend(u32 stage, const QueryFragments<Shape>& q, int left, float scale, int lane) {
    const u32 key = stage + (lane & 15) * 128;
    const u32 key_swizzle = ((lane >> 4) ^ (lane & 7)) << 4;
    float s[2][4] = {};  // two chains hide the latency of the instruction
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
      u32 a[4];
      ldmatrix(a, key + (k >> 2) * kColumnBytes + (key_swizzle ^ ((k & 3) << 5)));
      Element::mma(s[k & 1], a, q.at[k][0], q.at[k][1]);
    }
    // x[0], x[1]: token lane / 4, heads 2c and 2c + 1; x[2], x[3]: token lane / 4 + 8.
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = (s[0][i] + s[1][i]) * scale;
    const int token = lane >> 2;
    if (token >= left) x[0] = x[1] = negative_infinity();
    if (token + 8 >= left) x[2] = x[3] = negative_infinity();

    float high[2] = {fmaxf(x[0], x[2]), fmaxf(x[1], x[3])};
#pragma unroll
    for (int step = 4; step < 32; step <<= 1) {
      high[0] = fmaxf(high[0], __shfl_xor_sync(~0u, high[0], step));
      high[1] = fmaxf(high[1], __shfl_xor_sync(~0u, high[1], step));
    }
    if (__any_sync(~0u, high[0] > max[0] || high[1] > max[1])) rescale(high);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = exp2_fast(x[i] - max[i & 1]);
    sum[0] += x[0] + x[2];
    sum[1] += x[1] + x[3];
    const u32 p0 = transpose_fragment(Element::pack(x[0], x[1]));
    const u32 p1 = transpose_fragment(Element::pack(x[2], x[3]));

    const u32 value = stage + Shape::kTileBytes + ((lane & 7) + ((lane >> 4) << 3)) * 128;
    const u32 value_swizzle = (((lane >> 3) & 1) ^ (lane & 7)) << 4;
    const bool clears = Shape::kTensorCopy && left < Shape::kTileTokens;
    const u32 low = pair_mask(left, (lane & 3) * 2), high_mask = pair_mask(left, (lane & 3) * 2 + 8);
#pragma unroll
    for (int d = 0; d < kSteps; d++) {
      u32 a[4];
      ldmatrix_transposed(a, value + (d >> 2) * kColumnBytes + (value_swizzle ^ ((d & 3) << 5)));
      if (clears) {  // a box brings whole pages: what lies behind the end may be NaN, and 0 * NaN is NaN
        a[0] &= low;
        a[1] &= low;
        a[2] &= high_mask;
        a[3] &= high_mask;
      }
      Element::mma(o[d], a, p0, p1);
    }
  }

  // The sums of all lanes; then puts O, max and sum where the block merges them.
  __device__ __forceinline__ void store(float* merge, float2* state, int heads, int lane) {
#pragma unroll
    for (int step = 4; step < 32; step <<= 1) {
      sum[0] += __shfl_xor_sync(~0u, sum[0], step);
      sum[1] += __shfl_xor_sync(~0u, sum[1], step);
    }
    const int row = lane >> 2, head = (lane & 3) * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (head + h < heads) {
        float* target = merge + (head + h) * Shape::kMergeRow + row;
#pragma unroll
        for (int d = 0; d < kSteps; d++) {
          target[d * 16] = o[d][h];
          target[d * 16 + 8] = o[d][h + 2];
        }
      }
      if (row == 0) state[head + h] = make_float2(max[h], sum[h]);
    }
  }

 private:
  // Keeps of the elements for tokens t and t + 1 those that stand before the end.
  static __device__ __forceinline__ u32 pair_mask(int left, int t) {
    return (t < left ? 0x0000ffffu : 0u) | (t + 1 < left ? 0xffff0000u : 0u);
  }

  __device__ __forceinline__ void rescale(const float (&high)[2]) {
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float raised = fmaxf(max[h], high[h]);
      factor[h] = exp2_fast(max[h] - raised);  // 0 at the first tile: the old maximum is -inf
      max[h] = raised;
      sum[h] *= factor[h];
    }
#pragma unroll
    for (int d = 0; d < kSteps; d++) {
      o[d][0] *= factor[0];
      o[d][1] *= factor[1];
      o[d][2] *= factor[0];
      o[d][3] *= factor[1];
    }
  }
};

}  // namespace flashinfer
