// From the partial states of warps, blocks and parts to the output.
//
// Between the warps of a crew: every warp puts O, max and sum into shared memory; behind a barrier all threads merge them.
// Between the parts of a sequence: the partial state goes to the workspace, and the crew that arrives last merges all
//   parts in part order (the same bits every time) and sets the counter back to zero (so that a captured graph can be
//   replayed).
// Between the blocks of a cluster: every block sends slice r of its partial O (every so-manieth vector), and its max and
//   sum, to block r with st.async on an mbarrier there; each merges and writes its slice. No global traffic, no atomics.
//   Two buffers in turn: a block sends to the buffer that a peer used two units ago only after the peer's data of the last
//   unit arrived, so no further barrier is needed.
#pragma once

#include "attention/decode_work.cuh"
#include "attention/merged_state.cuh"

namespace flashinfer {

// For a variant that transforms the output, the context of the unit that is merged: the cursor is one ahead.
template <bool kWanted>
struct MergeContext {};
template <>
struct MergeContext<true> {
  ItemContext context;
};

template <typename Shape>
struct DecodeMerge : MergeContext<Shape::Hooks::kTransformsOutput> {
  using Unit = DecodeUnit<Shape>;
  using Element = typename Shape::Element;
  using State = MergedState<Shape::kVector>;
  using HeadScales = FloatVector<Shape::kUnitHeads>;

  static constexpr int kVector = Shape::kVector;
  static constexpr int kAtOnce = Shape::kMergeAtOnce;

  const DecodeParams& params;
  const DecodeCrew<Shape>& crew;
  unsigned char* shared;
  u32 exchanges = 0;      // cluster exchanges so far: which buffer, which phase
  int cluster_shift = 0;  // the cluster has 1 << cluster_shift blocks

  __device__ __forceinline__ DecodeMerge(const DecodeParams& p, unsigned char* memory, const DecodeCrew<Shape>& c)
      : params(p), crew(c), shared(memory) {
    if constexpr (Shape::kClusters) cluster_shift = 31 - __clz(cluster_size());
  }

  // Prepares all barriers of the block, before any load: the fence waits for those in flight. A peer may send once every
  // block has passed wait_for_peers; what the block's own warps use stands ready behind a barrier of the block.
  static __device__ __forceinline__ void init_barriers(unsigned char* shared) {
    if constexpr (Shape::kBarriers > 0) {
      if (threadIdx.x % 32 == 0) {
        if (threadIdx.x == 0) {
#pragma unroll
          for (int i = 0; i < Shape::kClusterBarriers; i++) mbarrier_init(barrier(shared, i), 1);
        }
#pragma unroll
        for (int i = 0; i < Shape::kRingBarriers; i++) {
          mbarrier_init(barrier(shared, Shape::kClusterBarriers + threadIdx.x / 32 * Shape::kRingBarriers + i), 1);
        }
        mbarrier_init_fence();
      }
      if constexpr (Shape::kClusters) {
        if (cluster_size() > 1) {
          __syncwarp();
          cluster_arrive();
        }
      }
    }
  }

  __device__ __forceinline__ void wait_for_peers() {
    if constexpr (Shape::kClusters) {
      if (cluster_size() > 1) cluster_wait();
    }
  }

  // Where a warp puts its state of a unit, for the crew to merge.
  __device__ __forceinline__ float* warp_output(int warp) const {
    return reinterpret_cast<float*>(shared) + warp * Shape::kWarpOutput;
  }
  __device__ __forceinline__ float2* warp_state(int warp) const {
    return reinterpret_cast<float2*>(shared + Shape::kStateOffset) + warp * Shape::kUnitColumns;
  }

  // Called by all threads of the crew when every warp with tiles has stored its state.
  __device__ __forceinline__ void finish(const Unit& unit, const HeadScales& value_scale) {
    crew.sync();  // all warps' states are in shared memory
    const int outputs = unit.columns() * Shape::kHeadDim;
    const int first = crew.thread() * kVector;
    constexpr int kStride = Shape::kCrewThreads * kVector;
#pragma unroll 1
    for (int at = first; at < outputs; at += kStride) {
      const int column = at / Shape::kHeadDim, d = at % Shape::kHeadDim;
      State merged;
      from_warps(merged, unit, column, d);
      if (Shape::kClusters && cluster_shift > 0) {
        send(unit, column, d, merged);
      } else if (unit.item.parts <= 1) {
        write(unit, column, d, merged, value_scale);
      } else {
        keep(unit, column, d, merged);
      }
    }
    if (Shape::kClusters && cluster_shift > 0) {
      const int slice = outputs >> cluster_shift;  // what a block owns
      if (first < slice) {
        wait_for_slices(unit);
#pragma unroll 1
        for (int in_slice = first; in_slice < slice; in_slice += kStride) {
          const int at = (in_slice << cluster_shift) + cluster_rank() * kVector;
          State merged;
          from_peers(merged, slice, at / Shape::kHeadDim, in_slice);
          write(unit, at / Shape::kHeadDim, at % Shape::kHeadDim, merged, value_scale);
        }
      }
      exchanges++;
    } else if (unit.item.parts > 1 && arrive_last(unit)) {
#pragma unroll 1
      for (int at = first; at < outputs; at += kStride) {
        const int column = at / Shape::kHeadDim, d = at % Shape::kHeadDim;
        State merged;
        from_parts(merged, unit, column, d);
        write(unit, column, d, merged, value_scale);
      }
    }
  }

