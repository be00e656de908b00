// What a decode kernel is made for, and how its warps share the work.
//
// Column = one query head of one query token; the columns of a KV head are its group's heads, token after token.
// Unit of work = (item of the host's list, KV head, column tile): up to kUnitColumns columns over one range of tokens.
// Team = the warps that look at the same tokens, each for columns of its own; one warp when a warp has room for all.
// Crew = the teams that share a unit, each taking every so-manieth tile of its tokens: all teams of a block, or, in the
//   kernel for short sequences (kTeamUnits), one team alone, so that nothing has to be merged.
// Units stand longest first; crew w of n takes units w, 2n-1-w, 2n+w, ... (there and back), so that the loads even out. In
// a launch with clusters of c > 1 blocks, n counts clusters, and the c blocks of a cluster take each unit together, every
// block a slice of its tokens.
#pragma once

#include "core/float8.cuh"
#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// All constants of a configuration on this architecture. Tuning numbers stand here, each with its reason.
template <typename Config>
struct DecodeShape {
  using Element = typename Config::Element;
  using KvElement = typename Config::KvElement;
  // Quantised keys and values become halves, which hold each of them exactly; so do query and weights then.
  using MathElement = typename KvElement::MathElement;

  static constexpr bool kChecked = Config::kChecked;
  static constexpr int kHeads = Config::kHeads;
  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kPageSize = Config::kPageSize;
  static constexpr int kQueryTokens = Config::kQueryTokens;
  static constexpr bool kTeamUnits = Config::kTeamUnits;
  static constexpr int kGroup = kHeads / kKvHeads;
  static_assert(kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static_assert(kHeadDim % 32 == 0, "headDim must be a multiple of 32: a tile is made of strips of 32 bytes or more");
  static_assert(kQueryTokens >= 1, "a sequence has a query token");

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

  // A tile of tokens in shared memory: strips of all its rows, as wide as the copy engine's swizzle.
  static constexpr int kTileTokens = 16;  // M of mma.m16n8k16
  static constexpr int kRowBytes = kHeadDim * KvElement::kBytes;
  static constexpr int kStripBytes = kRowBytes % 128 == 0 ? 128 : kRowBytes % 64 == 0 ? 64 : 32;
  static constexpr int kTileBytes = kTileTokens * kRowBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;  // K and V
  // A tile that lies in one page is one box for the copy engine.
  static constexpr bool kPagePerTile = kPageSize % kTileTokens == 0;
  static constexpr bool kTensorCopy = kHopper && kPagePerTile;

  // Two stages a warp matter more than eight warps; and where shared memory is small, so does a place to merge in.
  static constexpr int kWarps = kStageBytes <= 8192 && (kHeadDim <= 128 || kSharedLimit > 99 * 1024) ? 8 : 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kBlocksPerSm = 1;

  // Columns: a warp has registers for two tiles of 8 (N of the instruction) up to headDim 128, and Hopper the shared
  // memory to merge them; else one.
  static constexpr int kHeadColumns = kGroup * kQueryTokens;
  static constexpr int kWarpTiles = kHopper && kHeadColumns > 8 && kHeadDim <= 128 ? 2 : 1;
  static constexpr int kWantedWarps = power_of_two((kHeadColumns + 8 * kWarpTiles - 1) / (8 * kWarpTiles));
  static constexpr int kTeamWarps = kWantedWarps < kWarps ? kWantedWarps : kWarps;
  static constexpr int kTeams = kWarps / kTeamWarps;
  static constexpr int kTeamThreads = kTeamWarps * 32;
  static constexpr int kTeamColumns = kTeamWarps * kWarpTiles * 8;
  static constexpr int kCrewTeams = kTeamUnits ? 1 : kTeams;
  static constexpr int kCrewThreads = kCrewTeams * kTeamThreads;
  static constexpr int kCrews = kTeams / kCrewTeams;  // of a block
  static constexpr int kColumnTiles = (kHeadColumns + kTeamColumns - 1) / kTeamColumns;
  static constexpr int kUnitColumns = (kHeadColumns + kColumnTiles - 1) / kColumnTiles;
  static constexpr int kUnitsPerItem = kKvHeads * kColumnTiles;

  // Merging: each thread owns kVector neighbouring outputs of a column at a time.
  static constexpr int kVector = kUnitColumns * kHeadDim >= 4 * kCrewThreads ? 4 : 2;
  static constexpr int kMergeRow = kHeadDim + 4;  // floats; the 4 keep rows on different banks
  static constexpr int kMergeAtOnce = 8;          // states whose loads overlap
  static constexpr int kMaxCluster = 8;
  static constexpr bool kClusters = kHopper && kCrews == 1 && kUnitColumns <= 16;  // more columns: too much to send

  // Shared memory, bytes.
  static constexpr int kTeamOutput = kUnitColumns * kMergeRow;                             // floats: O of a team
  static constexpr int kStateOffset = kTeams * kTeamOutput * 4;                            // behind them: max, sum
  static constexpr int kFlagOffset = kStateOffset + (kTeams * kUnitColumns + 1) / 2 * 16;  // "this part is last"
  static constexpr int kClusterOffset = kFlagOffset + (kTeams * 4 + 15) / 16 * 16;
  static constexpr int kClusterOutput = kUnitColumns * kHeadDim * 4;                      // slices of all blocks
  static constexpr int kClusterBuffer = kClusterOutput + kMaxCluster * kUnitColumns * 8;  // and their max, sum
  static constexpr int kClusterBarrierOffset = kClusterOffset + (kClusters ? 2 * kClusterBuffer : 0);
  static constexpr int kBarrierOffset = kClusterBarrierOffset + (kClusters ? 16 : 0);  // ring mbarriers
  static constexpr int kMaxBarriers = kTensorCopy ? kRingBytes / kStageBytes : 0;
  static constexpr int kRingOffset = (kBarrierOffset + kMaxBarriers * 8 + 1023) / 1024 * 1024;
  static constexpr int kRingRoom = kSharedLimit - kRingOffset;
  static constexpr int kStages =
      (kRingBytes < kRingRoom ? kRingBytes : kRingRoom) / (kTeams * kStageBytes);  // of a team
  static_assert(kStages >= 1, "the ring must hold a stage for every team");
  static constexpr int kSharedBytes = kRingOffset + kTeams * kStages * kStageBytes;
  static_assert(kSharedBytes <= kSharedLimit, "a block needs more shared memory than the chip has");
  static_assert(kClusterOffset % 16 == 0 && kClusterBuffer % 8 == 0, "vector stores need aligned buffers");

  // Where 16-byte chunk `chunk` of a tile's row starts: inside a strip the chunks of 8 rows are xored apart against bank
  // conflicts (which is the copy engine's swizzle of this width).
  static __device__ __forceinline__ u32 chunk_offset(int row, int chunk) {
    constexpr int kChunks = kStripBytes / 16;
    return chunk / kChunks * (kTileTokens * kStripBytes) + row * kStripBytes +
           (((chunk % kChunks) ^ (row * kStripBytes / 128 % kChunks)) << 4);
  }
};

// One piece of work; not valid stands for "none".
template <typename Shape>
struct DecodeUnit {
  WorkItem item;
  int index;  // among the units of its item
  bool valid;

