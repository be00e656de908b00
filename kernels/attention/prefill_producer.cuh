// The producing warps of the Hopper prefill kernel: the first reads the items and copies Q, all keep the ring of K and V full.
//
// Blocks of keys are copied from the last one that the tile sees down to the first, in the order K[n], V[n + 1]. Items and
// the queue are read a tile ahead, page ids a block ahead, also over the end of a tile, so that no latency shows. Q of the
// next tile is asked for as soon as this tile cannot need its slot: behind its second K when Q lives in registers (or the last
// but one: decode); else the first K of the next tile goes ahead of it.
// Ragged: one box for a block. Paged: every lane copies the box of its own page, or piece of a page, or the warp gathers
// tokens one by one; warps share a block.
#pragma once

#include "attention/prefill_gather.cuh"
#include "attention/prefill_layout.cuh"
#include "core/fault.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillProducer {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;

  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kItemWords = sizeof(WorkItem) / 4;
  // Decode reads keys and values once: 2 % faster than if they pushed others out of the L2.
  static constexpr u64 kPolicy = Shape::kDecodes ? kEvictFirst : kEvictLast;
  // Beside two consumers there are no registers for it, and nothing was gained.
  static constexpr bool kStartsEarly = Shape::kDecodes && !Layout::kGathers && Layout::kConsumers == 1;
  // Of a block's boxes, or tokens that are gathered: lane l of warp w has number l * kProducerWarps + w.
  static constexpr int kShare = (Layout::kBoxes + Layout::kProducerWarps - 1) / Layout::kProducerWarps;
  static_assert(kShare <= 32, "each lane of a producing warp has a box");

  const PrefillParams& params;
  u32 base;
  u32 ring = 0;  // blocks of K copied so far

  __device__ __forceinline__ PrefillProducer(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  __device__ __forceinline__ void run() {
    if (!kStartsEarly) wait_for_dependency();  // the kernel before this one may be a prefill that shares the queue
    i32 words = read(blockIdx.x);
    hand_over(words, 0);
    i32 key_page = -1, value_page, ahead = last_page_of(0);
    if constexpr (kStartsEarly) start(ahead);
    if (Layout::kQueryInRegisters) copy_query(0);
    for (u32 number = 0; peek(number).exists(); number++) {
      if (!Shape::kDecodes) words = read(next_index(words));
      const int blocks = Layout::blocks_of(peek(number));
      // Where the next tile is handed over, and its Q asked for. Decode, whose tiles are few and long, takes it only then, and
      // late: it goes to the block that will be free. Prefill does not wait for the queue.
      const int next = Shape::kDecodes ? min(blocks - 2, 1) : blocks - 2;
      const bool started = kStartsEarly && number == 0;
#pragma unroll 1
      for (int n = blocks - 1; n >= -1; n--) {
        value_page = key_page;
        key_page = ahead;
        if (n > 0) ahead = page_of(number, n - 1);
        if (n >= 0 && !(started && n >= blocks - 2)) copy<false>(number, n, key_page, ring);
        if (!Layout::kQueryInRegisters && n == blocks - 1) copy_query(number);
        if (Shape::kDecodes && n == max(next, 0)) words = read(next_index(warp_now() == 0 ? take_next() : 0));
        if (n == max(next, 0)) hand_over(words, number + 1);
        if (n == 0) ahead = last_page_of(number + 1);
        if (n < blocks - 1 && !(started && n == blocks - 2)) copy<true>(number, n + 1, value_page, ring - 1);
        if (Layout::kQueryInRegisters && n == next) copy_query(number + 1);
        if (n >= 0) ring++;
      }
      if (warp_now() > 0) release(number);
    }
    if (threadIdx.x == kItemWords + 1) finish_queue(params.queue);  // the thread that has taken from it
  }

 private:
  enum Which { kAll, kSettled, kFresh };

  // Decode: the first blocks of the first tile while the kernel before still runs; tokens that it may be writing wait for it.
  __device__ __forceinline__ void start(i32 last_page) {
    const int last = Layout::blocks_of(peek(0)) - 1;
    const i32 page = page_of(0, last - 1);
    copy_first<kSettled>(last, last_page, page);
    wait_for_dependency();
    copy_first<kFresh>(last, last_page, page);
  }

  template <Which kWhich>
  __device__ __forceinline__ void copy_first(int last, i32 last_page, i32 page) {
    if (last >= 0) copy<false, kWhich>(0, last, last_page, 0);
    if (last >= 1) copy<false, kWhich>(0, last - 1, page, 1);
    if (last >= 0) copy<true, kWhich>(0, last, last_page, 0);
  }

  // First warp: each lane has a word of the item, the one behind them the head tile, and the next the index of the unit to
  // read after it. A unit beyond the list has no query tokens, which ends producers and consumers.
  __device__ __forceinline__ i32 read(u32 index) const {
    const int warp = warp_now(), lane = lane_now();
    if (warp > 0) return 0;
    if (lane == kItemWords + 1) return Shape::kDecodes ? 0 : take_next();
    const u32 heads = load_ahead(&params.plan->heads), item = index / heads;
    if constexpr (Shape::Hooks::kShapes) {
      if (is_context(lane) && item < static_cast<u32>(load_ahead(&params.plan->count))) {
        return load_ahead(reinterpret_cast<const i32*>(params.variant->contexts + item) + lane - kContextLane);
      }
    }
    if (lane > kItemWords || item >= static_cast<u32>(load_ahead(&params.plan->count))) return 0;
    const i32* source = reinterpret_cast<const i32*>(items_of<WorkItem>(params.plan) + item);
    const i32 word = load_ahead(source + (lane == kItemWords ? kHeadWord : lane));
    return lane == kItemWords ? static_cast<i32>(static_cast<u32>(word) >> 16) + index % heads : word;
  }

  // One lane's to take.
  __device__ __forceinline__ u32 take_next() const {
    return lane_now() == kItemWords + 1 ? atomicAdd(params.queue, 1) + gridDim.x : 0;
  }

  __device__ __forceinline__ u32 next_index(i32 words) const { return __shfl_sync(~0u, words, kItemWords + 1); }

  static __device__ __forceinline__ u32 slot_of(u32 number) { return number % Layout::kItems; }

  // Tile `number`: from the first warp to the others and the consumers.
  __device__ __forceinline__ void hand_over(i32 words, u32 number) {
    const int warp = warp_now(), lane = lane_now();
    number = anew(number);
    const u32 slot = slot_of(number), phase = (number / Layout::kItems) & 1;
    if (warp == 0) {
      mbarrier_wait(Layout::item_empty(base, slot), phase ^ 1);
      if (lane < Tile::kWords || is_context(lane))
        store_shared(Layout::item(base, slot) + lane * 4, static_cast<u32>(words));
      __syncwarp();  // this warp reads all words too
      mbarrier_arrive(Layout::item_full(base, slot));
    } else {
      mbarrier_wait(Layout::item_full(base, slot), phase);
    }
  }

  // A tile that was handed over and not released.
  __device__ __forceinline__ Tile peek(u32 number) const { return Layout::tile(base, anew(number)); }

  __device__ __forceinline__ void release(u32 number) const {
    mbarrier_arrive(Layout::item_empty(base, slot_of(number)));
  }

  __device__ __forceinline__ void copy_query(u32 number) {
    const int warp = warp_now(), lane = lane_now();
    if (warp > 0) return;
    number = anew(number);
#pragma unroll 1
    for (int part = 0; part < Layout::kQueryParts; part++) {
      const int first = part * Layout::kQueryPartRows;
      const u32 full = Layout::query_full(base, part);
      mbarrier_wait(Layout::query_empty(base, part), (number & 1) ^ 1);
      const Tile tile = peek(number);
      if (lane == 0 && tile.exists()) {
        mbarrier_expect(full, Layout::kQueryPartRows * Shape::kRowTotalBytes);
#pragma unroll 1
        for (int c = 0; c < Shape::kColumns; c++) {
          copy_tensor(base + c * Layout::kQueryColumnBytes + first * Shape::kRowBytes, params.query_map, full, 0,
                      tile.head_of(first), tile.item.row + tile.token_of(first), c, kEvictFirst);
        }
      }
    }
    __syncwarp();
  }

  // Paged: the page of this lane's box of block n, or of the token that it gathers; below 0 behind the end. Nothing here waits
  // for what it loads.
  __device__ __forceinline__ i32 page_of(u32 number, int n) const {
    i32 page = -1;
    if constexpr (Shape::kPaged) {
      const Tile tile = peek(number);
      const int token = token_of(tile, n);
      if (lane_now() < kShare && n >= 0 && token < tile.item.end) {
        page = __ldg(params.pages + tile.item.kv_start + token / Shape::kPageSize);
      }
    }
    return page;
  }

  __device__ __forceinline__ i32 last_page_of(u32 number) const {
    return page_of(number, Layout::blocks_of(peek(number)) - 1);
  }

  // Paged: the first token of this lane's box of block n.
  static __device__ __forceinline__ int token_of(const Tile& tile, int n) {
    const int box = lane_now() * Layout::kProducerWarps + warp_now();
    return box < Layout::kBoxes ? tile.item.begin + n * kBlockTokens + box * Layout::kBoxTokens : tile.item.end;
  }

  // K or V of block n, the position-th of all: all of it, or at first what is settled, and then what is not.
  template <bool kValues, Which kWhich = kAll>
  __device__ __forceinline__ void copy(u32 number, int n, i32 page, u32 position) {
    const int warp = warp_now(), lane = lane_now();
    constexpr int kBytes = kValues ? Shape::kValueBlockBytes : Shape::kBlockBytes;
    constexpr u32 kStages = kValues ? Layout::kValueStages : Layout::kKeyStages;
    const u32 stage = position % kStages;
    const u32 target = base + (kValues ? Layout::kValueOffset : Layout::kKeyOffset) + stage * kBytes;
    const u32 full = kValues ? Layout::value_full(base, stage) : Layout::key_full(base, stage);
    const auto wait_for_stage = [&] {
      mbarrier_wait(kValues ? Layout::value_empty(base, stage) : Layout::key_empty(base, stage),
                    ((position / kStages) & 1) ^ 1);
    };
    const Tile tile = peek(number);
    const TensorMap& map = kValues ? params.value_map : params.key_map;
    const int kv_head = tile.kv_head();
    if constexpr (Shape::kPaged) {
      const int token = token_of(tile, n);
      if (page >= 0) page = checked_page<Shape::kChecked>(params, page, tile.item.row, token);
      if constexpr (Layout::kGathers) {
        wait_for_stage();
        PrefillGather<Shape>::template copy<kValues>(params, tile, n, page, target, full);
      } else {
        constexpr int kWarps = Layout::kProducerWarps, kBoxBytes = kBytes / Layout::kBoxes;
        const int box = lane * kWarps + warp;
        // Of what lies before the tensor the whole box is zeros.
        const i32 first_page = kValues ? params.value_page : params.key_page;
        const i32 group = page < 0 ? -kBlockTokens
                                   : (first_page + page) * params.page_groups + kv_head * params.head_groups +
                                         token % Shape::kPageSize / 8;
        wait_for_stage();
        if (lane == 0 && kWhich != kFresh) {
          mbarrier_expect(full, (Layout::kBoxes + kWarps - 1 - warp) / kWarps * kBoxBytes);
        }
        __syncwarp();
        bool mine = lane < kShare && box < Layout::kBoxes;
        if constexpr (kWhich != kAll) {
          const bool fresh = token + Layout::kBoxTokens > tile.item.visible - load_ahead(&params.plan->fresh_tokens);
          mine &= fresh == (kWhich == kFresh);
        }
        if (mine) {
          copy_tensor(target + box * kBoxBytes, map, full, 0, 0, 0, params.head_groups == 0 ? kv_head : 0, group,
                      kPolicy);
        }
      }
    } else {
      const int row = tile.item.kv_start + tile.item.begin + n * kBlockTokens;
      wait_for_stage();
      if (lane == 0) {
        mbarrier_expect(full, kBytes);
        copy_tensor(target, map, full, 0, row, 0, kv_head, kPolicy);
      }
    }
  }

  // For variants: lanes that have the words of the item's context, at their place in the slot.
  static constexpr int kContextLane = Layout::kContextPlace / 4;
  static __device__ __forceinline__ bool is_context(int lane) {
    return Shape::Hooks::kShapes && lane >= kContextLane && lane < kContextLane + 4;
  }

  static constexpr int kHeadWord = 6;  // of an item: query tokens and first head tile
};

#endif

}  // namespace flashinfer
