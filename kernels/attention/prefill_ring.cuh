// Keys or values on their way to shared memory: what the producing warps of one of the two rings do for every block.
//
// A tile's blocks are copied from the last one to the first; the two warps of a team take turns. Ragged: one box for a block. Paged: a box
// for each page, or piece of a page, whose ids are read a turn ahead, by a lane each. Where pages are no boxes the team gathers tokens
// together.
// A consumer waits wherever a producing warp beside it issues: 35 instructions a block more cost 4 % of the time. So what can be
// known before stands in registers and moves from turn to turn, and one elected lane issues all boxes, without a loop over lanes.
#pragma once

#include "attention/prefill_gather.cuh"
#include "attention/prefill_layout.cuh"
#include "attention/prefill_stager.cuh"
#include "core/fault.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// What to copy of a block: all of it, or at first what is settled, and then what is not.
enum class Copies { kAll, kSettled, kFresh };

template <typename Shape, bool kValues>
struct PrefillRing {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;

  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kTurns = Layout::kGathers ? 1 : Layout::kTeamWarps;    // blocks between two of a warp's turns
  static constexpr int kSharers = Layout::kGathers ? Layout::kTeamWarps : 1;  // warps that share a block
  static constexpr int kBytes = Layout::template Copied<kValues>::kBytes;
  static constexpr int kBoxBytes = kBytes / Layout::kBoxes;
  static constexpr u32 kOffset = Layout::template kCopiedOffset<kValues>;
  static constexpr int kStages = kValues ? Layout::kValueStages : Layout::kKeyStages;
  // Decode reads keys and values once: 2 % faster than if they pushed others out of the L2.
  static constexpr u64 kPolicy = Shape::kDecodes ? kEvictFirst : kEvictLast;
  // Of the boxes of a block, or tokens that are gathered, those that share it take turns. A warp's lanes have one each, of tokens so many
  // more as there are words.
  static constexpr int kShare = Layout::kBoxes / kSharers;
  static constexpr int kWords = (kShare + 31) / 32;
  static constexpr int kWordTokens = 32 * kSharers * Layout::kBoxTokens;
  static_assert(Layout::kGathers || kWords == 1, "a lane has at most one box");
  using Gather = PrefillGather<Shape, kValues>;

  const PrefillParams& params;
  u32 base;
  int number;                // of this warp among those that share a block
  RingPlace<kStages> place;  // of the next turn's block
  int n;                     // which block of the tile that is; below 0: none, but one of a tile to come
  int head;                  // KV head of the tile
  SkippedBlocks skipped;     // of it
  i32 group;                 // paged: 8-token groups of the map before those of page 0 of this layer and head
  i32 column_head;           // paged: the head as a coordinate of the map, where it is one
  // Of the next turn's block. Ragged: the first row; paged: the token at which this lane's first box begins, below 0 when it has none.
  int first;
  const i32* table;   // paged: the sequence's pages
  i32 pages[kWords];  // paged: the pages of this lane's boxes; below 0 behind the end
  i32 row;            // paged: of the query, for a fault
  int unknown = 0;    // beside a stager: rows before this one may not be staged yet
  Gather gather;

  __device__ __forceinline__ PrefillRing(const PrefillParams& arguments, u32 shared_base, int warp)
      : params(arguments), base(shared_base), number(kSharers > 1 ? warp : 0), n(kTurns > 1 ? -1 - warp : -1) {
    if (kTurns > 1) place.skip(warp);
  }

  // The blocks of a tile, if it is one, are next. Nothing here waits for what it loads, unless it is checked.
  __device__ __forceinline__ void turn_to(const Tile& tile) {
    n += Layout::blocks_of(tile);
    const int begin = tile.item.begin + tile.start_of(n);
    skipped = tile.skipped;
    head = tile.kv_head();
    if constexpr (Shape::kPaged) {
      const int box = mine() * kSharers + number;
      first = n >= 0 && box < Layout::kBoxes ? begin + box * Layout::kBoxTokens : kNowhere;
      table = params.pages + tile.item.kv_start;
      group = static_cast<i32>(kValues ? params.value_page : params.key_page) * params.page_groups +
              head * params.head_groups;
      column_head = params.head_groups == 0 ? head : 0;
      if constexpr (Layout::kGathers) gather.turn_to(params, head, number);
      row = tile.item.row;
#pragma unroll
      for (int i = 0; i < kWords; i++) {
        const int token = first + i * kWordTokens;
        pages[i] = first >= 0 && has(i) && token < tile.item.end ? page_of(token) : kNoPage;
      }
      if constexpr (Layout::kGathers && kValues) {
        bool ends = false;
#pragma unroll
        for (int i = 0; i < kWords; i++) ends |= has(i) && pages[i] < 0;
        gather.ends = __any_sync(~0u, ends);
      }
    } else {
      first = tile.item.kv_start + begin;
      if constexpr (Layout::kHasStager) {
        if (unknown != PrefillStager<Shape>::kNone) unknown = tile.item.kv_start + tile.item.end;
      }
    }
  }

