// Split-KV of prefill: each part of a unit's tokens leaves its partial state in the workspace; whoever comes last merges all
// parts in part order (the same bits every time) and puts the counter back to zero (so that a captured graph can be
// replayed).
//
// A crew is 128 neighbouring threads of a block, of whole warps, with some rows of the tile: crews of a tile merge
// independently, each when all parts' states of its rows are there. Crew c counts arrivals where slot c of the unit has its
// counter; a unit with several parts has at least two. Where there are three crews, two of them share a counter by halves.
#pragma once

#include "attention/merged_state.cuh"
#include "attention/prefill_elements.cuh"
#include "attention/prefill_softmax.cuh"
#include "attention/prefill_work.cuh"

namespace flashinfer {

template <typename Shape>
struct PrefillParts {
  using Tile = PrefillTile<Shape>;
  using Element = typename Shape::Element;

  static constexpr int kCrewThreads = 128;
  static constexpr bool kHalves = Shape::kTileRows > 128;
  static constexpr int kVector = 4;
  static constexpr int kVectors = Shape::kValueDim / kVector;  // of a row

  // Loads of a thread under way: parts of one vector, or few parts of several.
  static constexpr int kLoads = Shape::kValueDim == 256 ? 4 : 8;
  static constexpr int kTogether = Shape::kValueDim == 256 ? 1 : 2;
  static constexpr int kFewParts = kLoads / kTogether;

  // Stores rows `row` and `row + 8`, of which this thread has its accumulators' share, before normalising. softmax is gathered.
  static __device__ __forceinline__ void store(const PrefillParams& params, const Tile& tile, int row,
                                               const float (&o)[Shape::kValueDim / 2], const PrefillSoftmax& softmax,
                                               float scale) {
    const int quad = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (row + 8 * r >= tile.rows()) break;
      const i64 slot = slot_of(params, tile, tile.item.part, row + 8 * r);
      float* target = params.partial_output + slot * Shape::kValueDim;
#pragma unroll
      for (int j = 0; j < Shape::kValueDim / 8; j++) {
        *reinterpret_cast<float2*>(target + Shape::pair_element(j, quad)) =
            make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
      }
      if (quad == 0) params.partial_state[slot] = make_float2(softmax.max[r] * scale, softmax.sum[r]);
    }
  }

  // Says that the crew has stored its rows of this part, and merges rows [first, end), the crew's of this tile, if it was the last
  // one. By all threads of a crew, whether or not it has rows; `barrier` is a barrier that this crew has to itself.
  static __device__ __forceinline__ void finish(const PrefillParams& params, const Tile& tile,
                                                const ItemContext& context, int crew, int barrier, int first, int end) {
    named_barrier_sync(barrier, kCrewThreads);  // all of them have stored
    bool is_last = false;
    if (crew_thread() == 0) {
      u32* counter = params.counters +
                     static_cast<i64>(tile.item.part_offset + (kHalves ? crew / 2 : crew)) * params.plan->heads +
                     tile.unit();
      const int half = kHalves ? crew % 2 * 16 : 0;
      u32 before = atomic_add_acq_rel(counter, 1u << half);
      if (kHalves) before = before >> half & 0xffff;
      is_last = before == tile.item.parts - 1u;
      if (is_last && kHalves) atomicSub(counter, static_cast<u32>(tile.item.parts) << half);
      if (is_last && !kHalves) *counter = 0;
    }
    if (!named_barrier_any(barrier, kCrewThreads, is_last)) return;
    if (tile.item.parts <= kFewParts) {
      merge<kFewParts, kTogether>(params, tile, context, first, end);
    } else {
      merge<kLoads, 1>(params, tile, context, first, end);
    }
  }

 private:
  static __device__ __forceinline__ int crew_thread() { return threadIdx.x % kCrewThreads; }

  static __device__ __forceinline__ i64 slot_of(const PrefillParams& params, const Tile& tile, int part, int row) {
    return (static_cast<i64>(tile.item.part_offset + part) * params.plan->heads + tile.unit()) * Shape::kUsedRows + row;
  }

