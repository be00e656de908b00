// From the partial states of warps, blocks and parts to the output.
//
// Inside a block: every warp puts O, max and sum into shared memory; after one barrier all threads merge them.
// Between the parts of a sequence: the partial state goes to the workspace, and the block that arrives last merges all
//   parts in part order (the same bits every time) and sets the counter back to zero (so that a captured graph can be
//   replayed).
// Between the blocks of a cluster: every block sends slice r of its partial O, and its max and sum, to block r with
//   st.async on an mbarrier there; each merges and writes its slice. No global traffic, no atomics. Two buffers in turn: a
//   block sends to the buffer that a peer used two units ago only after the peer's data of the last unit arrived, so no
//   further barrier is needed.
#pragma once

#include "attention/decode_work.cuh"
#include "core/hopper.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// Several partial states becoming one, for N neighbouring outputs of one head.
template <typename Shape, int N>
struct MergedState {
  float o[N] = {};
  float max = negative_infinity();
  float sum = 0.f;

  // Scales what is there to a maximum that is at least its own.
  __device__ __forceinline__ void raise(float high) {
    const float raised = fmaxf(max, high);
    const float factor = exp2_fast(max - finite(raised));
    max = raised;
    sum *= factor;
#pragma unroll
    for (int e = 0; e < N; e++) o[e] *= factor;
  }

  // Adds a state whose maximum is not above this one's; an empty state has maximum -inf and adds nothing.
  __device__ __forceinline__ void add(float2 state, const float (&part)[N]) {
    const float factor = exp2_fast(state.x - finite(max));
    sum += factor * state.y;
#pragma unroll
    for (int e = 0; e < N; e++) o[e] += factor * part[e];
  }

  // -inf minus -inf would be NaN; -inf minus anything else is as empty as it should be.
  static __device__ __forceinline__ float finite(float high) { return high > negative_infinity() ? high : 0.f; }

  // A sequence without tokens gives output 0 and LSE -inf.
  __device__ __forceinline__ void write(const DecodeParams& params, const DecodeUnit<Shape>& unit, int head,
                                        int d) const {
    using Element = typename Shape::Element;
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    const int query_head = unit.first_head() + head;
    u16* target = params.output + unit.item.row * params.output_row_stride + query_head * params.output_head_stride + d;
    if constexpr (N == 4) {
      *reinterpret_cast<uint2*>(target) =
          make_uint2(Element::pack(o[0] * inverse, o[1] * inverse), Element::pack(o[2] * inverse, o[3] * inverse));
    } else if constexpr (N == 2) {
      *reinterpret_cast<u32*>(target) = Element::pack(o[0] * inverse, o[1] * inverse);
    } else {
      *target = static_cast<u16>(Element::pack(o[0] * inverse, 0.f));
    }
    if (params.lse && d == 0) {
      params.lse[static_cast<i64>(unit.item.row) * Shape::kHeads + query_head] =
          sum > 0.f ? max + __log2f(sum) : negative_infinity();
    }
  }
};

template <typename Shape>
struct DecodeMerge {
  using Unit = DecodeUnit<Shape>;
  using State = MergedState<Shape, Shape::kVector>;

  static constexpr int kWarps = Shape::kWarps;
  static constexpr int kVector = Shape::kVector;

  const DecodeParams& params;
  unsigned char* shared;
  u32 exchanges = 0;  // cluster exchanges so far: which buffer, which phase

  __device__ __forceinline__ DecodeMerge(const DecodeParams& p, unsigned char* memory) : params(p), shared(memory) {}

  // Prepares the exchange inside a cluster. A peer may send once every block has passed wait_for_peers.
  __device__ __forceinline__ void greet_peers() {
#if __CUDA_ARCH__ >= 900
    if (Shape::kHopper && cluster_size() > 1) {
      if (threadIdx.x == 0) {
        mbarrier_init(cluster_barrier(0), 1);
        mbarrier_init(cluster_barrier(1), 1);
        mbarrier_init_fence();
      }
      __syncwarp();
      cluster_arrive();
    }
#endif
  }

  __device__ __forceinline__ void wait_for_peers() {
#if __CUDA_ARCH__ >= 900
    if (Shape::kHopper && cluster_size() > 1) cluster_wait();
#endif
  }