 private:
  // The two of the cluster's exchanges come first, then the ring's.
  static __device__ __forceinline__ u32 barrier(const unsigned char* shared, int index) {
    return shared_address(shared) + Shape::kBarrierOffset + index * 8;
  }

  __device__ __forceinline__ int cluster_buffer() const {
    return Shape::kClusterOffset + (exchanges & 1) * Shape::kClusterBuffer;
  }

  // The first column of a part's place in the workspace.
  __device__ __forceinline__ i64 slot_of(const Unit& unit, int part) const {
    return (static_cast<i64>(unit.item.part_offset + part) * Shape::kUnitsPerItem + unit.index) * Shape::kUnitColumns;
  }

  // A column that has seen no token gives output 0 and LSE -inf, or its sink.
  __device__ __forceinline__ void write(const Unit& unit, int column, int d, State& merged,
                                        const HeadScales& value_scale) const {
    if (!unit.has(column)) return;
    if constexpr (Shape::Hooks::kHasSink) merged.join(Shape::Hooks::sink(params.variant, unit.head_of(column)));
    float scale = value_scale.at[0];
#pragma unroll
    for (int i = 1; i < Shape::kUnitHeads; i++) {
      if (column >= i * Shape::kUnitHeadColumns) scale = value_scale.at[i];
    }
    scale = merged.sum > 0.f ? scale * reciprocal(merged.sum) : 0.f;
#pragma unroll
    for (int e = 0; e < kVector; e++) merged.o.at[e] *= scale;
    const i64 row = unit.item.row + unit.token_of(column);
    const int head = unit.head_of(column);
    if constexpr (Shape::Hooks::kTransformsOutput) {
      Shape::Hooks::transform_output(
          merged.o, Shape::Hooks::element_place(this->context, static_cast<i32>(row), head, head / Shape::kGroup), d,
          merged.lse(), Shape::Hooks::arguments(params.variant));
    }
    u16* target = params.output + row * params.output_row_stride + head * params.output_head_stride + d;
    store_kept(target, make_uint2(Element::pack(merged.o.at[0], merged.o.at[1]),
                                  Element::pack(merged.o.at[2], merged.o.at[3])));
    if (params.lse && d == 0) params.lse[row * Shape::kHeads + head] = merged.lse();
  }

  // Puts this part's state into the workspace.
  __device__ __forceinline__ void keep(const Unit& unit, int column, int d, const State& merged) const {
    const i64 slot = slot_of(unit, unit.item.part) + column;
    *reinterpret_cast<FloatVector<kVector>*>(params.partial_output + slot * Shape::kHeadDim + d) = merged.o;
    if (d == 0) params.partial_state[slot] = make_float2(merged.max, merged.sum);
  }

  // Announces this part; whether all others were there before it. Called by all threads of the crew.
  __device__ __forceinline__ bool arrive_last(const Unit& unit) const {
    volatile int* last = reinterpret_cast<volatile int*>(shared + Shape::kFlagOffset) + crew.index();
    crew.sync();  // all threads have written this part's state before one announces it
    if (crew.thread() == 0) {
      u32* counter = params.counters + static_cast<i64>(unit.item.part_offset) * Shape::kUnitsPerItem + unit.index;
      const bool is_last = atomic_add_acq_rel(counter, 1) == static_cast<u32>(unit.item.parts) - 1;
      if (is_last) *counter = 0;
      *last = is_last;
    }
    crew.sync();  // the verdict is there, and with it what the other parts wrote
    return *last;
  }

