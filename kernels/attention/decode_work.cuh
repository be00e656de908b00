// What a decode kernel is made for, and how its warps share the work.
//
// Column = one query head of one query token; the columns of a KV head are its group's heads, token after token.
// Unit of work = (item of the host's list, KV heads, column tile): up to kUnitColumns columns, as many as a warp holds, over
//   one range of tokens. Where rows are short, neighbouring KV heads share a unit (kUnitHeads).
// Crew = the warps that share a unit, each taking every so-manieth tile of its tokens: all warps of a block, or, in the
//   kernel for short sequences (kTeamUnits), one warp alone, so that nothing has to be merged.
// Units stand longest first; crew w of n takes units w, 2n-1-w, 2n+w, ... (there and back), so that the loads even out. In
// a launch with clusters of c > 1 blocks, n counts clusters, and the c blocks of a cluster take each unit together, every
// block a slice of its tokens.
#pragma once

#include "attention/variant.cuh"
#include "core/float8.cuh"
#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// KV heads of a unit. Memory gives its full bandwidth to rows of whole 256 bytes, and shorter ones or ones between are that
// only together with the next heads' (NHD). So heads are added, as long as none is left over and a warp has room for the
// column tiles of all.
constexpr __host__ __device__ int unit_heads(int kv_heads, int row_bytes, int tiles, int most_tiles) {
  int heads = 1;
  while (heads * row_bytes % 256 != 0 && kv_heads % (2 * heads) == 0 && 2 * heads * tiles <= most_tiles) heads *= 2;
  return heads;
}

// All constants of a configuration on this architecture. Tuning numbers stand here, each with its reason.
template <typename Config>
struct DecodeShape {
  using Element = typename Config::Element;
  using KvElement = typename Config::KvElement;
  // Quantised keys and values become halves, which hold each of them exactly; so do query and weights then.
  using MathElement = typename KvElement::MathElement;

