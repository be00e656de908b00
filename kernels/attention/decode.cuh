// Batch decode over a paged KV cache: one query token a sequence. Any sm_80 or later; on sm_90a with the copy engine and
// clusters.
//
// Grid: any number of blocks, or of clusters. Block: kWarps warps, all alike.
// Who loads: every warp its own tiles (decode_loader.cuh). Who computes: the same warp, no block barrier inside a unit
//   (decode_softmax.cuh). End of a unit: all threads merge (decode_merge.cuh), while the ring holds the next unit's tiles.
// Shared memory, at DecodeShape's offsets: O of each warp, max and sum of each warp, flag, ring barriers, cluster buffers,
//   cluster barriers, rings.
// Programmatic dependent launch: the list and the page ids are read before the wait (the host changes them only between
//   steps, and launches the first kernel after that without overlap); Q, K, V and the workspace after it.
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
            (Shape::kTensorCopy ? kTensorMap : 0) | (Shape::kHopper ? kClusters : 0),
            Shape::kTileHeads,
            Shape::kWarps,
            0};
  }

  static __device__ __forceinline__ void run(const DecodeParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;

    DecodeMerge<Shape> merge(params, shared);
    DecodeLoader<Shape> loader(params, shared, warp, lane);
    merge.greet_peers();
    UnitCursor<Shape> cursor(params);
    const float scale = params.plan->scale_log2;
    QueryFragments<Shape> query;

    // The first round has no unit: it fills the ring. One call more than there are stages, since the first only fetches
    // the first unit; and through the same loop as all others, since a second copy of fill would cost compile time.
    constexpr int kFirst = -(Shape::kStages + 1) * Shape::kWarps;
    DecodeUnit<Shape> unit = {};
    int tile = kFirst;
    int stage = Shape::kStages - 1;
    u32 phase = 0;  // flips when the first call wraps to stage 0, and again when the ring is full
    do {
      const DecodeUnit<Shape> following = cursor.next();
      DecodeAccumulator<Shape> accumulator;
      accumulator.clear();
      const int tiles = unit.tiles();
      for (; tile < tiles; tile += Shape::kWarps) {
        if (unit.valid) {
          loader.wait(stage, phase);
          const int left = unit.item.end - unit.item.begin - tile * Shape::kTileTokens;
          accumulator.attend(loader.stage_address(stage), query, left, scale, lane);
          __syncwarp();  // every lane has read the stage: it may be filled again
        }
        loader.fill(stage);
        if (tile == kFirst) {
          launch_dependents();
          wait_for_dependency();
        }
        if (++stage == Shape::kStages) {
          stage = 0;
          phase ^= 1;
        }
      }
      query.load(params, following, lane);  // travels during the merge
      if (unit.valid) {
        if (warp < tiles) accumulator.store(merge.warp_output(warp), merge.warp_state(warp), unit.heads(), lane);
        merge.finish(unit, cursor.slices);
      } else {
        merge.wait_for_peers();
      }
      unit = following;
      tile = warp;
    } while (unit.valid);
  }
};

}  // namespace flashinfer
