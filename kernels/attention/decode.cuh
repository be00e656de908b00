// Batch decode over a paged KV cache: one or a few query tokens a sequence. Any sm_80 or later; on sm_90a with the copy
// engine and clusters.
//
// Grid: any number of blocks, or of clusters. Block: kWarps warps, all alike, in kTeams teams (decode_work.cuh).
// Who loads: every team its own tiles (decode_loader.cuh). Who computes: the same team, no block barrier inside a unit
//   (decode_softmax.cuh). End of a unit: all threads of the crew merge (decode_merge.cuh), while the ring holds the next
//   unit's tiles.
// Shared memory, at DecodeShape's offsets: O of each team, max and sum of each team, flags, ring barriers, cluster
//   buffers, cluster barriers, rings.
// Programmatic dependent launch: the list and the page ids are read before the wait (the host changes them only between
//   steps, and launches the first kernel after that without overlap); Q, K, V, the scales and the workspace after it.
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
            Shape::kTeams,
            0,
            0,
            Shape::kTileTokens};
  }

  static __device__ __forceinline__ void run(const DecodeParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];

    DecodeLoader<Shape>::init_barriers(params, shared);
    DecodeMerge<Shape>::greet_peers(shared);
    UnitCursor<Shape> cursor(params);
    __syncthreads();  // the barriers are initialised
    const DecodeCrew<Shape> crew;
    DecodeMerge<Shape> merge(params, shared, crew);
    DecodeLoader<Shape> loader(params, shared, crew, cursor);
    QueryFragments<Shape> query;

    // The first round has no unit: it fills the ring. One call more than there are stages, since the first only fetches
    // the first unit; and through the same loop as all others, since a second copy of fill would cost compile time.
    DecodeUnit<Shape> unit = {};
    constexpr int kFirst = -(Shape::kStages + 1) * Shape::kCrewTeams;
    int tile = kFirst;
    int stage = Shape::kStages - 1;
    u32 phase = 0;  // flips when the first call wraps to stage 0, and again when the ring is full
    do {
      const DecodeUnit<Shape> following = cursor.next();
      DecodeAccumulator<Shape> accumulator;
      accumulator.clear();
      const int tiles = unit.tiles();
      for (; tile < tiles; tile += Shape::kCrewTeams) {
        if (unit.valid) {
          loader.wait(stage, phase);
          if (Shape::kTeamWarps == 1 || crew.member * (Shape::kWarpTiles * 8) < unit.columns()) {
            accumulator.attend(loader.stage_address(stage), query, unit.item.begin + tile * Shape::kTileTokens,
                               unit.item.end, crew.lane);
          }
          crew.sync_team();  // everybody has read the stage: it may be filled again
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
      const float value_scale = query.value_scale;
      query.load(params, following, crew, cursor.scale);  // travels during the merge
      if (unit.valid && crew.place() < tiles) {
        accumulator.store(merge.team_output(crew.team), merge.team_state(crew.team), unit.columns(), crew);
      }
      if (unit.valid) {
        merge.finish(unit, cursor.slices, value_scale);
      } else {
        merge.wait_for_peers();
      }
      unit = following;
      tile = crew.place();
    } while (unit.valid);
  }
};

}  // namespace flashinfer
