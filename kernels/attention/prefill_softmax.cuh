// The online softmax over a slab of 16 query rows, whose scores lie as accumulators of mma and wgmma do: thread l holds,
// of rows l / 4 and l / 4 + 8, columns 8 j + 2 (l % 4) and the next, in s[4 j + 0, 1] and s[4 j + 2, 3].
#pragma once

#include "attention/variant.cuh"
#include "core/ptx.cuh"
#include "core/types.cuh"

namespace flashinfer {

// Scores s of a variant that bends them, where its cubic is right: the logit of base 2 is factor s (s^2 + shift). Beside products of
// warpgroups a square is as cheap as a product, other sums of products are dearer; and squares tell whether scores are small, where there
// are registers for all of a step's.
template <bool kBySquares, bool kClamps = false>
struct SmallScores {
  float factor;
  float shift;
  float reach;  // scores to one of the cubic's x; no number where none are to count as small

  // A score times unit is the cubic's x; scale turns what becomes of it into a logit of base 2.
  __device__ __forceinline__ void set(const Cubic& cubic, float unit, float scale) {
    const bool fits = unit > 0x1p-20f && unit < 0x1p20f;
    reach = fits ? __fdividef(1.f, unit) : __int_as_float(0x7fffffff);
    factor = unit * unit * unit * scale * cubic.third;
    shift = cubic.first / cubic.third * reach * reach;
  }

  __device__ __forceinline__ float bend(float score) const { return __fmaf_rn(score, score, shift); }

  // What `cover` compares with, for scores that are not to be more than `most` either way.
  __device__ __forceinline__ float bound(float most) const {
    return !kBySquares ? most : most > 0.f ? bend(most) : negative_infinity();
  }

  // Whether all of the warp's scores are within the bound. Small ones are bent to below 0: as integers such numbers come in reverse
  // order, and before them all others, infinity and no number among them. Of magnitudes the sum of two is looked at: that takes fewer instructions.
  template <int N>
  __device__ __forceinline__ bool cover(const float (&s)[N], float bound) const {
    if constexpr (kBySquares) {
      u32 seen = __float_as_uint(bound);
#pragma unroll
      for (int i = 0; i < N; i += 2) {
        seen = ::min(::min(__float_as_uint(bend(s[i])), __float_as_uint(bend(s[i + 1]))), seen);
      }
      return __all_sync(~0u, seen == __float_as_uint(bound));
    } else {
      int seen = 0;
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        const float a = fabsf(s[i]) + fabsf(s[i + 1]), b = fabsf(s[i + 2]) + fabsf(s[i + 3]);
        seen = ::max(::max(__float_as_int(a), __float_as_int(b)), seen);
      }
      return __all_sync(~0u, __int_as_float(seen) <= bound);
    }
  }
};

// The same for queries that were multiplied by a power of 2: s (third min(s^2, 1) + first), where the minimum is a modifier of the product. The
// power puts it where x is between 0.6 and 1.2, so that a score of which the cubic is wrong weighs more than any other, or next to nothing:
// sums of weights tell, and no score has to be looked at.
template <>
struct SmallScores<true, true> {
  float first;
  float third;
  float query = 1.f;  // the power
  float least;        // a sum of 16 weights to which those that are wrong add 2^-13 of it at most
  float most;         // the largest weight that is right; below 0 where no scores are to count as small

  __device__ __forceinline__ void set(const Cubic& cubic, float unit, float scale) {
    const int exponent = __float_as_int(unit * (1.f / 0.6f)) & 0x7f800000;
    const float largest = cubic.most * (cubic.first + cubic.third * cubic.most * cubic.most) * scale;
    const bool fits = unit > 0x1p-20f && unit < 0.5f && largest > 6.f;
    query = fits ? __int_as_float(exponent) : 1.f;
    const float x = unit * inverse();
    first = cubic.first * x * scale;
    third = cubic.third * x * x * x * scale;
    most = fits ? exp2_fast(largest) : -1.f;
    least = exp2_fast(8.f - largest);
  }