  // A thread merges so many parts at once of so many vectors. A row that has seen no token gives output 0 and LSE -inf, or its sink.
  template <int kParts, int kVectorsAtOnce>
  static __device__ __forceinline__ void merge(const PrefillParams& params, const Tile& tile,
                                               const ItemContext& context, int first, int end) {
    const i64 next = static_cast<i64>(params.plan->heads) * Shape::kUsedRows;  // between the slots of two parts
    const int count = tile.item.parts, vectors = (end - first) * kVectors;
#pragma unroll 1
    for (int i = crew_thread(); i < vectors; i += kVectorsAtOnce * kCrewThreads) {
      MergedState<kVector> merged[kVectorsAtOnce];
#pragma unroll 1
      for (int start = 0; start < count; start += kParts) {
        // Loads stand together and none behind a branch, so that their latencies overlap; past the L1, which may have what
        // lay there before. None for parts that are not there: when all blocks merge, the L2 has no time for them. The last
        // vector stands in for those missing.
        FloatVector<kVector> parts[kVectorsAtOnce][kParts];
        float2 found[kVectorsAtOnce][kParts];
#pragma unroll
        for (int k = 0; k < kVectorsAtOnce; k++) {
          const int vector = min(i + k * kCrewThreads, vectors - 1);
          const i64 slot = slot_of(params, tile, start, first + vector / kVectors);
          const float* outputs = params.partial_output + slot * Shape::kValueDim + vector % kVectors * kVector;
#pragma unroll
          for (int p = 0; p < kParts; p++) {
            const bool exists = start + p < count;
            found[k][p] = load_if(exists, params.partial_state + slot + p * next, negative_infinity());
            parts[k][p] = load_if(exists, outputs + p * next * Shape::kValueDim);
          }
        }
#pragma unroll
        for (int k = 0; k < kVectorsAtOnce; k++) {
          float high = negative_infinity();
#pragma unroll
          for (int p = 0; p < kParts; p++) high = fmaxf(high, found[k][p].x);
          merged[k].raise(high);
#pragma unroll
          for (int p = 0; p < kParts; p++) merged[k].add(found[k][p], parts[k][p]);
        }
      }
#pragma unroll
      for (int k = 0; k < kVectorsAtOnce; k++) {
        const int vector = i + k * kCrewThreads;
        if (vector < vectors) {
          write(params, tile, context, first + vector / kVectors, vector % kVectors * kVector, merged[k]);
        }
      }
    }
  }

  static __device__ __forceinline__ float2 load_if(bool exists, const float2* state, float otherwise) {
    float2 v = make_float2(otherwise, 0.f);
    asm volatile("{\n .reg .pred p;\n setp.ne.u32 p, %3, 0;\n @p ld.global.cg.v2.f32 {%0,%1}, [%2];\n}"
                 : "+f"(v.x), "+f"(v.y)
                 : "l"(state), "r"(static_cast<u32>(exists))
                 : "memory");
    return v;
  }
  static __device__ __forceinline__ FloatVector<kVector> load_if(bool exists, const float* o) {
    FloatVector<kVector> v = {};
    asm volatile("{\n .reg .pred p;\n setp.ne.u32 p, %5, 0;\n @p ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];\n}"
                 : "+f"(v.at[0]), "+f"(v.at[1]), "+f"(v.at[2]), "+f"(v.at[3])
                 : "l"(o), "r"(static_cast<u32>(exists))
                 : "memory");
    return v;
  }

  // Outputs of row `at` from the d-th on.
  static __device__ __forceinline__ void write(const PrefillParams& params, const Tile& tile,
                                               const ItemContext& context, int at, int d,
                                               MergedState<kVector>& merged) {
    if constexpr (Shape::Hooks::kHasSink) merged.join(Shape::Hooks::sink(params.variant, tile.head_of(at)));
    const float inverse = merged.sum > 0.f ? reciprocal(merged.sum) : 0.f;
#pragma unroll
    for (int e = 0; e < kVector; e++) merged.o.at[e] *= inverse;
    if constexpr (Shape::Hooks::kTransformsOutput) {
      Shape::Hooks::transform_output(merged.o, PrefillElements<Shape>::place(tile, context, at), d, merged.lse(),
                                     Shape::Hooks::arguments(params.variant));
    }
    const i64 row = tile.item.row + tile.token_of(at);
    const int head = tile.head_of(at);
    *reinterpret_cast<uint2*>(params.output + row * params.output_row_stride + head * params.output_head_stride + d) =
        make_uint2(Element::pack(merged.o.at[0], merged.o.at[1]), Element::pack(merged.o.at[2], merged.o.at[3]));
    if (params.lse != nullptr && d == 0) params.lse[row * Shape::kHeads + head] = merged.lse();
  }
};

}  // namespace flashinfer
