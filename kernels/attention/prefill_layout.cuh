// Shared memory of the Hopper prefill kernel, and the barriers between its warpgroups.
#pragma once

#include "attention/prefill_work.cuh"
#include "core/hopper.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// A place in a ring of slots, and whether it is in an odd round.
template <int kSlots>
struct RingPlace {
  u32 slot = 0;
  u32 phase = 0;

  __device__ __forceinline__ void next() {
    slot = slot == kSlots - 1 ? 0 : slot + 1;
    phase ^= slot == 0 ? 1 : 0;
  }

  // So many places on, at most one round.
  __device__ __forceinline__ void skip(u32 count) {
    slot += count;
    if (slot >= kSlots) {
      slot -= kSlots;
      phase ^= 1;
    }
  }
};

// The same for consumers, who have all slots in turn. Where these are a power of two, slot and phase can be bits of one counter, in bytes of
// barriers: that takes fewer instructions and registers.
template <int kSlots, bool kCounts>
struct RingCounter {
  u32 at = 0;

  __device__ __forceinline__ u32 slot() const { return at / 8 % kSlots; }
  __device__ __forceinline__ u32 phase() const { return at / (8 * kSlots) & 1; }
  __device__ __forceinline__ void next() { at += 8; }
};
template <int kSlots>
struct RingCounter<kSlots, false> {
  u32 at = 0;
  u32 odd = 0;

  __device__ __forceinline__ u32 slot() const { return at; }
  __device__ __forceinline__ u32 phase() const { return odd; }
  __device__ __forceinline__ void next() {
    at = at == kSlots - 1 ? 0 : at + 1;
    odd ^= at == 0 ? 1 : 0;
  }
};

// Where in its row of so many bytes a 16-byte chunk lies, as the copy engine swizzles.
template <int kRowBytes>
__device__ __forceinline__ u32 swizzled_chunk(u32 chunk, u32 row) {
  return power_of_two(kRowBytes) == kRowBytes ? chunk ^ (row * kRowBytes / 128 % (kRowBytes / 16)) : chunk;
}

// K or V of a block as it is copied, elements of 16 bits or 8. Ragged: [column][token][kRowBytes]. Paged: [token / 8][column]
// [8 tokens][kRowBytes], so that boxes of whole pages leave groups of 8 tokens evenly spaced.
template <typename Shape, int kDim, bool kGathers>
struct CopiedBlock {
  static constexpr int kElementBytes = Shape::KvElement::kBytes;
  // Of 96 bytes the copy engine takes all at once: rows of 32 are as many as it can do, or more. Gathering threads take a power of two.
  static constexpr int kBothBytes = greatest_divisor(Shape::kHeadDim, Shape::kValueDim) * kElementBytes;
  static constexpr int kRowBytes = kBothBytes % 128 == 0           ? 128
                                   : kBothBytes % 64 == 0          ? 64
                                   : kBothBytes == 96 && !kGathers ? 96
                                                                   : 32;
  static constexpr int kColumns = kDim * kElementBytes / kRowBytes;
  static constexpr int kBytes = Shape::kBlockTokens * kDim * kElementBytes;
  static constexpr int kColumnStride = (Shape::kPaged ? 8 : Shape::kBlockTokens) * kRowBytes;
  static constexpr int kGroupStride = Shape::kPaged ? 8 * kRowBytes * kColumns : 8 * kRowBytes;
};

template <typename Shape>
struct HopperLayout {
  static constexpr int kConsumers = Shape::kTileRows / 64;  // warpgroups
  static constexpr int kItems = 4;                          // slots of items: this tile, the one before and the next

  // The copy engine takes pages of whole groups of 8 tokens: wgmma wants these evenly spaced. Tokens of other pages are
  // gathered by threads.
  static constexpr bool kGathers = Shape::kPaged && Shape::kPageSize % 8 != 0;

  // Q lives in registers where these are enough: its slot is then free for the next tile at once.
  static constexpr bool kQueryInRegisters = kConsumers <= 2 && Shape::kHeadDim <= 128 && Shape::kValueDim <= 128;

  // Q comes in a part for each consumer, which frees it without waiting for the others, where its rows are whole tokens or a
  // part of one.
  static constexpr bool kWholeRows = (Shape::kPack & (Shape::kPack - 1)) == 0;
  static constexpr int kQueryParts = kWholeRows ? kConsumers : 1;
  static constexpr int kQueryPartRows = kWholeRows ? 64 : Shape::kTileTokens * Shape::kPack;