  // Copies the block of this turn, and goes to that of the next.
  __device__ __forceinline__ void copy() {
    issue<Copies::kAll>(0);
    advance();
  }

  // The first turn, while the kernel before still runs; tokens from `settled` on, which it may be writing, wait for it.
  __device__ __forceinline__ void start(int settled) {
    if (n >= 0) issue<Copies::kSettled>(settled);
    wait_for_dependency();
    if (n < 0) return;
    issue<Copies::kFresh>(settled);
    advance();
  }

 private:
  template <Copies kCopies>
  __device__ __forceinline__ void issue(int settled) {
    if constexpr (Shape::kPaged) {
      wait();
      if constexpr (Layout::kGathers) {
        gather.copy(params, first, pages, target(), full());
      } else {
        // Of what lies before the tensor the whole box is zeros.
        constexpr bool kWholePages = Shape::kPageSize == Layout::kBoxTokens;
        const i32 within = kWholePages ? 0 : static_cast<u32>(first) % Shape::kPageSize / 8;
        const i32 mine = pages[0] < 0 ? -kBlockTokens : group + pages[0] * params.page_groups + within;
        i32 groups[kShare];
#pragma unroll
        for (int i = 0; i < kShare; i++) groups[i] = __shfl_sync(~0u, mine, i);
        u32 wanted = ~0u;
        if constexpr (kCopies != Copies::kAll) {
          wanted = __ballot_sync(~0u, (first + Layout::kBoxTokens > settled) == (kCopies == Copies::kFresh));
        }
        if (elect_one()) {
          if (kCopies != Copies::kFresh) mbarrier_expect(full(), kBytes);
#pragma unroll
          for (int i = 0; i < kShare; i++) {
            if (wanted >> i & 1) {
              copy_tensor(target() + i * kBoxBytes, kValues ? params.value_map : params.key_map, full(), 0, 0, 0,
                          column_head, groups[i], kPolicy);
            }
          }
        }
      }
    } else {
      if constexpr (Layout::kHasStager) {
        if (first < unknown) unknown = PrefillStager<Shape>::wait_for(params, first, unknown);
      }
      wait();
      if (elect_one()) {
        mbarrier_expect(full(), kBytes);
        copy_tensor(target(), kValues ? params.value_map : params.key_map, full(), 0, first, 0, head, kPolicy);
      }
    }
  }

  __device__ __forceinline__ void advance() {
    place.skip(kTurns);
    n -= kTurns;
    first -= kTurns * kBlockTokens;
    if (Shape::Hooks::kSkips && n < skipped.first && n + kTurns >= skipped.first) first -= skipped.count * kBlockTokens;
    if constexpr (Shape::kPaged) {
      // Only now: whoever issues does not wait for them, but for the next turn.
#pragma unroll
      for (int i = 0; i < kWords; i++) {
        if (n >= 0 && first >= 0 && has(i)) pages[i] = page_of(first + i * kWordTokens);
      }
    }
  }

  static constexpr int kNowhere = -(1 << 30);
  static constexpr i32 kNoPage =
      Layout::kGathers && !kValues ? 0 : -1;  // keys that are gathered may be any behind the end

  // Which of its warp's share this lane has, first; and whether it has an i-th.
  static __device__ __forceinline__ int mine() {
    return Layout::kGathers ? Gather::token_of(threadIdx.x & 31) : threadIdx.x & 31;
  }
  static __device__ __forceinline__ bool has(int i) {
    return i == 0 || kShare >= 32 * (i + 1) || mine() + 32 * i < kShare;
  }
  // Checked here, though that waits: below 0 is none, whatever the table has.
  __device__ __forceinline__ i32 page_of(u32 token) const {
    return checked_page<Shape::kChecked>(params, __ldg(table + token / Shape::kPageSize), row, token);
  }

  __device__ __forceinline__ u32 target() const { return base + kOffset + place.slot * kBytes; }
  __device__ __forceinline__ u32 full() const {
    return kValues ? Layout::value_full(base, place.slot) : Layout::key_full(base, place.slot);
  }
  __device__ __forceinline__ void wait() const {
    mbarrier_wait(kValues ? Layout::value_empty(base, place.slot) : Layout::key_empty(base, place.slot),
                  place.phase ^ 1);
  }
};

#endif

}  // namespace flashinfer
