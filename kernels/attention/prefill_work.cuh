// What a prefill kernel is made for, how its tiles lie in shared memory, and how its blocks share the work.
//
// Head tile = kPack neighbouring query heads of one KV head; they share a tile of kTileRows rows, where row r is query token
// r / kPack with head r % kPack of the tile: keys and values are read once for all of them, and a few query tokens fill it.
// Unit of work = (item of the host's list, head tile): up to kTileTokens query tokens over one range of tokens. Unit u of a
// list of h heads an item is head tile u % h, from the item's on, of item u / h. Block b starts with unit b; every further
// one comes from a counter, so that units are taken in the order of the list (long ones first), each by the block that is
// free. The last block to finish puts the counter back for the next launch.
#pragma once

#include "attention/variant.cuh"
#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

constexpr __host__ __device__ int greatest_divisor(int a, int b) { return b == 0 ? a : greatest_divisor(b, a % b); }

// How many of a group's heads share a tile: as many as divide the group and fit with so many query tokens each. Any number
// of query tokens (0) should fill tiles, so that no more than 8 rows may be idle.
constexpr __host__ __device__ int packed_heads(int group, int rows, int query_tokens) {
  int pack = 1;
  for (int heads = 2; heads <= group && heads * query_tokens <= rows; heads++) {
    if (group % heads == 0 && (query_tokens > 0 || rows % heads <= 8)) pack = heads;
  }
  return pack;
}

// All constants of a configuration on this architecture. Tuning numbers stand here, each with its reason. kStaged: another kernel
// (stage.cuh), or where that is but copying a warp of this one, makes ragged rows of the query's type of the cache's tokens, and turns the keys.
template <typename Config, bool kStaged = false>
struct PrefillShape {
  using Element = typename Config::Element;
  using KvElement = typename Choice<kStaged, Element, typename Config::KvElement>::Type;
  // Quantised keys and values become halves, which hold each of them exactly; so do query and weights then.
  using MathElement = typename KvElement::MathElement;
  static constexpr bool kQuantised = KvElement::kBytes == 1;
  static constexpr bool kHasScales = Config::KvElement::kBytes == 1;  // of keys and values, whatever they became
  static_assert(kQuantised || IsSame<Element, KvElement>::value, "keys and values are of Q's type, or quantised");
  using Variant = typename Config::Variant;
  using Hooks = VariantHooks<Variant>;
  static constexpr bool kTurnsKeys = Hooks::kRotates && !kStaged;
  static constexpr bool kChecked = Config::kChecked;
  // Decode of more columns than its own kernel reads keys and values once for: at most kQueryTokens of a sequence. Prefill
  // has any number of them, which 0 stands for.
  static constexpr bool kDecodes = Config::kQueryTokens > 0;