  using Variant = typename Config::Variant;
  using Hooks = VariantHooks<Variant>;
  static constexpr bool kChecked = Config::kChecked;
  static constexpr int kHeads = Config::kHeads;
  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kPageSize = Config::kPageSize;  // 0: keys and values are ragged, packed rows
  static constexpr bool kPaged = kPageSize > 0;
  static constexpr int kQueryTokens = Config::kQueryTokens;
  static constexpr bool kTeamUnits = Config::kTeamUnits;
  static constexpr bool kWideUnits = Config::kWideUnits;    // for large batches: units of more KV heads
  static constexpr bool kHeadsFirst = Config::kHeadsFirst;  // HND: the rows of a page's head lie side by side
  static constexpr int kGroup = kHeads / kKvHeads;
  static_assert(kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static_assert(kHeadDim % 32 == 0, "headDim must be a multiple of 32: a tile is made of strips of 32 bytes or more");
  static_assert(kQueryTokens >= 1, "a sequence has a query token");

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  static constexpr bool kHopper = true;
#else
  static constexpr bool kHopper = false;
#endif

  // Bytes in flight: 64 to 128 KB per SM saturate the memory, more is slower, but where it makes two stages of one (wide
  // units, which have no clusters to find room for); chips with 99 KB of shared memory get half.
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static constexpr int kRingBytes = 64 * 1024;
#else
  static constexpr int kRingBytes = (kWideUnits && kHopper ? 192 : 128) * 1024;
#endif
  static constexpr int kSharedLimit = (kHopper ? 227 : kRingBytes > 64 * 1024 ? 163 : 99) * 1024;

  static constexpr int kSlabTokens = 16;  // M of mma.m16n8k16
  // A slab that lies in one page is one box for the copy engine.
  static constexpr bool kPagePerSlab = kPaged && kPageSize % kSlabTokens == 0;
  static constexpr bool kTensorCopy = kHopper && kPagePerSlab;

  // Tiles of 8 columns (N of the instruction) that a warp has registers for; of headDim 192 two, where the copy engine needs
  // none for addresses. Keys that turn take some, too.
  static constexpr bool kFourTiles =
      kQueryTokens == 1 && (kHeadDim <= 64 ? kTensorCopy || !Hooks::kRotates : kWideUnits && kTensorCopy);
  static constexpr int kMostTiles = kFourTiles                                                                ? 4
                                    : kHeadDim <= 128 || (kHeadDim <= 192 && kTensorCopy && !Hooks::kRotates) ? 2
                                                                                                              : 1;
  // Q stays in registers where O leaves room for it; else a warp reads it from where the crew has put it, again for each tile.
  static constexpr bool kKeepsQuery = kHeadDim <= 256;
  static constexpr int kHeadColumns = kGroup * kQueryTokens;
  static constexpr int kRowBytes = kHeadDim * KvElement::kBytes;  // of a KV head's token
  // Above headDim 128 two heads leave no registers to widen 8-bit elements in, nor for limits of query tokens.
  static constexpr bool kHeadsFit = kHeadDim <= 128 || (KvElement::kBytes == 2 && kQueryTokens == 1);
  // The rows of a page of a head are neighbours (HND): whole 256 bytes, whatever theirs. Shorter ones still gain from more
  // heads where there are few sequences.
  static constexpr bool kHeadAlone = !kHeadsFit || (kHeadsFirst && kRowBytes > 128);
  static constexpr int kUnitHeads =
      kHeadAlone ? 1 : unit_heads(kKvHeads, kRowBytes, (kHeadColumns + 7) / 8, kMostTiles);

  // A slab of tokens in shared memory: strips of all its rows, as wide as the copy engine's swizzle. A token's rows of the
  // unit's heads stand one behind the other; strips run over from one into the next where they do in memory, too (NHD). A
  // tile is what a stage holds of K and of V: two slabs of 2 KB are 1 % faster than one; two of 1 KB were slower.
  static constexpr int kUnitRowBytes = kUnitHeads * kRowBytes;
  static constexpr int kJoinedBytes = kHeadsFirst ? kRowBytes : kUnitRowBytes;
  static constexpr int kStripBytes = kJoinedBytes % 128 == 0 ? 128 : kJoinedBytes % 64 == 0 ? 64 : 32;
  static constexpr int kSlabBytes = kSlabTokens * kUnitRowBytes;
  static constexpr int kSlabs = kSlabBytes == 2048 ? 2 : 1;
  static constexpr int kTileTokens = kSlabs * kSlabTokens;
  static constexpr int kTileBytes = kSlabs * kSlabBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;  // K and V

  // Columns, and where the warps' are merged.
  static constexpr int kMergeRow = kHeadDim + 4;            // floats; the 4 keep rows on different banks
  static constexpr int kColumnBytes = (kMergeRow + 2) * 4;  // O, max and sum of a warp's column
  static constexpr int kSmall = 512;                        // flag and barriers, at most
  static constexpr int kRingAlign = 1024;                   // of the copy engine's swizzle
  static constexpr int kHeadTiles = kUnitHeads > 1                       ? (kHeadColumns + 7) / 8
                                    : kHeadColumns > 8 && kMostTiles > 1 ? 2
                                                                         : 1;  // of a KV head
  static constexpr int kWarpTiles = kUnitHeads * kHeadTiles;
  static constexpr int kColumnTiles = (kHeadColumns + kHeadTiles * 8 - 1) / (kHeadTiles * 8);
  static constexpr int kUnitHeadColumns = (kHeadColumns + kColumnTiles - 1) / kColumnTiles;  // of one KV head
  static constexpr int kUnitColumns = kUnitHeads * kUnitHeadColumns;                         // head after head
  static constexpr int kUnitsPerItem = kKvHeads / kUnitHeads * kColumnTiles;
  static_assert(kUnitHeads == 1 || kColumnTiles == 1, "a unit of several heads has all their columns");

  // Two stages a warp matter more than eight warps; and where shared memory is small, so do a place to merge in and a stage.
  static constexpr int kWarps =
      kStageBytes <= 8192 && round_up(8 * kUnitColumns * kColumnBytes + kSmall, kRingAlign) + kRingBytes <= kSharedLimit
          ? 8
      : round_up(4 * kUnitColumns * kColumnBytes + kSmall, kRingAlign) + 4 * kStageBytes <= kSharedLimit ? 4
                                                                                                         : 2;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kBlocksPerSm = 1;
  static constexpr int kCrewWarps = kTeamUnits ? 1 : kWarps;
  static constexpr int kCrewThreads = kCrewWarps * 32;
  static constexpr int kCrews = kWarps / kCrewWarps;  // of a block

  // Merging: each thread owns kVector neighbouring outputs of a column at a time.
  static constexpr int kVector = 4;
  static constexpr int kMergeAtOnce = 8;  // states whose loads overlap
  static constexpr int kMaxCluster = 8;

  // Shared memory, bytes. The stages of a warp come as near to kRingBytes as whole ones can.
  static constexpr int kWarpOutput = kUnitColumns * kMergeRow;  // floats: O of a warp
  static constexpr int kStateOffset = kWarps * kWarpOutput * 4;
  static constexpr int kFlagOffset = round_up(kWarps * kUnitColumns * kColumnBytes, 16);  // "this part is last"
  static constexpr int kClusterOffset = round_up(kFlagOffset + kCrews * 4, 16);
  static constexpr int kClusterOutput = kUnitColumns * kHeadDim * 4;                      // slices of all blocks
  static constexpr int kClusterBuffer = kClusterOutput + kMaxCluster * kUnitColumns * 8;  // and their max, sum
  static constexpr int kRoundBytes = kWarps * kStageBytes;                                // a stage of every warp
  static constexpr int kWantedStages = (kRingBytes + kRoundBytes / 2) / kRoundBytes;
  static constexpr bool kClusters =
      kHopper && kCrews == 1 &&
      round_up(kClusterOffset + 2 * kClusterBuffer + kSmall, kRingAlign) + kWantedStages * kRoundBytes <= kSharedLimit;
  static constexpr int kBarrierOffset = kClusterOffset + (kClusters ? 2 * kClusterBuffer : 0);
  static constexpr int kClusterBarriers = kClusters ? 2 : 0;
  static constexpr int kRingOffset =
      round_up(kBarrierOffset + (kClusterBarriers + kWarps * kWantedStages) * 8, kRingAlign);
  static constexpr int kFitting = (kSharedLimit - kRingOffset) / kRoundBytes;
  static constexpr int kStages = kWantedStages < kFitting ? kWantedStages : kFitting;  // of a warp
  static constexpr int kRingBarriers = kTensorCopy ? kStages : 0;                      // of a warp
  static constexpr int kBarriers = kClusterBarriers + kWarps * kRingBarriers;
  static_assert(kStages >= 1, "the ring must hold a stage for every warp");
  static constexpr int kSharedBytes = kRingOffset + kStages * kRoundBytes;
  static_assert(kSharedBytes <= kSharedLimit, "a block needs more shared memory than the chip has");
  static_assert(kBarrierOffset % 8 == 0 && kClusterBuffer % 8 == 0, "vector stores need aligned buffers");

  // Where 16-byte chunk `chunk` of a token's row starts: inside a strip the chunks of 8 rows are xored apart against bank
  // conflicts (which is the copy engine's swizzle of this width).
  static __device__ __forceinline__ u32 chunk_offset(int row, int chunk) {
    constexpr int kChunks = kStripBytes / 16;
    return chunk / kChunks * (kSlabTokens * kStripBytes) + row * kStripBytes +
           (((chunk % kChunks) ^ (row * kStripBytes / 128 % kChunks)) << 4);
  }
};

// One piece of work; not valid stands for "none".
template <typename Shape>
struct DecodeUnit {
  WorkItem item;
  int index;    // among the units of its item
  int settled;  // kernels before this one may still be writing keys and values from this token on
  bool valid;

