// What a decode kernel is made for, and how its blocks share the work.
//
// Unit of work = (item of the host's list, KV head, group tile of up to 8 query heads). Units stand longest first;
// block b of n takes units b, 2n-1-b, 2n+b, ... (there and back), so that the loads even out. In a launch with clusters
// of c > 1 blocks, n counts clusters, and the c blocks of a cluster take each unit together, every block a slice of its
// tokens.
#pragma once

#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// All constants of a configuration on this architecture. Tuning numbers stand here, each with its reason.
template <typename Config>
struct DecodeShape {
  using Element = typename Config::Element;
  static constexpr bool kChecked = Config::kChecked;

  static constexpr int kHeads = Config::kHeads;
  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kPageSize = Config::kPageSize;
  static constexpr int kGroup = kHeads / kKvHeads;
  static_assert(kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static_assert(kHeadDim % 64 == 0, "headDim must be a multiple of 64: a tile is made of 128-byte columns");

  static_assert(Config::kQueryTokens >= 1, "a sequence has a query token");

  static constexpr int kTileTokens = 16;                      // M of mma.m16n8k16
  static constexpr int kTileHeads = kGroup < 8 ? kGroup : 8;  // of its N = 8 columns
  static constexpr int kGroupTiles = (kGroup + 7) / 8;
  static constexpr int kUnitsPerItem = kKvHeads * kGroupTiles;

  // Bytes in flight: 64 to 128 KB per SM saturate the memory, more is slower; chips with 99 KB of shared
  // memory get half.
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static constexpr int kRingBytes = 64 * 1024;
#else
  static constexpr int kRingBytes = 128 * 1024;
#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  static constexpr bool kHopper = true;
  static constexpr int kSharedLimit = 227 * 1024;
#else
  static constexpr bool kHopper = false;
  static constexpr int kSharedLimit = (kRingBytes > 64 * 1024 ? 163 : 99) * 1024;
#endif
  // A tile that lies in one page is one box for the copy engine.
  static constexpr bool kPagePerTile = kPageSize % kTileTokens == 0;
  static constexpr bool kTensorCopy = kHopper && kPagePerTile;

  static constexpr int kColumns = kHeadDim / 64;  // 128-byte columns of a tile
  static constexpr int kTileBytes = kColumns * kTileTokens * 128;
  static constexpr int kStageBytes = 2 * kTileBytes;      // K and V
  static constexpr int kWarps = kHeadDim <= 128 ? 8 : 4;  // headDim 256: two stages a warp matter more than eight warps
  static constexpr int kStages = kRingBytes / (kWarps * kStageBytes);
  static_assert(kStages >= 1, "the ring must hold a stage for every warp");
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kBlocksPerSm = 1;

  // Merging: each thread owns kVector neighbouring outputs of a head at a time.
  static constexpr int kPerThread = kTileHeads * kHeadDim / kThreads;
  static constexpr int kVector = kPerThread >= 4 ? 4 : kPerThread >= 2 ? 2 : 1;
  static constexpr int kVectors = kHeadDim / kVector;  // of one head
  static constexpr int kMergeSteps = (kTileHeads * kVectors + kThreads - 1) / kThreads;
  static constexpr int kMergeRow = kHeadDim + 4;  // floats; the 4 keep rows on different banks
  static constexpr int kPartsAtOnce = 8;          // parts whose loads overlap in the last block's merge
  static constexpr int kMaxCluster = 8;

  // Shared memory, bytes.
  static constexpr int kStateOffset = kWarps * kTileHeads * kMergeRow * 4;  // behind O of each warp: max, sum
  static constexpr int kFlagOffset = kStateOffset + kWarps * 8 * 8;         // "this block is last"
  static constexpr int kBarrierOffset = kFlagOffset + 16;                   // ring mbarriers
  static constexpr int kClusterOffset = kBarrierOffset + (kTensorCopy ? kWarps * kStages * 8 : 0);
  static constexpr int kClusterOutput = kTileHeads * kHeadDim * 4;                      // slices of all blocks
  static constexpr int kClusterBuffer = kClusterOutput + kMaxCluster * kTileHeads * 8;  // and their max, sum
  static constexpr int kClusterBarrierOffset = kClusterOffset + (kHopper ? 2 * kClusterBuffer : 0);
  static constexpr int kRingOffset = (kClusterBarrierOffset + (kHopper ? 16 : 0) + 1023) / 1024 * 1024;
  static constexpr int kSharedBytes = kRingOffset + kWarps * kStages * kStageBytes;
  static_assert(kSharedBytes <= kSharedLimit, "a block needs more shared memory than the chip has");
  static_assert(kClusterOffset % 16 == 0 && kClusterBuffer % 8 == 0, "vector stores need aligned buffers");
};

// One piece of work; not valid stands for "none".
template <typename Shape>
struct DecodeUnit {
  DecodeItem item;
  int kv_head;
  int group_tile;
  bool valid;

  __device__ __forceinline__ int tiles() const {
    return valid ? (item.end - item.begin + Shape::kTileTokens - 1) / Shape::kTileTokens : 0;
  }
  __device__ __forceinline__ int first_head() const { return kv_head * Shape::kGroup + group_tile * 8; }
  __device__ __forceinline__ int heads() const {
    const int left = Shape::kGroup - group_tile * 8;
    return left < Shape::kTileHeads ? left : Shape::kTileHeads;
  }
};

// Walks the units of this block, or of its cluster.
template <typename Shape>
struct UnitCursor {
  using Unit = DecodeUnit<Shape>;

  const DecodeItem* items;
  int count;   // items in the list
  int slices;  // blocks that share a unit
  int walker, walkers;
  int round = 0;

  __device__ __forceinline__ explicit UnitCursor(const DecodeParams& params)
      : items(items_of<DecodeItem>(params.plan)),
        count(load_ahead(&params.plan->count)),
        slices(1),
        walker(blockIdx.x),
        walkers(gridDim.x) {
#if __CUDA_ARCH__ >= 900
    if (Shape::kHopper) {
      slices = cluster_size();
      walker = cluster_index();
      walkers = cluster_count();
    }
#endif
  }

  __device__ __forceinline__ Unit next() {
    const int index = round * walkers + ((round & 1) ? walkers - 1 - walker : walker);
    round++;
    const int at = index / Shape::kUnitsPerItem, expanded = index % Shape::kUnitsPerItem;
    Unit unit = {};
    if (at < count) {
      const int4* source = reinterpret_cast<const int4*>(items + at);
      const int4 a = __ldg(source), b = __ldg(source + 1);
      unit.item = {a.x, a.y, a.z, a.w, b.x, static_cast<u16>(b.y), static_cast<u16>(b.y >> 16), b.z, b.w};
      unit.kv_head = expanded / Shape::kGroupTiles;
      unit.group_tile = expanded % Shape::kGroupTiles;
      unit.valid = true;
#if __CUDA_ARCH__ >= 900
      if (Shape::kHopper && slices > 1) {  // this block's slice, maybe an empty one
        const int tiles = unit.tiles(), slice = cluster_rank(), first = unit.item.begin, last = unit.item.end;
        unit.item.begin = min(last, first + slice * tiles / slices * Shape::kTileTokens);
        unit.item.end = min(last, first + (slice + 1) * tiles / slices * Shape::kTileTokens);
      }
#endif
    }
    return unit;
  }
};

}  // namespace flashinfer