  __device__ __forceinline__ int tiles() const {
    return valid ? (item.end - item.begin + Shape::kTileTokens - 1) / Shape::kTileTokens : 0;
  }
  __device__ __forceinline__ int kv_head() const { return index / Shape::kColumnTiles; }
  // Columns of the KV head before this unit's.
  __device__ __forceinline__ int first_column() const {
    return Shape::kColumnTiles > 1 ? index % Shape::kColumnTiles * Shape::kUnitColumns : 0;
  }
  __device__ __forceinline__ int columns() const {
    if (Shape::kQueryTokens == 1 && Shape::kColumnTiles == 1) return Shape::kUnitColumns;
    return max(0, min(item.query_tokens * Shape::kGroup - first_column(), Shape::kUnitColumns));
  }
  // The query token and the query head of one of the unit's columns.
  __device__ __forceinline__ int token_of(int column) const {
    return Shape::kQueryTokens == 1 ? 0 : (first_column() + column) / Shape::kGroup;
  }
  __device__ __forceinline__ int head_of(int column) const {
    return kv_head() * Shape::kGroup + (first_column() + column) % Shape::kGroup;
  }
  // One past the last token that a column sees.
  __device__ __forceinline__ int limit_of(int column) const {
    return Shape::kQueryTokens == 1 ? item.end : min(item.end, item.visible + token_of(column));
  }
};

// This thread's place among those that share its units.
template <typename Shape>
struct DecodeCrew {
  int team;    // of the block
  int member;  // warp of the team
  int lane;