  // Sends a thread's outputs to the block of the cluster that owns them, and the column's max and sum to one block each.
  __device__ __forceinline__ void send(const Unit& unit, int column, int d, const State& merged) {
    if constexpr (Shape::kClusters) {
      const int slice = unit.columns() * Shape::kHeadDim >> cluster_shift;  // outputs that a block owns
      const int vector = (column * Shape::kHeadDim + d) / kVector, slices = 1 << cluster_shift;
      const int owner = vector & (slices - 1), rank = cluster_rank();
      const u32 base = shared_address(shared) + cluster_buffer(), arrived = barrier(shared, exchanges & 1);
      store_cluster(cluster_address(base + (rank * slice + (vector >> cluster_shift) * kVector) * 4, owner),
                    cluster_address(arrived, owner), merged.o.at);
      const int peer = d / kVector;
      if (peer < slices) {
        const float state[2] = {merged.max, merged.sum};
        store_cluster(cluster_address(base + Shape::kClusterOutput + (rank * Shape::kUnitColumns + column) * 8, peer),
                      cluster_address(arrived, peer), state);
      }
    }
  }

  // Waits for what all blocks of the cluster have sent of this block's slice.
  __device__ __forceinline__ void wait_for_slices(const Unit& unit) {
    const u32 arrived = barrier(shared, exchanges & 1);
    if (threadIdx.x == 0) mbarrier_expect(arrived, unit.columns() * (Shape::kHeadDim * 4 + (8 << cluster_shift)));
    mbarrier_wait(arrived, (exchanges >> 1) & 1);
  }

  // In all three: loads stand together and none behind a branch, so that their latencies overlap.

  __device__ __forceinline__ void from_warps(State& merged, const Unit& unit, int column, int d) const {
    const int tiles = unit.tiles(), first = crew.index() * Shape::kCrewWarps;
    const float* outputs = warp_output(first) + column * Shape::kMergeRow + d;
    const float2* states = warp_state(first) + column;
    // Warps without tiles stored nothing: what lies in their place is read and dropped.
    FloatVector<kVector> parts[Shape::kCrewWarps];
    float2 found[Shape::kCrewWarps];
#pragma unroll
    for (int w = 0; w < Shape::kCrewWarps; w++) {
      found[w] = states[w * Shape::kUnitColumns];
      parts[w] = *reinterpret_cast<const FloatVector<kVector>*>(outputs + w * Shape::kWarpOutput);
    }
#pragma unroll
    for (int w = 0; w < Shape::kCrewWarps; w++) {
      if (w >= tiles) {
        found[w] = make_float2(negative_infinity(), 0.f);
        parts[w] = {};
      }
      merged.max = fmaxf(merged.max, found[w].x);
    }
#pragma unroll
    for (int w = 0; w < Shape::kCrewWarps; w++) merged.add(found[w], parts[w]);
  }

  __device__ __forceinline__ void from_peers(State& merged, int slice, int column, int at) const {
    const float* outputs = reinterpret_cast<const float*>(shared + cluster_buffer()) + at;
    const float2* states = reinterpret_cast<const float2*>(shared + cluster_buffer() + Shape::kClusterOutput) + column;
    FloatVector<kVector> parts[Shape::kMaxCluster];
    float2 found[Shape::kMaxCluster];
#pragma unroll
    for (int r = 0; r < Shape::kMaxCluster; r++) {
      const int from = r < 1 << cluster_shift ? r : 0;
      found[r] = states[from * Shape::kUnitColumns];
      parts[r] = *reinterpret_cast<const FloatVector<kVector>*>(outputs + from * slice);
      if (r >= 1 << cluster_shift) found[r].x = negative_infinity();
      merged.max = fmaxf(merged.max, found[r].x);
    }
#pragma unroll
    for (int r = 0; r < Shape::kMaxCluster; r++) merged.add(found[r], parts[r]);
  }

  __device__ __forceinline__ void from_parts(State& merged, const Unit& unit, int column, int d) const {
    constexpr i64 kNext = Shape::kUnitsPerItem * Shape::kUnitColumns;
    const i64 slot = slot_of(unit, 0) + column;
    const float* outputs = params.partial_output + slot * Shape::kHeadDim + d;
    const float2* states = params.partial_state + slot;
    const int count = unit.item.parts;
#pragma unroll 1
    for (int start = 0; start < count; start += kAtOnce) {
      FloatVector<kVector> parts[kAtOnce];
      float2 found[kAtOnce];
      float high = negative_infinity();
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {  // the last part stands in for those missing, weighing nothing
        const int at = min(start + i, count - 1);
        found[i] = states[at * kNext];
        parts[i] = *reinterpret_cast<const FloatVector<kVector>*>(outputs + at * kNext * Shape::kHeadDim);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (start + i >= count) found[i].x = negative_infinity();
        high = fmaxf(high, found[i].x);
      }
      merged.raise(high);
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) merged.add(found[i], parts[i]);
    }
  }
};

}  // namespace flashinfer
