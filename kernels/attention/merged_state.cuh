// Partial states of attention, (O, max, sum) over some of a sequence's tokens, becoming that of all.
#pragma once

#include "core/ptx.cuh"
#include "core/types.cuh"

namespace flashinfer {

// Several partial states becoming one, for N neighbouring outputs of one column.
template <int N>
struct MergedState {
  FloatVector<N> o = {};
  float max = negative_infinity();
  float sum = 0.f;

  // Scales what is there to a maximum that is at least its own.
  __device__ __forceinline__ void raise(float high) {
    const float raised = fmaxf(max, high);
    const float factor = exp2_fast(max - finite(raised));
    max = raised;
    sum *= factor;
#pragma unroll
    for (int e = 0; e < N; e++) o.at[e] *= factor;
  }

  // Adds a state whose maximum is not above this one's; an empty state has maximum -inf and adds nothing.
  __device__ __forceinline__ void add(float2 state, const FloatVector<N>& part) {
    const float factor = exp2_fast(state.x - finite(max));
    sum += factor * state.y;
#pragma unroll
    for (int e = 0; e < N; e++) o.at[e] += factor * part.at[e];
  }

  // A logit without a value, in base 2.
  __device__ __forceinline__ void join(float sink) {
    raise(sink);
    sum += exp2_fast(sink - finite(max));
  }

  // Base-2 log-sum-exp.
  __device__ __forceinline__ float lse() const { return sum > 0.f ? max + __log2f(sum) : negative_infinity(); }

  // -inf minus -inf would be NaN; -inf minus anything else is as empty as it should be.
  static __device__ __forceinline__ float finite(float high) { return high > negative_infinity() ? high : 0.f; }
};

}  // namespace flashinfer
