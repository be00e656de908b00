// The producing warps of the Hopper prefill kernel: a team keeps the ring of K full, another that of V, so that neither waits for
// the other's stages. The first warp of K also reads the items.
//
// Items and the queue are read a tile ahead, and page ids also over the end of a tile, so that no latency shows. Q of the next
// tile is asked for with its item, when Q lives in registers: the slot is free as soon as this tile begins. Else the first V of
// the next tile goes ahead of it, and V's first warp waits for the slot.
#pragma once

#include "attention/prefill_hooks.cuh"
#include "attention/prefill_ring.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillProducer {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;

  static constexpr int kTeam = Layout::kTeamWarps;
  static constexpr int kItemWords = sizeof(WorkItem) / 4;
  static constexpr bool kStartsEarly = Shape::kDecodes && !Layout::kGathers;

  const PrefillParams& params;
  u32 base;

  __device__ __forceinline__ PrefillProducer(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  __device__ __forceinline__ void run() {
    if (!kStartsEarly) wait_for_dependency();  // the kernel before this one may be a prefill that shares the queue
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0);  // of all its threads, the compiler sees, one number
    if (warp < kTeam) {
      keys(warp);
    } else {
      values(warp - kTeam);
    }
  }

 private:
  __device__ __forceinline__ void keys(int warp) {
    PrefillRing<Shape, false> ring(params, base, warp);
    i32 words = warp == 0 ? read(blockIdx.x) : 0;
    hand_over(warp, words, 0);
    ring.turn_to(Layout::tile(base, 0));
    if (kStartsEarly) ring.start(settled());
    if (Layout::kQueryInRegisters && warp == 0) copy_query(0);
    for (u32 number = 0; Layout::tile(base, number).exists(); number++) {
      if (!Shape::kDecodes && warp == 0) words = read(next_index(words));
      // The next tile is handed over behind the first turn. Decode, whose tiles are few and long, takes it only behind the last one: it
      // goes to the block that will be free. Prefill does not wait for the queue.
      bool due = true;
#pragma unroll 1
      do {
        if (ring.n >= 0) ring.copy();
        if (due && (!Shape::kDecodes || ring.n < 0)) {
          due = false;
          if (Shape::kDecodes && warp == 0) words = read(next_index(take_next()));
          const u32 next = anew(number) + 1;  // nothing that follows from it is kept over the turns
          hand_over(warp, words, next);
          if (Layout::kQueryInRegisters && warp == 0) copy_query(next);
        }
      } while (ring.n >= 0);
      ring.turn_to(Layout::tile(base, number + 1));
      if (warp > 0) release(anew(number));
    }
    if constexpr (Layout::kHasStager) {
      PrefillStager<Shape>::finish(params);
    } else if (threadIdx.x == kItemWords + 1) {
      finish_queue(params.queue);  // the thread that has taken from it
    }
  }

  __device__ __forceinline__ void values(int warp) {
    PrefillRing<Shape, true> ring(params, base, warp);
    for (u32 number = 0;; number++) {
      wait_for_item(number);
      const Tile tile = Layout::tile(base, number);
      const int blocks = Layout::blocks_of(tile);
      if (blocks == 0) break;
      ring.turn_to(tile);
      if (kStartsEarly && number == 0) ring.start(settled());
      // Only the tile's last values go ahead of Q: the slots of others may be free only behind products that want it. One warp
      // copies all of them, or it could take a slot that two tiles before have not freed.
      bool asks = !Layout::kQueryInRegisters && warp == 0;
#pragma unroll 1
      do {
        if (ring.n == blocks - 1 || (!asks && ring.n >= 0)) ring.copy();
        if (asks) copy_query(number);
        asks = false;
      } while (ring.n >= 0);
      release(number);
    }
    if constexpr (Layout::kHasStager) PrefillStager<Shape>::finish(params);
  }

  // Tokens of the first tile's sequence that the kernel before does not write.
  __device__ __forceinline__ int settled() const {
    return Layout::tile(base, 0).item.visible - load_ahead(&params.plan->fresh_tokens);
  }

  // The first warp of K: each lane has a word of the item, the one behind them the head tile, and the next the index of the unit to
  // read after it. A unit beyond the list has no query tokens, which ends producers and consumers.
  __device__ __forceinline__ i32 read(u32 index) const {
    const int lane = lane_now();
    if (lane == kItemWords + 1) return Shape::kDecodes ? 0 : take_next();
    const u32 heads = load_ahead(&params.plan->heads), item = index / heads;
    if constexpr (Shape::Hooks::kWantsContext) {
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

  // Tile `number`: from the first warp to the others and the consumers.
  __device__ __forceinline__ void hand_over(int warp, i32 words, u32 number) const {
    if (warp > 0) {
      wait_for_item(number);
      return;
    }
    const int lane = lane_now();
    const u32 slot = slot_of(number);
    mbarrier_wait(Layout::item_empty(base, slot), phase_of(number) ^ 1);
    if (lane < Tile::kWords || is_context(lane)) {
      store_shared(Layout::item(base, slot) + lane * 4, static_cast<u32>(words));
    }
    __syncwarp();  // this warp reads all words too
    if constexpr (Shape::Hooks::kSkips) {
      const SkippedBlocks skipped = skipped_by(number);
      if (lane == 0) store_skipped(Layout::item(base, slot) + Layout::kSkippedPlace, skipped);
      __syncwarp();
    }
    mbarrier_arrive(Layout::item_full(base, slot));
  }

  __device__ __forceinline__ SkippedBlocks skipped_by(u32 number) const {
    Tile tile = Layout::tile(base, number);
    tile.skipped = {};
    return tile.exists() ? PrefillHooks<Shape>::skipped(tile, Layout::context(base, number), params) : tile.skipped;
  }

  static __device__ __forceinline__ u32 slot_of(u32 number) { return number % Layout::kItems; }
  static __device__ __forceinline__ u32 phase_of(u32 number) { return number / Layout::kItems & 1; }

  __device__ __forceinline__ void wait_for_item(u32 number) const {
    mbarrier_wait(Layout::item_full(base, slot_of(number)), phase_of(number));
  }

  __device__ __forceinline__ void release(u32 number) const {
    mbarrier_arrive(Layout::item_empty(base, slot_of(number)));
  }

  __device__ __forceinline__ void copy_query(u32 number) const {
    if (!Layout::tile(base, number).exists()) return;
    const int lane = lane_now();
#pragma unroll 1
    for (int part = 0; part < Layout::kQueryParts; part++) {
      const int first = part * Layout::kQueryPartRows;
      const u32 full = Layout::query_full(base, part);
      mbarrier_wait(Layout::query_empty(base, part), (number & 1) ^ 1);
      const Tile tile = Layout::tile(base, number);
      if (lane == 0) {
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

  // For variants: lanes that have the words of the item's context, at their place in the slot.
  static constexpr int kContextLane = Layout::kContextPlace / 4;
  static __device__ __forceinline__ bool is_context(int lane) {
    return Shape::Hooks::kWantsContext && lane >= kContextLane && lane < kContextLane + 4;
  }

  static constexpr int kHeadWord = 6;  // of an item: query tokens and first head tile
};

#endif

}  // namespace flashinfer