  __device__ __forceinline__ float* warp_output(int warp) const {
    return reinterpret_cast<float*>(shared) + warp * (Shape::kTileHeads * Shape::kMergeRow);
  }

  __device__ __forceinline__ float2* warp_state(int warp) const {
    return reinterpret_cast<float2*>(shared + Shape::kStateOffset) + warp * 8;
  }

  // Called by all threads when every warp with tiles has stored its state.
  __device__ __forceinline__ void finish(const Unit& unit, int slices) {
    __syncthreads();  // all warps' states are in shared memory
    merge_warps(unit, slices);
    if (slices > 1) {
      merge_cluster(unit, slices);
    } else if (unit.item.parts > 1 && arrive_last(unit)) {
      merge_parts(unit);
    }
    __syncthreads();  // the merge buffer and the verdict may be overwritten
  }

 private:
  __device__ __forceinline__ u32 cluster_barrier(u32 buffer) const {
    return shared_address(shared) + Shape::kClusterBarrierOffset + buffer * 8;
  }

  __device__ __forceinline__ int cluster_buffer() const {
    return Shape::kClusterOffset + (exchanges & 1) * Shape::kClusterBuffer;
  }

  // Merges the warps of this block; writes the output, the part's state, or sends the slices to the cluster.
  __device__ __forceinline__ void merge_warps(const Unit& unit, int slices) {
    const int warps = unit.tiles() < kWarps ? unit.tiles() : kWarps;
#pragma unroll 1  // headDim 256 has several steps: copies of them would only cost compile time
    for (int step = 0; step < Shape::kMergeSteps; step++) {
      const int index = threadIdx.x + step * Shape::kThreads;
      const int head = index / Shape::kVectors, d = (index % Shape::kVectors) * kVector;
      if (head >= unit.heads()) continue;
      // All loads stand together and none behind a branch, so that their latencies overlap. Warps without tiles stored
      // nothing: what lies in their place is read and dropped.
      float2 states[kWarps];
      FloatVector<kVector> parts[kWarps];
#pragma unroll
      for (int w = 0; w < kWarps; w++) {
        states[w] = warp_state(w)[head];
        parts[w] = *reinterpret_cast<const FloatVector<kVector>*>(warp_output(w) + head * Shape::kMergeRow + d);
      }
      State merged;
#pragma unroll
      for (int w = 0; w < kWarps; w++) {
        if (w >= warps) {
          states[w] = make_float2(negative_infinity(), 0.f);
#pragma unroll
          for (int e = 0; e < kVector; e++) parts[w].at[e] = 0.f;
        }
        merged.max = fmaxf(merged.max, states[w].x);
      }
#pragma unroll
      for (int w = 0; w < kWarps; w++) merged.add(states[w], parts[w].at);
      if (slices > 1) {
        send(unit, slices, merged, head, d);
      } else if (unit.item.parts == 1) {
        merged.write(params, unit, head, d);
      } else {
        const i64 slot =
            static_cast<i64>(unit.item.part_offset + unit.item.part) * Shape::kHeads + unit.first_head() + head;
        FloatVector<kVector> out;
#pragma unroll
        for (int e = 0; e < kVector; e++) out.at[e] = merged.o[e];
        *reinterpret_cast<FloatVector<kVector>*>(params.partial_output + slot * Shape::kHeadDim + d) = out;
        if (d == 0) params.partial_state[slot] = make_float2(merged.max, merged.sum);
      }
    }
  }

  // Announces this part; whether all others were there before it. Called by all threads.
  __device__ __forceinline__ bool arrive_last(const Unit& unit) {
    volatile int* last = reinterpret_cast<volatile int*>(shared + Shape::kFlagOffset);
    __syncthreads();  // all threads have written this part's state before thread 0 announces it
    if (threadIdx.x == 0) {
      u32* counter = params.counters + static_cast<i64>(unit.item.part_offset) * Shape::kUnitsPerItem +
                     unit.kv_head * Shape::kGroupTiles + unit.group_tile;
      const bool is_last = atomic_add_acq_rel(counter, 1) == static_cast<u32>(unit.item.parts) - 1;
      if (is_last) *counter = 0;
      *last = is_last;
    }
    __syncthreads();  // the verdict is there
    return *last;
  }

