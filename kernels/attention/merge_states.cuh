// States of attention over different tokens, (output, LSE) as any of our kernels leave them, become the state over all of them.
// Any sm_80 or later; heads and headDim are arguments, so that one unit serves every configuration of its element type.
//
// Grid: any number of blocks; a block takes as many pairs (row, head) as it has room for, and those a grid further on.
// Block: kThreads threads, of which as many work as hold whole pairs, a thread for each 16 bytes of a head. No shared memory.
// One barrier a round: the result may take the place of the first state, and a pair's LSE is then read by all of its threads
// before one of them writes it.
#pragma once

#include "attention/merged_state.cuh"
#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// 16 bytes of a state as floats, and back.
template <typename Element>
struct StateChunk {
  static constexpr int kElements = 8;

  static __device__ __forceinline__ FloatVector<8> widen(uint4 packed) {
    const float2 a = Element::unpack(packed.x), b = Element::unpack(packed.y), c = Element::unpack(packed.z),
                 d = Element::unpack(packed.w);
    return {a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y};
  }
  static __device__ __forceinline__ uint4 narrow(const FloatVector<8>& v) {
    return make_uint4(Element::pack(v.at[0], v.at[1]), Element::pack(v.at[2], v.at[3]), Element::pack(v.at[4], v.at[5]),
                      Element::pack(v.at[6], v.at[7]));
  }
};

template <>
struct StateChunk<Float32> {
  static constexpr int kElements = 4;

  static __device__ __forceinline__ FloatVector<4> widen(uint4 packed) {
    return {__uint_as_float(packed.x), __uint_as_float(packed.y), __uint_as_float(packed.z), __uint_as_float(packed.w)};
  }
  static __device__ __forceinline__ uint4 narrow(const FloatVector<4>& v) {
    return make_uint4(__float_as_uint(v.at[0]), __float_as_uint(v.at[1]), __float_as_uint(v.at[2]),
                      __float_as_uint(v.at[3]));
  }
};

template <typename Config>
struct MergeStates {
  using Element = typename Config::Element;
  using Chunk = StateChunk<Element>;

  // A head of 1,024 elements is one pair of a block. Warps for loads under way: more work a thread, and fewer of them, lost on
  // an H100 (two pairs 3 %, four 25 %).
  static constexpr int kThreads = 1024 / Chunk::kElements;
  static constexpr int kBlocksPerSm = 1536 / kThreads;

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion, sizeof(MergeStatesParams), kThreads, 0, kBlocksPerSm, 1, 0, 0, 1, 1};
  }

  static __device__ __forceinline__ void run(const MergeStatesParams& params) {
    launch_dependents();
    const int chunks = params.head_dim / Chunk::kElements;
    const int pairs = kThreads / chunks;  // that the block works on side by side
    const int mine = threadIdx.x / chunks, element = threadIdx.x % chunks * Chunk::kElements;
    const u32 total = static_cast<u32>(params.rows) * params.heads;
    wait_for_dependency();
    for (u32 start = blockIdx.x * pairs; start < total; start += gridDim.x * pairs) {
      const u32 at = start + mine;
      const Pair pair = {at / params.heads, at % params.heads};
      const bool lives = mine < pairs && at < total && (params.mask == nullptr || params.mask[pair.row] != 0);
      MergedState<Chunk::kElements> merged;
      if (lives) {
        const Range range = states(params, pair.row);
        if (range.others >= 0) {
          // The next state is on its way while this one is added.
          State now = first(params, range, pair.head, element);
#pragma unroll 1
          for (int k = 0; k < range.others; k++) {
            const State next = other(params, range, pair.head, element, k);
            add(merged, now);
            now = next;
          }
          add(merged, now);
        }
      }
      __syncthreads();  // all threads of a pair have read the LSE of its first state
      if (lives) store(params, pair, element, merged);
    }
  }

 private:
  struct Pair {
    i64 row;
    i64 head;
  };

  // What a row merges: the state at `first`, and so many behind it; none if below 0.
  struct Range {
    i64 first;
    int others;
  };

  struct State {
    uint4 output;
    float lse;
  };

  // Whatever indptr holds, nothing outside the states is read.
  static __device__ __forceinline__ Range states(const MergeStatesParams& params, i64 row) {
    if (params.indptr != nullptr) {
      const int begin = max(params.indptr[row], 0), end = min(params.indptr[row + 1], params.others);
      return {begin, end - begin - 1};
    }
    return {row, params.others};
  }

  static __device__ __forceinline__ State first(const MergeStatesParams& params, const Range& range, i64 head,
                                                int element) {
    return {load(params.first, range.first * params.first_row_stride + head * params.first_head_stride + element),
            params.first_lse[range.first * params.first_lse_row_stride + head * params.first_lse_head_stride]};
  }

  static __device__ __forceinline__ State other(const MergeStatesParams& params, const Range& range, i64 head,
                                                int element, int k) {
    return {load(params.other, range.first * params.other_row_stride + k * params.other_state_stride +
                                   head * params.other_head_stride + element),
            params.other_lse[range.first * params.other_lse_row_stride + k * params.other_lse_state_stride +
                             head * params.other_lse_head_stride]};
  }

  static __device__ __forceinline__ uint4 load(const u8* base, i64 element) {
    return *reinterpret_cast<const uint4*>(base + element * Element::kBytes);
  }

  // The state of no token weighs nothing, whatever lies there: it may never have been written.
  static __device__ __forceinline__ void add(MergedState<Chunk::kElements>& merged, const State& state) {
    if (state.lse == negative_infinity()) return;
    merged.raise(state.lse);
    merged.add(make_float2(state.lse, 1.f), Chunk::widen(state.output));
  }

  // Nothing but empty states give 0 and -inf.
  static __device__ __forceinline__ void store(const MergeStatesParams& params, const Pair& pair, int element,
                                               MergedState<Chunk::kElements>& merged) {
    const float inverse = merged.sum > 0.f ? reciprocal(merged.sum) : merged.sum;
#pragma unroll
    for (int e = 0; e < Chunk::kElements; e++) merged.o.at[e] *= inverse;
    const i64 to = pair.row * params.output_row_stride + pair.head * params.output_head_stride + element;
    *reinterpret_cast<uint4*>(params.output + to * Element::kBytes) = Chunk::narrow(merged.o);
    if (params.lse != nullptr && element == 0) {
      params.lse[pair.row * params.lse_row_stride + pair.head * params.lse_head_stride] =
          merged.sum == 0.f ? negative_infinity() : merged.max + __log2f(merged.sum);
    }
  }
};

}  // namespace flashinfer