  // A warpgroup of its own turns queries and keys, and widens keys and values of 8 bits, which come to a place of their own.
  static constexpr bool kWidens = Shape::kQuantised;
  static constexpr bool kPrepares = Shape::kPrepares;
  static constexpr bool kPreparesQuery =
      kPrepares && (Shape::Hooks::kRotates || !IsSame<typename Shape::Element, typename Shape::MathElement>::value);
  static constexpr int kWarpgroups = 1 + kConsumers + kPrepares;
  static constexpr int kPreparerWarps = kPrepares ? 4 : 0;

  // The pool is what the launch allocated: 168 registers for each of 384 threads, or 128 for 512; of 256 all have enough without. Three
  // consumers leave the producer 32, or 56 where it skips blocks. Beside a preparer it has 24, where it skips blocks 40, and the
  // preparer 72, or for half as many pairs 56. Where some of the lanes that share a row are idle, each of both needs 8 more. Beside one
  // consumer there are more than enough for both.
  static constexpr bool kMovesRegisters = kWarpgroups > 2;
  static constexpr int kPoolRegisters = kWarpgroups <= 3 ? 168 : 128;
  static constexpr bool kFewPairs = Shape::Hooks::kSkips || kWidens;
  static constexpr bool kAllLanes = power_of_two(Shape::kHeadDim) == Shape::kHeadDim;
  static constexpr bool kSparesRegisters = Shape::Hooks::kSkips && Shape::kBlockTokens <= 96;
  static constexpr int kConsumerRegisters = kPrepares && kConsumers == 1 ? 240
                                            : kPrepares                  ? (kAllLanes ? 208 : 200)
                                            : kConsumers <= 2            ? 232
                                            : kSparesRegisters           ? 152
                                                                         : 160;
  static constexpr int kOtherRegisters = kPoolRegisters * kWarpgroups - kConsumers * kConsumerRegisters;
  static constexpr int kProducerRegisters = !kPrepares        ? kOtherRegisters
                                            : kConsumers == 1 ? 104
                                                              : (kFewPairs ? 40 : 24) + (kAllLanes ? 0 : 8);
  static constexpr int kPreparerRegisters = kOtherRegisters - kProducerRegisters;

  // Whether consumers have registers for squares of scores, beside O, S and P.
  static constexpr bool kHasSquares = !Shape::Hooks::kBounds && !kPrepares &&
                                      Shape::kValueDim / 2 + Shape::kBlockTokens * 5 / 4 <= kConsumerRegisters - 16;

  // A tile's sums come together while the next one's first products are under way, unless all of 128 scores and what bends them are there, too.
  static constexpr bool kGathersLate = Shape::Hooks::kHasCubic && kConsumers == 3 && Shape::kBlockTokens == 128;

  // Of 512 threads none is compiled for a product of 256 columns, whose output is all of its 128 registers.
  static constexpr bool kHalvesOutput = kPrepares && Shape::kValueDim == 256;

  // K and V, as CopiedBlock of 16 bits.
  static constexpr int kGroupBytes = 8 * Shape::kRowBytes;
  static constexpr int kColumnStride = Shape::kPaged ? kGroupBytes : Shape::kBlockTokens * Shape::kRowBytes;
  static constexpr int kKeyGroupStride = Shape::kPaged ? kGroupBytes * Shape::kColumns : kGroupBytes;
  static constexpr int kValueGroupStride = Shape::kPaged ? kGroupBytes * Shape::kValueColumns : kGroupBytes;

  // What one copy brings.
  static constexpr int kBoxTokens = !Shape::kPaged ? Shape::kBlockTokens
                                    : kGathers     ? 1
                                                   : greatest_divisor(Shape::kPageSize, Shape::kBlockTokens);
  static constexpr int kBoxes = Shape::kBlockTokens / kBoxTokens;  // of a block

  static constexpr int kQueryColumnBytes = Shape::kTileRows * Shape::kRowBytes;

  // Output of a consumer's warp, [column][16 rows][kRowBytes]; headDim 256 has room for half of it.
  static constexpr int kWarpRows = 16;
  static constexpr int kOutputColumns = Shape::kValueDim == 256 ? 2 : Shape::kValueColumns;
  static constexpr int kOutputColumnBytes = kWarpRows * Shape::kRowBytes;
  static constexpr int kOutputBytes = kOutputColumns * kOutputColumnBytes;
  static constexpr int kConsumerWarps = kConsumers * 4;