  // Merges all parts of a sequence, in part order.
  __device__ __forceinline__ void merge_parts(const Unit& unit) {
    constexpr int kAtOnce = Shape::kPartsAtOnce;
    const int parts = unit.item.parts;
#pragma unroll 1
    for (int step = 0; step < Shape::kMergeSteps; step++) {
      const int index = threadIdx.x + step * Shape::kThreads;
      const int head = index / Shape::kVectors, d = (index % Shape::kVectors) * kVector;
      if (head >= unit.heads()) continue;
      const i64 first = static_cast<i64>(unit.item.part_offset) * Shape::kHeads + unit.first_head() + head;
      State merged;
      for (int start = 0; start < parts; start += kAtOnce) {
        float part[kAtOnce][kVector];
        float2 state[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
          const int at = start + i < parts ? start + i : parts - 1;
          const i64 slot = first + static_cast<i64>(at) * Shape::kHeads;
          state[i] = load_coherent(params.partial_state + slot);
          load_coherent(part[i], params.partial_output + slot * Shape::kHeadDim + d);
          if (start + i >= parts) state[i].x = negative_infinity();
        }
        float high = negative_infinity();
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) high = fmaxf(high, state[i].x);
        merged.raise(high);
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) merged.add(state[i], part[i]);
      }
      merged.write(params, unit, head, d);
    }
  }

  // Sends a thread's outputs to the block of the cluster that owns them, and the head's max and sum to one block each.
  __device__ __forceinline__ void send(const Unit& unit, int slices, const State& merged, int head, int d) {
#if __CUDA_ARCH__ >= 900
    const int slice = unit.heads() * Shape::kHeadDim / slices;  // outputs that a block owns
    const int at = head * Shape::kHeadDim + d, rank = cluster_rank();
    const u32 base = shared_address(shared) + cluster_buffer(), barrier = cluster_barrier(exchanges & 1);
    store_cluster(cluster_address(base + (rank * slice + at % slice) * 4, at / slice),
                  cluster_address(barrier, at / slice), merged.o);
    const int peer = index_of(d);
    if (peer < slices) {
      const float state[2] = {merged.max, merged.sum};
      store_cluster(cluster_address(base + Shape::kClusterOutput + (rank * Shape::kTileHeads + head) * 8, peer),
                    cluster_address(barrier, peer), state);
    }
#endif
  }

  static __device__ __forceinline__ int index_of(int d) { return d / kVector; }

  // Merges this block's slice of the outputs when all blocks have sent theirs.
  __device__ __forceinline__ void merge_cluster(const Unit& unit, int slices) {
#if __CUDA_ARCH__ >= 900
    const int slice = unit.heads() * Shape::kHeadDim / slices;
    const u32 barrier = cluster_barrier(exchanges & 1);
    if (threadIdx.x == 0) mbarrier_expect(barrier, (slice * 4 + unit.heads() * 8) * slices);
    if (static_cast<int>(threadIdx.x) * 2 < slice) {
      mbarrier_wait(barrier, (exchanges >> 1) & 1);
      const float* outputs = reinterpret_cast<const float*>(shared + cluster_buffer());
      const float2* states = reinterpret_cast<const float2*>(shared + cluster_buffer() + Shape::kClusterOutput);
      for (int e = threadIdx.x * 2; e < slice; e += Shape::kThreads * 2) {
        const int at = cluster_rank() * slice + e, head = at / Shape::kHeadDim;
        MergedState<Shape, 2> merged;
        float2 states_of[Shape::kMaxCluster], parts[Shape::kMaxCluster];
#pragma unroll
        for (int r = 0; r < Shape::kMaxCluster; r++) {
          const int from = r < slices ? r : 0;
          states_of[r] = states[from * Shape::kTileHeads + head];
          parts[r] = *reinterpret_cast<const float2*>(outputs + from * slice + e);
          if (r >= slices) states_of[r] = make_float2(negative_infinity(), 0.f);
          merged.max = fmaxf(merged.max, states_of[r].x);
        }
#pragma unroll
        for (int r = 0; r < Shape::kMaxCluster; r++) {
          const float part[2] = {parts[r].x, parts[r].y};
          merged.add(states_of[r], part);
        }
        merged.write(params, unit, head, at % Shape::kHeadDim);
      }
    }
    exchanges++;
#endif
  }
};

}  // namespace flashinfer