  static constexpr int kHeads = Config::kHeads;
  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;                  // of Q and K
  static constexpr int kValueDim = Config::kValueDim;                // of V and the output
  static constexpr int kPageSize = kStaged ? 0 : Config::kPageSize;  // 0: keys and values are ragged, packed rows
  static constexpr int kGroup = kHeads / kKvHeads;
  static constexpr bool kPaged = kPageSize > 0;
  // Where staging is nothing but copying, the pages' size: a warp of this kernel can do it on the way. Else 0.
  static constexpr int kStagedPageSize = kStaged && !Hooks::kRotates && !kHasScales ? Config::kPageSize : 0;
  static_assert(kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static constexpr __host__ __device__ bool is_dim(int dim) {
    return dim == 64 || dim == 96 || dim == 128 || dim == 192 || dim == 256;
  }
  static_assert(is_dim(kHeadDim), "headDim must be 64, 96, 128, 192 or 256");
  static_assert(is_dim(kValueDim), "the values' headDim must be 64, 96, 128, 192 or 256");

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  // Warpgroup matrix products can't be under way around a loop. Quantised keys and values are widened in shared memory, which has no
  // room for wide ones twice; decode waits for memory, and has registers to widen them in.
  static constexpr bool kHopper =
      !Hooks::kHasLoops && (!kQuantised || (kHeadDim <= 128 && kValueDim <= 128 && !kDecodes));
#else
  static constexpr bool kHopper = false;
#endif

  // A tile in shared memory is made of columns of 128 bytes, or 64 where headDim is no multiple of 64; the index of a
  // row's 16-byte chunk is xored with the row against bank conflicts, as the copy engine's swizzle of that width does.
  static constexpr int kColumn = kHeadDim % 64 == 0 && kValueDim % 64 == 0 ? 64 : 32;  // elements
  static constexpr int kColumns = kHeadDim / kColumn;                                  // of Q and K
  static constexpr int kValueColumns = kValueDim / kColumn;
  static constexpr int kRowBytes = kColumn * 2;         // of a row of one column
  static constexpr int kRowChunks = kColumn / 8;        // 16-byte chunks of it
  static constexpr int kHeadChunks = kHeadDim / 8;      // of a row of all columns of Q or K
  static constexpr int kValueChunks = kValueDim / 8;    // of V or the output
  static constexpr int kRowTotalBytes = kHeadDim * 2;   // of a row of all columns of Q or K
  static constexpr int kValueRowBytes = kValueDim * 2;  // of V or the output

  static __device__ __forceinline__ int swizzled(int chunk, int row) {
    return chunk ^ (kColumn == 64 ? row & 7 : (row >> 1) & 3);
  }

  // Where in headDim the pairs of outputs that a thread of a quad accumulates stand; two of them are neighbours when
  // quantised values came four to a register.
  static __device__ __forceinline__ int pair_element(int pair, int quad) {
    return kQuantised && !kHopper ? pair / 2 * 16 + quad * 4 + pair % 2 * 2 : pair * 8 + quad * 2;
  }

  // And where the two elements of a word of a 16-byte chunk of Q do: the order of headDim in a step is that of the keys' bytes.
  static __device__ __forceinline__ int query_element(int chunk, int word) {
    return kQuantised && !kHopper ? chunk / 2 * 16 + chunk % 2 * 2 + word * 4 : chunk * 8 + word * 2;
  }

  // Hopper: a consumer's softmax takes longer than the products of two. Three consumers, 192 rows, were 1.1 to 1.25 times as
  // fast with headDim 64; with 96, 0.92 (full attention over 512) to 1.15 for 112 keys, with a variant or scales registers are
  // enough for 96, with several options for 80; with 128, for 64 keys, 1.0 to 1.07; but slower where a tile of one head rounds
  // short sequences up. Else 128 x 128 up to headDim 128 (176 keys lost everywhere); above, K and V of two steps, Q and the
  // output's staging leave room for 80 and 64 keys, with shorter values for 112. Two consumers and a preparer have registers
  // for 96, and for 80 and 64 where Q lies in shared memory, 16 less with options that take some.
  // Portable: two blocks of 4 warps fill each other's gaps on an SM, and 32 rows a warp halve what ldmatrix reads for each
  // product; a headDim above 128 has registers for 16. As many tokens a step as there are registers for, if the shared memory
  // of two blocks has room, else half. Where headDim 256 leaves no room for a second block, one has 8 warps.
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static constexpr int kSharedPerSm = 100 * 1024;
#elif __CUDA_ARCH__ >= 900
  static constexpr int kSharedPerSm = 228 * 1024;
#else
  static constexpr int kSharedPerSm = 164 * 1024;
#endif
  static constexpr int kWiderDim = kHeadDim > kValueDim ? kHeadDim : kValueDim;
  static constexpr int kTokenBytes = (kHeadDim + kValueDim) * KvElement::kBytes + 12;  // with three page ids
  static constexpr int kSlabs = kWiderDim <= 128 ? 2 : 1;                              // of 16 rows, of a warp
#if __CUDA_ARCH__ >= 890
  static constexpr bool kWidensInRegisters = false;  // one instruction does it
#else
  static constexpr bool kWidensInRegisters = kQuantised;
#endif
  static constexpr int kMostTokens = kQuantised && Hooks::kRotates    ? 32
                                     : kWiderDim <= 64                ? (kChecked || kQuantised ? 64 : 128)
                                     : kHeadDim != 128                ? 64
                                     : kChecked || kWidensInRegisters ? 32
                                                                      : 64;
  // In shared memory, where a warp's accumulators leave no registers for maxima and sums.
  static constexpr int kStateBytes = kSlabs * (kMostTokens + kValueDim) >= 384 ? 4096 : 0;
  static constexpr int kPortableRows = kWiderDim > 128 &&
                                               2 * (64 * kHeadDim * 2 + 32 * kTokenBytes + 2048) <= kSharedPerSm
                                           ? 64
                                           : 128;
  static constexpr int kPortableTokens =
      2 * (kPortableRows * kHeadDim * 2 + kMostTokens * kTokenBytes + kStateBytes + 2048) <= kSharedPerSm ? kMostTokens
      : kMostTokens > 32 ? kMostTokens / 2
                         : 32;
  static constexpr bool kWideGroup = kWiderDim <= 128 && kGroup > 1;
  static constexpr bool kPrepares = kTurnsKeys || kQuantised;  // Hopper: a warpgroup does that
  static constexpr int kHopperRows = !kDecodes && !kPrepares && (kWiderDim == 64 || kWideGroup) ? 192 : 128;
  static constexpr int kMostRows = kHopper ? kHopperRows : kPortableRows;
  static constexpr int kPack = packed_heads(kGroup, kMostRows, Config::kQueryTokens);
  static constexpr int kTileTokens = kDecodes ? Config::kQueryTokens : kMostRows / kPack;
  static constexpr int kUsedRows = kPack * kTileTokens;
  static constexpr int kTileRows = kHopper ? round_up(kUsedRows, 64) : kMostRows;
  static constexpr int kHeadTiles = kHeads / kPack;
  static constexpr bool kHasMore = Hooks::kShapes || Hooks::kRotates || kHasScales;  // to do than plain attention
  // Registers: of consumers, or of the producer where it skips some of many boxes, or a stager stands beside one that skips. Scarce ones are so at
  // every headDim.
  static constexpr bool kNeedsMany = Hooks::kTakes > 1 || Variant::kMasksBytes ||
                                     (Hooks::kSkips && (kStagedPageSize > 0 || (kPaged && kPageSize % 16 == 8)));
  static constexpr bool kIsScarce = Hooks::kTakes > 1 && Hooks::kTakesMany;
  static constexpr int kTurningTokens = kWiderDim <= 64    ? 128
                                        : kWiderDim <= 128 ? 96
                                        : kWiderDim <= 192 ? (Hooks::kTakes > 0 ? 64 : 80)
                                                           : (Hooks::kTakesMany ? 48 : 64);
  static constexpr int kHopperTokens = kPrepares                              ? kTurningTokens
                                       : kHopperRows == 192 && kWiderDim > 96 ? 64
                                       : kHopperRows == 192 && kWiderDim > 64 ? (kIsScarce  ? 80
                                                                                 : kHasMore ? 96
                                                                                            : 112)
                                       : kHopperRows == 192 && kNeedsMany     ? 96
                                       : kWiderDim <= 128                     ? 128
                                       : kHeadDim <= 192 && kValueDim <= 128  ? 112
                                       : kWiderDim <= 192                     ? 80
                                                                              : 64;
  static constexpr int kBlockTokens = kHopper ? kHopperTokens : kPortableTokens;
  static constexpr int kQueryBytes = kTileRows * kRowTotalBytes;
  static constexpr int kBlockBytes = kBlockTokens * kRowTotalBytes;  // K of one step
  static constexpr int kValueBlockBytes = kBlockTokens * kValueRowBytes;
};

// Blocks that a tile leaves out, between others, if its variant skips keys; and the tokens of its range before any that a row skips.
struct SkippedBlocks {
  int first;
  int count;
  int before;
};

__device__ __forceinline__ SkippedBlocks load_skipped(u32 address) {
  return {load_shared_word(address), load_shared_word(address + 4), load_shared_word(address + 8)};
}
__device__ __forceinline__ void store_skipped(u32 address, const SkippedBlocks& skipped) {
  store_shared(address, static_cast<u32>(skipped.first));
  store_shared(address + 4, static_cast<u32>(skipped.count));
  store_shared(address + 8, static_cast<u32>(skipped.before));
}

// One unit, and what follows from it. Its blocks are numbered as they are walked.
template <typename Shape>
struct PrefillTile {
  static constexpr int kWords = sizeof(WorkItem) / 4 + 1;