  __device__ __forceinline__ int tiles() const {
    return valid ? (item.end - item.begin + Shape::kTileTokens - 1) / Shape::kTileTokens : 0;
  }
  // The first of the unit's KV heads.
  __device__ __forceinline__ int kv_head() const { return index / Shape::kColumnTiles * Shape::kUnitHeads; }
  // Columns of the KV head before this unit's.
  __device__ __forceinline__ int first_column() const {
    return Shape::kColumnTiles > 1 ? index % Shape::kColumnTiles * Shape::kUnitHeadColumns : 0;
  }
  // Columns of each of the unit's KV heads.
  __device__ __forceinline__ int head_columns() const {
    if (Shape::kQueryTokens == 1 && Shape::kColumnTiles == 1) return Shape::kUnitHeadColumns;
    return max(0, min(item.query_tokens * Shape::kGroup - first_column(), Shape::kUnitHeadColumns));
  }
  // Columns from the first to the last; of several KV heads' each has room for kUnitHeadColumns.
  __device__ __forceinline__ int columns() const {
    return Shape::kUnitHeads == 1 ? head_columns() : Shape::kUnitColumns;
  }
  // Whether there is such a column between the first and the last.
  __device__ __forceinline__ bool has(int column) const {
    return Shape::kUnitHeads == 1 || column % Shape::kUnitHeadColumns < head_columns();
  }
  // The query token and the query head of one of the unit's columns.
  __device__ __forceinline__ int token_of(int column) const {
    return Shape::kQueryTokens == 1 ? 0 : (first_column() + column % Shape::kUnitHeadColumns) / Shape::kGroup;
  }
  __device__ __forceinline__ int head_of(int column) const {
    return (kv_head() + column / Shape::kUnitHeadColumns) * Shape::kGroup +
           (first_column() + column % Shape::kUnitHeadColumns) % Shape::kGroup;
  }
  // One past the last token that a column sees.
  __device__ __forceinline__ int limit_of(int column) const {
    return Shape::kQueryTokens == 1 ? item.end : min(item.end, item.visible + token_of(column));
  }
};

// This thread's place among those that share its units.
template <typename Shape>
struct DecodeCrew {
  int warp;  // of the block
  int lane;

