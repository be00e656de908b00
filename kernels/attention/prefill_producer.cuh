// The producing warp of the Hopper prefill kernel: reads the items, keeps the ring of K and V full.
//
// Blocks of keys are copied from the last one that the tile sees down to the first, in the order K[n], V[n + 1]. Items and
// the counter are read a tile ahead, page ids a block ahead, so that no latency shows. Q of the next tile is asked for as
// soon as this tile cannot need its slot: behind its second K when Q lives in registers, else behind its last V.
// Ragged: one box for a block. Paged: every lane copies the box of its own page, or piece of a page.
#pragma once

#include "attention/prefill_layout.cuh"
#include "core/fault.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillProducer {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;

  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kItemWords = sizeof(PrefillItem) / 4;
  static constexpr i32 kNowhere = -kBlockTokens;  // a coordinate before the tensor: the whole box is zeros

  const PrefillParams& params;
  u32 base;
  int lane = threadIdx.x;
  u32 ring = 0;  // blocks copied so far

  __device__ __forceinline__ PrefillProducer(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  __device__ __forceinline__ void run() {
    wait_for_dependency();  // the kernel before this one may be a prefill that shares the counters
    i32 words = read(blockIdx.x);
    publish(words, 0);
    for (u32 number = 1;; number++) {
      const Tile tile = unpack(words);
      if (tile.item.rows == 0) break;
      words = read(__shfl_sync(~0u, words, kItemWords));
      const int blocks = tile.blocks(), kv_head = tile.kv_head();
      i32 key_box = kNowhere, value_box = kNowhere, ahead = locate(tile, kv_head, blocks - 1);
#pragma unroll 1
      for (int n = blocks - 1; n >= -1; n--) {
        value_box = key_box;
        key_box = ahead;
        if (n > 0) ahead = locate(tile, kv_head, n - 1);
        if (n >= 0) {
          const u32 stage = ring % Layout::kStages;
          copy(tile, kv_head, n, key_box, params.key_map, Layout::key_full(base, stage), Layout::key_empty(base, stage),
               Layout::kKeyOffset, params.key_page, ring);
        }
        if (n < blocks - 1) {
          const u32 stage = (ring - 1) % Layout::kStages;
          copy(tile, kv_head, n + 1, value_box, params.value_map, Layout::value_full(base, stage),
               Layout::value_empty(base, stage), Layout::kValueOffset, params.value_page, ring - 1);
        }
        if (n == (Layout::kQueryInRegisters ? max(blocks - 2, -1) : -1)) publish(words, number);
        if (n >= 0) ring++;
      }
    }
    if (lane == 0) finish_items(params.counters);
  }

 private:
  // Each lane has a word of the item, and the one behind them the index of the item to read after it. An item beyond the
  // list has no rows, which ends producer and consumers.
  __device__ __forceinline__ i32 read(u32 index) const {
    if (lane == kItemWords) return atomicAdd(params.counters, 1) + gridDim.x;
    if (lane > kItemWords || index >= static_cast<u32>(load_ahead(&params.plan->count))) return 0;
    return load_ahead(reinterpret_cast<const i32*>(items_of<PrefillItem>(params.plan) + index) + lane);
  }

  __device__ __forceinline__ Tile unpack(i32 words) const {
    const auto word = [&](int i) { return __shfl_sync(~0u, words, i); };
    return {{word(0), word(1), word(2), word(3), word(4), word(5), 0, 0}};
  }

  // Hands the consumers tile `number` and starts its Q.
  __device__ __forceinline__ void publish(i32 words, u32 number) const {
    const Tile tile = unpack(words);
    mbarrier_wait(Layout::query_empty(base), (number & 1) ^ 1);
    if (lane < kItemWords) store_shared(base + Layout::kItemOffset + lane * 4, static_cast<u32>(words));
    __syncwarp();  // the item is there before the arrival
    if (lane == 0) {
      if (tile.item.rows == 0 || tile.tokens() == 0) {
        mbarrier_arrive(Layout::query_full(base));
      } else {
        mbarrier_expect(Layout::query_full(base), Shape::kQueryBytes);
        copy_tensor(base, params.query_map, Layout::query_full(base), 0, tile.item.row, 0, tile.item.head, kEvictFirst);
      }
    }
  }

  // Paged: where this lane's box of block n starts, in 8-token groups of the first layer's keys.
  __device__ __forceinline__ i32 locate(const Tile& tile, int kv_head, int n) const {
    if constexpr (Shape::kPaged) {
      const int token = n * kBlockTokens + lane * Layout::kBoxTokens;
      if (lane < Layout::kBoxes && token >= 0 && token < tile.item.kv_length) {
        const i32 page = checked_page<Shape::kChecked>(
            params, __ldg(params.pages + tile.item.kv_start + token / Shape::kPageSize), tile.item.row, token);
        return page * params.page_groups + kv_head * params.head_groups + token % Shape::kPageSize / 8;
      }
    }
    return kNowhere;
  }

  __device__ __forceinline__ void copy(const Tile& tile, int kv_head, int n, i32 box, const TensorMap& map, u32 full,
                                       u32 empty, int offset, i64 first_page, u32 position) const {
    const u32 stage = position % Layout::kStages;
    const u32 target = base + offset + stage * Shape::kBlockBytes;
    mbarrier_wait(empty, ((position / Layout::kStages) & 1) ^ 1);
    if (lane == 0) mbarrier_expect(full, Shape::kBlockBytes);
    if constexpr (Shape::kPaged) {
      __syncwarp();
      if (lane < Layout::kBoxes) {
        const i32 group = box < 0 ? box : box + static_cast<i32>(first_page) * params.page_groups;
        copy_tensor(target + lane * Layout::kBoxBytes, map, full, 0, 0, 0, params.head_groups == 0 ? kv_head : 0, group,
                    kEvictLast);
      }
    } else {
      if (lane == 0) {
        copy_tensor(target, map, full, 0, tile.item.kv_start + n * kBlockTokens, 0, kv_head, kEvictLast);
      }
    }
  }
};

#endif

}  // namespace flashinfer