  WorkItem item;
  int head_tile;
  SkippedBlocks skipped;

  // From the words of the item and the head tile.
  static __device__ __forceinline__ PrefillTile unpack(const i32 (&words)[kWords], const SkippedBlocks& skipped) {
    const auto low = [](i32 word) { return static_cast<u16>(word); };
    const auto high = [](i32 word) { return static_cast<u16>(static_cast<u32>(word) >> 16); };
    return {{words[0], words[1], words[2], words[3], words[4], low(words[5]), high(words[5]), low(words[6]),
             high(words[6]), words[7]},
            words[8],
            skipped};
  }

  __device__ __forceinline__ bool exists() const { return item.query_tokens != 0; }
  __device__ __forceinline__ int rows() const { return item.query_tokens * Shape::kPack; }
  // Which of the item's units this is.
  __device__ __forceinline__ int unit() const { return head_tile - item.head; }
  __device__ __forceinline__ int first_head() const { return head_tile * Shape::kPack; }
  __device__ __forceinline__ int kv_head() const { return first_head() / Shape::kGroup; }
  // The query token (from the item's first) and the query head of a row.
  __device__ __forceinline__ static int token_of(u32 row) { return row / Shape::kPack; }
  __device__ __forceinline__ int head_of(u32 row) const { return first_head() + row % Shape::kPack; }