  __device__ __forceinline__ DecodeCrew() : warp(threadIdx.x >> 5), lane(threadIdx.x & 31) {}

  // Of the block's crews.
  __device__ __forceinline__ int index() const { return warp / Shape::kCrewWarps; }
  // Of the crew's warps.
  __device__ __forceinline__ int place() const { return warp % Shape::kCrewWarps; }
  __device__ __forceinline__ int thread() const { return threadIdx.x % Shape::kCrewThreads; }

  // Orders writes to shared memory, too.
  __device__ __forceinline__ void sync() const {
    if constexpr (Shape::kCrewWarps == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
};

// For variants, the contexts of a list's items: of the unit that was handed out last, and of the one after it.
struct UnitContexts {
  const VariantData* variant;
  const int4* all;
  int4 current, next;

  __device__ __forceinline__ void find(const VariantData* data) {
    variant = data;
    all = reinterpret_cast<const int4*>(data->contexts);
  }
  __device__ __forceinline__ void read(int at) { next = load_ahead(all + at); }
  __device__ __forceinline__ ItemContext unit() const { return {current.x, current.y, current.z, current.w}; }
};

template <bool kWanted>
struct UnitContextsFor {};
template <>
struct UnitContextsFor<true> {
  UnitContexts contexts;
};

// Walks the units of this crew. The next one's item is already on its way when a unit is handed out.
template <typename Shape>
struct UnitCursor : UnitContextsFor<Shape::Hooks::kWantsContext> {
  using Unit = DecodeUnit<Shape>;

  const WorkItem* items;
  int count;            // items in the list
  int fresh_tokens;     // of a sequence: its last ones, which this step may still write
  int slice_shift = 0;  // 1 << slice_shift blocks share a unit
  float scale;          // of the logits, in base 2
  int walker, walkers;
  int round = 0;
  int4 low, high;

  // The first item is read beside the header, not after it: the list always has room for as many as there are crews.
  __device__ __forceinline__ explicit UnitCursor(const DecodeParams& params)
      : items(items_of<WorkItem>(params.plan)), walker(blockIdx.x), walkers(gridDim.x) {
    if constexpr (Shape::kClusters) {
      slice_shift = 31 - __clz(cluster_size());
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
    fresh_tokens = header.w;
    scale = __int_as_float(header.y);
    if constexpr (Shape::Hooks::kWantsContext) {
      this->contexts.find(params.variant);
      if (walker / Shape::kUnitsPerItem < count) this->contexts.read(walker / Shape::kUnitsPerItem);
    }
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
      unit.settled = unit.item.visible - fresh_tokens;
      unit.valid = true;
      if constexpr (Shape::Hooks::kWantsContext) this->contexts.current = this->contexts.next;
      if (Shape::kClusters && slice_shift > 0) {  // this block's slice, maybe an empty one
        const int tiles = unit.tiles(), slice = cluster_rank(), first = unit.item.begin, last = unit.item.end;
        unit.item.begin = min(last, first + (slice * tiles >> slice_shift) * Shape::kTileTokens);
        unit.item.end = min(last, first + ((slice + 1) * tiles >> slice_shift) * Shape::kTileTokens);
      }
    }
    round++;
    const int at = position() / Shape::kUnitsPerItem;
    if (at < count) {
      read(at);
      if constexpr (Shape::Hooks::kWantsContext) {
        // Over a unit no registers are left to keep the address.
        if (Shape::kHeadDim == 512) this->contexts.find(anew(this->contexts.variant));
        this->contexts.read(at);
      }
    }
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