  // Where threads write what the copy engine or others' products read, each of them arrives: racecheck does not see that __syncwarp
  // orders the others' accesses before one's arrival.
  static constexpr int kPreparerArrivals = 32 * kPreparerWarps;
  static constexpr int kConsumerArrivals = (kWidens ? 32 : 1) * kConsumerWarps;

  // Blocks of K and of V there may be at once: at a tile's edge and with short sequences what the next steps need is under way
  // for longer. V's slot is the later one to be free.
  static constexpr int kReservedBytes = 1024;  // what the system takes of a block's shared memory
  static constexpr int kMostBytes = Shape::kSharedPerSm - kReservedBytes;
  static constexpr int kBarrierBytes = 1024;  // and items
  // As PrefillLine says; and to where a tile may stand.
  static constexpr int kLineBytes = Shape::Hooks::kAddsLine ? round_up(Shape::kBlockTokens * 16, 1024) : 0;
  static constexpr int kRoom =
      kMostBytes - kBarrierBytes - Shape::kQueryBytes - kConsumerWarps * kOutputBytes - kLineBytes;
  // Decode waits for memory: about 128 KB under way were the fastest, fewer and more lost 1 to 3 %.
  template <bool kValues>
  using Copied = CopiedBlock<Shape, kValues ? Shape::kValueDim : Shape::kHeadDim, kGathers>;
  static constexpr int kNarrowBytes = kWidens ? Copied<false>::kBytes : 0;  // of K, where there are two of a stage
  static constexpr int kNarrowValueBytes = kWidens ? Copied<true>::kBytes : 0;
  static constexpr int kValueStageBytes = Shape::kValueBlockBytes + kNarrowValueBytes;
  static constexpr int kPairBytes = Shape::kBlockBytes + kNarrowBytes + kValueStageBytes;

  // A warp stages pages on the way (prefill_stager.cuh), in slices of as many tokens as two stages of K and V leave room for, and no more than let
  // one more of V stay. None where that is little.
  static constexpr int kMostSliceBytes = 16 * 1024, kLeastSliceBytes = 6 * 1024;
  static constexpr int kSliceRoom = kRoom - 2 * kPairBytes < kMostSliceBytes ? kRoom - 2 * kPairBytes : kMostSliceBytes;
  static constexpr int kStagedTokenBytes = 2 * Shape::kKvHeads * Shape::kRowTotalBytes;
  static constexpr bool kHasStager =
      Shape::kStagedPageSize > 0 && kSliceRoom >= kLeastSliceBytes&& kSliceRoom >= kStagedTokenBytes;
  static constexpr int kSliceTokens = !kHasStager                           ? 1
                                      : kSliceRoom < 64 * kStagedTokenBytes ? kSliceRoom / kStagedTokenBytes
                                                                            : 64;
  static constexpr int kSliceBytes = kHasStager ? kSliceTokens * kStagedTokenBytes : 0;
  static constexpr int kBlockRoom = kRoom - kSliceBytes;

  // Producing warps: a team for K and one for V.
  static constexpr int kTeamWarps = kHasStager ? 1 : 2;
  static constexpr int kProducerWarps = 2 * kTeamWarps;

  static constexpr int kMostStages = Shape::kDecodes ? (128 * 1024 + kPairBytes / 2) / kPairBytes : 4;
  static constexpr int kStagesThatFit = kBlockRoom / kPairBytes;
  static constexpr int kKeyStages = kStagesThatFit >= kMostStages ? kMostStages
                                    : kStagesThatFit > 2          ? kStagesThatFit
                                                                  : 2;
  static constexpr int kValueStages =
      !Shape::kDecodes && kKeyStages < (kHasStager ? 4 : 3) && kPairBytes * kKeyStages + kValueStageBytes <= kBlockRoom
          ? kKeyStages + 1
          : kKeyStages;