  __device__ __forceinline__ float inverse() const { return __int_as_float((254 << 23) - __float_as_int(query)); }
  __device__ __forceinline__ bool fits() const { return most > 0.f; }
  __device__ __forceinline__ float logit(float score) const {
    return score * __fmaf_rn(__saturatef(score * score), third, first);
  }
  __device__ __forceinline__ bool cover(float2 sums) const {
    return sums.x <= most && sums.y <= most && sums.x >= least && sums.y >= least;
  }
};

struct PrefillSoftmax {
  // Of the two rows. The maximum, of scores before scaling, is one for the quad of threads that share a row and may lag
  // behind the true one by 2^8; the sum is this thread's share.
  float max[2];
  float sum[2];

  __device__ __forceinline__ void clear(float lowest = negative_infinity()) {
    max[0] = max[1] = lowest;
    sum[0] = sum[1] = 0.f;
  }

  // Hides what lies at or behind the limits, which count columns of the block, from the two rows.
  template <int N>
  static __device__ __forceinline__ void mask(float (&s)[N], int limit0, int limit1, int lane) {
    limit0 -= (lane & 3) * 2;
    limit1 -= (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        if (j * 8 + e >= limit0) s[4 * j + e] = negative_infinity();
        if (j * 8 + e >= limit1) s[4 * j + 2 + e] = negative_infinity();
      }
    }
  }

  // Whether maxima of this warp's rows rose, and the factors for what was summed before if so. They stand still unless a score rises
  // 2^8 above one: on the common path there is no shuffle and nothing to rescale, only a vote. height: what all of the rows'
  // scores lack.
  template <int N>
  __device__ __forceinline__ bool raise(const float (&s)[N], float scale, float slack, float2& factor,
                                        float2 height = make_float2(0.f, 0.f)) {
#if __CUDA_ARCH__ >= 900
    // As integers three numbers are compared at once, and come in order as far as they are not below 0: enough to see that none
    // is above a bound that is not. From -1 on, which is above all bounds below 0.
    int seen0 = -1, seen1 = -1;
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
      seen0 = ::max(::max(__float_as_int(s[4 * j]), __float_as_int(s[4 * j + 1])), seen0);
      seen1 = ::max(::max(__float_as_int(s[4 * j + 2]), __float_as_int(s[4 * j + 3])), seen1);
    }
    const float bound0 = max[0] - height.x + slack, bound1 = max[1] - height.y + slack;
    if (!__any_sync(~0u, seen0 > __float_as_int(bound0) || seen1 > __float_as_int(bound1))) return false;
#endif
    const float low0 = anew(max[0]) - height.x, low1 = anew(max[1]) - height.y;
    float high0 = low0, high1 = low1;
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
      high0 = fmaxf(high0, fmaxf(s[4 * j], s[4 * j + 1]));
      high1 = fmaxf(high1, fmaxf(s[4 * j + 2], s[4 * j + 3]));
    }
    if (!__any_sync(~0u, high0 > low0 + slack || high1 > low1 + slack)) return false;
    high0 = fmaxf(high0 + height.x, max[0]);
    high1 = fmaxf(high1 + height.y, max[1]);