  __device__ __forceinline__ DecodeCrew()
      : team((threadIdx.x >> 5) / Shape::kTeamWarps),
        member((threadIdx.x >> 5) % Shape::kTeamWarps),
        lane(threadIdx.x & 31) {}

  // Of the block's crews.
  __device__ __forceinline__ int index() const { return team / Shape::kCrewTeams; }
  // Of the crew's teams.
  __device__ __forceinline__ int place() const { return team % Shape::kCrewTeams; }
  __device__ __forceinline__ int thread() const { return threadIdx.x % Shape::kCrewThreads; }

  // These order writes to shared memory, too.
  __device__ __forceinline__ void sync_team() const { sync_some<Shape::kTeamThreads>(team); }
  __device__ __forceinline__ void sync() const { sync_some<Shape::kCrewThreads>(index()); }

 private:
  template <int kThreads>
  static __device__ __forceinline__ void sync_some(int number) {
    if constexpr (kThreads == 32) {
      __syncwarp();
    } else if constexpr (kThreads == Shape::kThreads) {
      __syncthreads();
    } else {
      named_barrier_sync(1 + number, kThreads);
    }
  }
};

// Walks the units of this crew. The next one's item is already on its way when a unit is handed out.
template <typename Shape>
struct UnitCursor {
  using Unit = DecodeUnit<Shape>;

  const WorkItem* items;
  int count;    // items in the list
  int slices;   // blocks that share a unit
  float scale;  // of the logits, in base 2
  int walker, walkers;
  int round = 0;
  int4 low, high;

  // The first item is read beside the header, not after it: the list always has room for as many as there are crews.
  __device__ __forceinline__ explicit UnitCursor(const DecodeParams& params)
      : items(items_of<WorkItem>(params.plan)), slices(1), walker(blockIdx.x), walkers(gridDim.x) {
    if constexpr (Shape::kClusters) {
      slices = cluster_size();
      walker = cluster_index();
      walkers = cluster_count();
    }
    if constexpr (Shape::kCrews > 1) {
      walker = blockIdx.x * Shape::kCrews + DecodeCrew<Shape>().index();
      walkers = gridDim.x * Shape::kCrews;
    }
    const int4 header = load_ahead(reinterpret_cast<const int4*>(params.plan));
    read(walker / Shape::kUnitsPerItem);
    count = header.x;
    scale = __int_as_float(header.y);
  }

  __device__ __forceinline__ Unit next() {
    const int index = position();
    Unit unit = {};
    if (index < count * Shape::kUnitsPerItem) {
      unit.item = {low.x,
                   low.y,
                   low.z,
                   low.w,
                   high.x,
                   static_cast<u16>(high.y),
                   static_cast<u16>(high.y >> 16),
                   static_cast<u16>(high.z),
                   static_cast<u16>(high.z >> 16),
                   high.w};
      unit.index = index % Shape::kUnitsPerItem;
      unit.valid = true;
      if (Shape::kClusters && slices > 1) {  // this block's slice, maybe an empty one
        const int tiles = unit.tiles(), slice = cluster_rank(), first = unit.item.begin, last = unit.item.end;
        unit.item.begin = min(last, first + slice * tiles / slices * Shape::kTileTokens);
        unit.item.end = min(last, first + (slice + 1) * tiles / slices * Shape::kTileTokens);
      }
    }
    round++;
    const int at = position() / Shape::kUnitsPerItem;
    if (at < count) read(at);
    return unit;
  }

 private:
  __device__ __forceinline__ int position() const {
    return round * walkers + ((round & 1) ? walkers - 1 - walker : walker);
  }

  __device__ __forceinline__ void read(int at) {
    const int4* source = reinterpret_cast<const int4*>(items + at);
    low = load_ahead(source);
    high = load_ahead(source + 1);
  }
};

}  // namespace flashinfer
