// Batch decode over a paged KV cache: one or a few query tokens a sequence. Any sm_80 or later; on sm_90a with the copy
// engine and clusters.
//
// Grid: any number of blocks, or of clusters. Block: kWarps warps, all alike (decode_work.cuh).
// Who loads: every warp its own tiles (decode_loader.cuh). Who computes: the same warp, no block barrier inside a unit
//   (decode_softmax.cuh). End of a unit: the crew merges (decode_merge.cuh), while the ring holds the next unit's tiles.
// Shared memory, at DecodeShape's offsets: O, max and sum of each warp (before a unit: Q), flag, cluster buffers, barriers,
//   rings.
// Programmatic dependent launch: the list, the page ids, and keys and values of earlier steps are read before the wait (the
//   host changes them only between steps, and launches the first kernel after that without overlap); keys and values of
//   this step, Q, the scales and the workspace after it.
#pragma once

#include "attention/decode_loader.cuh"
#include "attention/decode_merge.cuh"
#include "attention/decode_softmax.cuh"
#include "attention/decode_work.cuh"

namespace flashinfer {

template <typename Config>
struct Decode {
  using Shape = DecodeShape<Config>;

  static constexpr int kThreads = Shape::kThreads;
  static constexpr int kBlocksPerSm = Shape::kBlocksPerSm;

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion,
            sizeof(DecodeParams),
            kThreads,
            Shape::kSharedBytes,
            kBlocksPerSm,
            Shape::kUnitsPerItem,
            (Shape::kTensorCopy ? kTensorMap : 0) | (Shape::kClusters ? kClusters : 0),
            Shape::kUnitColumns,
            Shape::kCrews,
            Shape::kWideUnits ? 1 : Shape::kWarps,
            0,
            0,
            Shape::kSlabTokens};
  }

  static __device__ __forceinline__ void run(const DecodeParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];

    launch_dependents();
    if (Shape::kTensorCopy && threadIdx.x == 0) prefetch_tensor_map(params.kv_map);
    DecodeMerge<Shape>::init_barriers(shared);
    UnitCursor<Shape> cursor(params);
    __syncthreads();  // the barriers are initialised
    const DecodeCrew<Shape> crew;
    DecodeMerge<Shape> merge(params, shared, crew);
    DecodeLoader<Shape> loader(params, shared, crew, cursor);
    QueryFragments<Shape> query;

    // The first round has no unit: it fills the ring. One call more than there are stages, since the first only fetches
    // the first unit; and through the same loop as all others, since a second copy of fill would cost compile time.
    DecodeUnit<Shape> unit = {};
    constexpr int kFirst = -(Shape::kStages + 1) * Shape::kCrewWarps;
    int tile = kFirst;
    int stage = Shape::kStages - 1;
    u32 phase = 0;  // flips when the first call wraps to stage 0, and again when the ring is full
    do {
      if constexpr (Shape::Hooks::kTransformsOutput) merge.context = cursor.contexts.unit();
      const DecodeUnit<Shape> following = cursor.next();
      DecodeAccumulator<Shape> accumulator;
      accumulator.clear();
      const int tiles = unit.tiles();
      for (; tile < tiles; tile += Shape::kCrewWarps) {
        if (unit.valid) {
          loader.wait(stage, phase);
          accumulator.attend(loader.stage_address(stage), query, unit.item.begin + tile * Shape::kTileTokens,
                             unit.item.end, crew.lane);
          __syncwarp();  // all lanes have read the stage: it may be filled again
        }
        loader.fill(stage);
        if (++stage == Shape::kStages) {
          stage = 0;
          phase ^= 1;
        }
      }
      const FloatVector<Shape::kUnitHeads> value_scale = query.value_scale;
      if (!unit.valid) {
        wait_for_dependency();  // the ring is full: what follows needs the kernel before
      } else if (crew.place() < tiles) {
        accumulator.store(merge.warp_output(crew.warp), merge.warp_state(crew.warp), unit.head_columns(), crew.lane);
      }
      query.fetch(params, following, crew, cursor.scale);  // travels during the merge, in O's registers
      if constexpr (Shape::Hooks::kRotates) {
        query.load_position(params, following, cursor.contexts.unit());
      }
      if constexpr (Shape::Hooks::kShapes) query.load_places(params, following, cursor.contexts.unit(), crew.lane);
      if (unit.valid) {
        merge.finish(unit, value_scale);
      } else {
        merge.wait_for_peers();
      }
      unit = following;
      tile = crew.place();
      if (unit.valid) {
        if constexpr (Shape::Hooks::kTransformsQuery) query.transform(params, unit, cursor.contexts.unit(), crew);
        query.put(merge.warp_output(crew.index() * Shape::kCrewWarps), crew);
        crew.sync();  // and the place to merge in and the verdict may be overwritten
        query.take(merge.warp_output(crew.warp), unit, crew.lane);
      }
    } while (unit.valid);
  }
};

}  // namespace flashinfer