  // One past the last token of the sequence that a row sees of this range.
  __device__ __forceinline__ int limit_of(int row) const { return min(item.end, item.visible + token_of(row)); }
  // Tokens of the range that the tile's last row sees: no row sees more. 0 when nothing is visible.
  __device__ __forceinline__ int tokens() const {
    return max(0, min(item.end, item.visible + item.query_tokens - 1) - item.begin);
  }
  __device__ __forceinline__ int blocks() const {
    const int blocks = (tokens() + Shape::kBlockTokens - 1) / Shape::kBlockTokens;
    return Shape::Hooks::kSkips ? blocks - skipped.count : blocks;
  }
  // The token of the range at which block n begins.
  __device__ __forceinline__ int start_of(int n) const {
    return (Shape::Hooks::kSkips && n >= skipped.first ? n + skipped.count : n) * Shape::kBlockTokens;
  }

  // What a tile that skips nothing yet may skip: blocks that its first row does not see, since no later row does. At least one remains.
  __device__ __forceinline__ SkippedBlocks skipped_by(const KeyRange& first_row, const KeyRange& last_row) const {
    const int first = max(0, first_row.first - item.begin + Shape::kBlockTokens - 1) / Shape::kBlockTokens;
    const int end = min(blocks(), max(0, first_row.end - item.begin) / Shape::kBlockTokens);
    const int before = last_row.first < last_row.end ? last_row.first - item.begin : item.end - item.begin;
    return {first, max(0, min(end - first, blocks() - 1)), before};
  }
};

// Leaves the queue zero for the next launch. One thread of each block calls it, when it takes no more units.
__device__ __forceinline__ void finish_queue(u32* queue) {
  __threadfence();
  if (atomicAdd(queue + 1, 1) == gridDim.x - 1) {
    queue[0] = 0;
    queue[1] = 0;
  }
}

}  // namespace flashinfer