#pragma unroll
    for (int step = 1; step < 4; step <<= 1) {
      high0 = fmaxf(high0, __shfl_xor_sync(~0u, high0, step));
      high1 = fmaxf(high1, __shfl_xor_sync(~0u, high1, step));
    }
    // exp2(0) would do when the maximum stood still, but -inf - -inf is NaN.
    factor.x = high0 != max[0] ? exp2_fast((max[0] - high0) * scale) : 1.f;
    factor.y = high1 != max[1] ? exp2_fast((max[1] - high1) * scale) : 1.f;
    max[0] = high0;
    max[1] = high1;
    sum[0] *= factor.x;
    sum[1] *= factor.y;
    return true;
  }

  // Then: turns scores into exp2(scale * (score - max)). masked: a row may have seen nothing so far.
  template <int N>
  __device__ __forceinline__ void weigh(float (&s)[N], float scale, bool masked,
                                        float2 height = make_float2(0.f, 0.f)) {
    float base0 = (max[0] - height.x) * scale, base1 = (max[1] - height.y) * scale;
    if (masked) {
      if (max[0] == negative_infinity()) base0 = 0.f;
      if (max[1] == negative_infinity()) base1 = 0.f;
    }
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
      s[4 * j] = exp2_fast(__fmaf_rn(s[4 * j], scale, -base0));
      s[4 * j + 1] = exp2_fast(__fmaf_rn(s[4 * j + 1], scale, -base0));
      s[4 * j + 2] = exp2_fast(__fmaf_rn(s[4 * j + 2], scale, -base1));
      s[4 * j + 3] = exp2_fast(__fmaf_rn(s[4 * j + 3], scale, -base1));
      sum[0] += s[4 * j] + s[4 * j + 1];
      sum[1] += s[4 * j + 2] + s[4 * j + 3];
    }
  }

  // Instead of a variant's transform, raise and weigh, for scores [from, to) that are small; without maxima where they stand at 0.
  template <bool kHasMaxima, typename Small, int N>
  __device__ __forceinline__ void weigh_small(float (&s)[N], int from, int to, float scale, const Small& small) {
    const float base0 = max[0] * scale, base1 = max[1] * scale;
#pragma unroll
    for (int i = from; i < to; i++) {
      const float line = s[i] * small.factor, bend = small.bend(s[i]);
      s[i] = exp2_fast(kHasMaxima ? __fmaf_rn(line, bend, i / 2 % 2 == 0 ? -base0 : -base1) : line * bend);
    }
#pragma unroll
    for (int i = from; i < to; i += 4) {
      sum[0] += s[i] + s[i + 1];
      sum[1] += s[i + 2] + s[i + 3];
    }
  }

  // The same where they are clamped, of a block that may not turn out to be small: scores stay, and sums are the block's.
  template <typename Small, int N>
  static __device__ __forceinline__ void weigh_clamped(float (&weights)[N], float2& sums, const float (&s)[N], int from,
                                                       int to, const Small& small) {
#pragma unroll
    for (int i = from; i < to; i++) weights[i] = exp2_fast(small.logit(s[i]));
#pragma unroll
    for (int i = from; i < to; i += 4) {
      const float a = weights[i] + weights[i + 1], b = weights[i + 2] + weights[i + 3];
      sums.x = i == 0 ? a : sums.x + a;
      sums.y = i == 0 ? b : sums.y + b;
    }
  }

  // Sums over the quad; at the end.
  __device__ __forceinline__ void gather() {
#pragma unroll
    for (int step = 1; step < 4; step <<= 1) {
      sum[0] += __shfl_xor_sync(~0u, sum[0], step);
      sum[1] += __shfl_xor_sync(~0u, sum[1], step);
    }
  }

  // After gather: a logit without a value, in base 2, joins row r's softmax. One that towers above all others, or is alone, weighs
  // 2^120, which leaves nothing of them; the row's log-sum-exp is no less than it.
  __device__ __forceinline__ void join(int r, float sink, float scale) {
    sum[r] += exp2_fast(fminf(sink - max[r] * scale, 120.f));
  }

  // After gather: what normalises row r's output, 0 for a row that saw nothing; and its base-2 log-sum-exp.
  __device__ __forceinline__ float inverse(int r) const { return sum[r] > 0.f ? __fdividef(1.f, sum[r]) : 0.f; }
  __device__ __forceinline__ float lse(int r, float scale) const {
    return sum[r] > 0.f ? max[r] * scale + __log2f(sum[r]) : negative_infinity();
  }
};

}  // namespace flashinfer