  static constexpr int kKeyOffset = Shape::kQueryBytes;
  static constexpr int kValueOffset = kKeyOffset + kKeyStages * Shape::kBlockBytes;
  static constexpr int kNarrowOffset = kValueOffset + kValueStages * Shape::kValueBlockBytes;
  static constexpr int kNarrowValueOffset = kNarrowOffset + kKeyStages * kNarrowBytes;
  // A product takes its rows twice. compute-sanitizer takes them for twice as long, so something stands behind.
  static constexpr int kLineOffset = kNarrowValueOffset + kValueStages * kNarrowValueBytes;
  static constexpr int kOutputOffset = kLineOffset + kLineBytes;
  template <bool kValues>
  static constexpr int kCopiedOffset = kWidens   ? (kValues ? kNarrowValueOffset : kNarrowOffset)
                                       : kValues ? kValueOffset
                                                 : kKeyOffset;
  static constexpr int kStagerOffset = kOutputOffset + kConsumerWarps * kOutputBytes;
  static constexpr int kBarrierOffset = kStagerOffset + kSliceBytes;
  static constexpr int kBarriers = 2 * (kQueryParts + kItems + kKeyStages + kValueStages) +
                                   (kPrepares ? kQueryParts + kKeyStages : 0) +
                                   (kWidens ? kKeyStages + 2 * kValueStages : 0) + kHasStager;
  static constexpr int kItemOffset = kBarrierOffset + round_up(kBarriers * 8, 16);
  static constexpr int kSkippedPlace = PrefillTile<Shape>::kWords * 4;  // of a slot, where a variant skips keys
  static constexpr int kContextPlace = 48;                              // and where it wants the item's context
  static constexpr int kItemBytes = Shape::Hooks::kWantsContext ? 64 : 48;
  static constexpr int kSharedBytes = kItemOffset + kItems * kItemBytes;
  static_assert(kSharedBytes - kBarrierOffset <= kBarrierBytes, "barriers and items take more than was left for them");
  static_assert(kSharedBytes <= kMostBytes, "a block needs more shared memory than the chip has");
  static_assert(kSkippedPlace + 12 <= kContextPlace, "an item and what it skips fill a slot");

  // A block that asks for all that it may have owns what lies behind the first kilobyte, wherever a toolkit lets its own begin: of 228 KB
  // only one is not its own. An address that the compiler knows takes fewer instructions in a step, and no register: where a variant's
  // small scores make a step of instructions, not of products.
  static constexpr bool kKnowsBase =
      Shape::Hooks::kHasCubic && kHasSquares && !Shape::kDecodes && kSharedBytes + kReservedBytes <= kMostBytes;
  static constexpr int kAskedBytes = kKnowsBase ? kMostBytes : kSharedBytes;
  static __device__ __forceinline__ u32 base(const void* shared) {
    return kKnowsBase ? kReservedBytes : shared_address(shared);
  }

  // Of a tile in which nothing is visible one block is walked, all of it masked: no case of its own. 0 for no tile.
  static __device__ __forceinline__ int blocks_of(const PrefillTile<Shape>& tile) {
    return tile.exists() ? max(1, tile.blocks()) : 0;
  }

  // Pairs of full and empty: every part of Q, every slot of items, every stage of K and of V.
  static __device__ __forceinline__ u32 query_full(u32 base, u32 part) { return base + kBarrierOffset + part * 8; }
  static __device__ __forceinline__ u32 query_empty(u32 base, u32 part) { return query_full(base, kQueryParts + part); }
  static __device__ __forceinline__ u32 item_full(u32 base, u32 slot) {
    return query_full(base, 2 * kQueryParts + slot);
  }
  static __device__ __forceinline__ u32 item_empty(u32 base, u32 slot) { return item_full(base, slot) + kItems * 8; }
  static __device__ __forceinline__ u32 key_full(u32 base, u32 stage) { return item_full(base, 2 * kItems + stage); }
  static __device__ __forceinline__ u32 key_empty(u32 base, u32 stage) {
    return key_full(base, stage) + kKeyStages * 8;
  }
  static __device__ __forceinline__ u32 value_full(u32 base, u32 stage) {
    return key_full(base, stage) + 2 * kKeyStages * 8;
  }
  static __device__ __forceinline__ u32 value_empty(u32 base, u32 stage) {
    return value_full(base, stage) + kValueStages * 8;
  }

  // Behind the pairs, where there is a preparer: what of Q, K and V is prepared, and where it widens, which stages it may write.
  static __device__ __forceinline__ u32 query_prepared(u32 base, u32 part) {
    return value_full(base, part) + 2 * kValueStages * 8;
  }
  static __device__ __forceinline__ u32 key_prepared(u32 base, u32 stage) {
    return query_prepared(base, stage) + kQueryParts * 8;
  }
  static __device__ __forceinline__ u32 value_prepared(u32 base, u32 stage) {
    return key_prepared(base, stage) + kKeyStages * 8;
  }
  static __device__ __forceinline__ u32 key_free(u32 base, u32 stage) {
    return value_prepared(base, stage) + kValueStages * 8;
  }
  static __device__ __forceinline__ u32 value_free(u32 base, u32 stage) {
    return key_free(base, stage) + kKeyStages * 8;
  }
  // The last one, where there is a stager: its slice has come.
  static __device__ __forceinline__ u32 slice_full(u32 base) { return base + kBarrierOffset + (kBarriers - 1) * 8; }

  // What consumers wait for, and what they say when they have read a stage.
  static __device__ __forceinline__ u32 query_ready(u32 base, u32 part) {
    return kPreparesQuery ? query_prepared(base, part) : query_full(base, part);
  }
  static __device__ __forceinline__ u32 key_ready(u32 base, u32 stage) {
    return kPrepares ? key_prepared(base, stage) : key_full(base, stage);
  }
  static __device__ __forceinline__ u32 value_ready(u32 base, u32 stage) {
    return kWidens ? value_prepared(base, stage) : value_full(base, stage);
  }
  static __device__ __forceinline__ u32 key_done(u32 base, u32 stage) {
    return kWidens ? key_free(base, stage) : key_empty(base, stage);
  }
  static __device__ __forceinline__ u32 value_done(u32 base, u32 stage) {
    return kWidens ? value_free(base, stage) : value_empty(base, stage);
  }

  static __device__ __forceinline__ void init_barriers(u32 base) {
    constexpr int kArrivals = kGathers ? kTeamWarps * 32 : 1;  // of what is gathered, every thread's copies arrive
    constexpr int kReaders = kWidens ? kPreparerArrivals : kConsumerArrivals;  // of what was copied
    for (int i = 0; i < kQueryParts; i++) {
      mbarrier_init(query_full(base, i), 1);
      mbarrier_init(query_empty(base, i), kConsumerArrivals / kQueryParts);
      if (kPreparesQuery) mbarrier_init(query_prepared(base, i), kPreparerArrivals);
    }
    for (int i = 0; i < kItems; i++) {
      mbarrier_init(item_full(base, i), 32);
      mbarrier_init(item_empty(base, i), 32 * (kConsumerWarps + kProducerWarps - 1 + kPreparerWarps));
    }
    for (int i = 0; i < kKeyStages; i++) {
      mbarrier_init(key_full(base, i), kArrivals);
      mbarrier_init(key_empty(base, i), kReaders);
      if (kPrepares) mbarrier_init(key_prepared(base, i), kPreparerArrivals);
      if (kWidens) mbarrier_init(key_free(base, i), kConsumerArrivals);
    }
    for (int i = 0; i < kValueStages; i++) {
      mbarrier_init(value_full(base, i), kArrivals);
      mbarrier_init(value_empty(base, i), kReaders);
      if (kWidens) mbarrier_init(value_prepared(base, i), kPreparerArrivals);
      if (kWidens) mbarrier_init(value_free(base, i), kConsumerArrivals);
    }
    if (kHasStager) mbarrier_init(slice_full(base), 1);
    mbarrier_init_fence();
  }

  // Tile `number`, from shared memory at each use: registers are scarce. The address is one for all threads, and so, the
  // compiler sees, is the tile: where it sees no such thing, it moves descriptors of wgmma through registers of threads.
  static __device__ __forceinline__ PrefillTile<Shape> tile(u32 base, u32 number) {
    const u32 address = item(base, number % kItems);
    const int4 a = load_shared(address), b = load_shared(address + 16);
    SkippedBlocks skipped = {};
    if constexpr (Shape::Hooks::kSkips) {
      skipped = load_skipped(address + kSkippedPlace);
    }
    return PrefillTile<Shape>::unpack({a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, load_shared_word(address + 32)},
                                      skipped);
  }
  static __device__ __forceinline__ ItemContext context(u32 base, u32 number) {
    const int4 words = load_shared(item(base, number % kItems) + kContextPlace);
    return {words.x, words.y, words.z, words.w};
  }
  static __device__ __forceinline__ u32 item(u32 base, u32 slot) { return base + kItemOffset + slot * kItemBytes; }
};

#endif

}  // namespace flashinfer
