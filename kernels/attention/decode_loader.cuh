// Brings one warp's tiles of K and V to shared memory.
//
// Each warp loads its own 16-token tiles (tile t of a unit belongs to warp t % kWarps) into its own ring of kStages
// stages and runs ahead of the computation over unit borders, so that the ring stays full while a unit is being merged.
// There is no producer warp.
// A tile in shared memory: [headDim/64][16 tokens][128 B], 16-byte chunk index xored with token & 7 against bank conflicts
//   (which is the copy engine's 128-byte swizzle).
// Hopper, pages of 16 tokens or multiples: lane 0 issues one box for K and one for V, completion on an mbarrier a stage. A
//   box is always whole: rows behind the end hold whatever lies in the page.
// Else: cp.async, 16 bytes a lane, one commit group a tile; rows behind the end become zeros.
// Page ids are read a batch of tiles ahead, one for each lane, and handed out by shuffle.
#pragma once

#include "attention/decode_work.cuh"
#include "core/fault.cuh"
#include "core/hopper.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

template <typename Shape>
struct DecodeLoader {
  using Unit = DecodeUnit<Shape>;

  static constexpr int kWarps = Shape::kWarps;
  static constexpr int kTileTokens = Shape::kTileTokens;
  static constexpr int kPageSize = Shape::kPageSize;
  static constexpr bool kPagePerTile = Shape::kPagePerTile;

  // Page ids of a batch: one per tile when a tile lies in one page, else one per token.
  static constexpr int kBatchTiles = kPagePerTile ? 32 : 2;

  // How cp.async loads a tile: kRowsPerCopy token rows with each instruction.
  static constexpr int kChunks = Shape::kHeadDim / 8;  // 16-byte chunks of a token row
  static constexpr int kRowsPerCopy = 32 / kChunks;
  static constexpr int kCopies = kTileTokens / kRowsPerCopy;
  static_assert(kRowsPerCopy >= 1, "a token row must fit one warp-wide copy");

  const DecodeParams& params;
  UnitCursor<Shape> cursor;
  Unit current = {};  // whose tiles are being loaded
  Unit ahead = {};    // whose page ids are in next_pages
  Unit beyond;        // the unit after it
  int tile = 0;       // next tile of current, and the batch in hand
  int batch = 0, batch_end = 0, next_batch = 0;
  int pages = 0, next_pages = 0;
  u32 ring;
  u32 barriers;
  u64 policy;
  int warp, lane;

  __device__ __forceinline__ DecodeLoader(const DecodeParams& p, unsigned char* shared, int warp_index, int lane_index)
      : params(p),
        cursor(p),
        ring(shared_address(shared) + Shape::kRingOffset + warp_index * (Shape::kStages * Shape::kStageBytes)),
        barriers(shared_address(shared) + Shape::kBarrierOffset + warp_index * (Shape::kStages * 8)),
        policy(evict_first_policy()),
        warp(warp_index),
        lane(lane_index) {
#if __CUDA_ARCH__ >= 900
    if (Shape::kTensorCopy) {
      if (lane == 0) {
        prefetch_tensor_map(params.kv_map);
        for (int i = 0; i < Shape::kStages; i++) mbarrier_init(barriers + i * 8, 1);
        mbarrier_init_fence();  // before the first loads: a fence waits for what is in flight
      }
      __syncwarp();  // nobody waits on a barrier before it is initialised
    }
#endif
    beyond = cursor.next();
  }

  __device__ __forceinline__ u32 stage_address(int stage) const { return ring + stage * Shape::kStageBytes; }

  // Fills a stage with the warp's next tile. The first call only fetches the first unit and its page ids: nothing that
  // the kernel before this one writes. Without the copy engine it commits a group even when there is no tile, so that
  // waiting counts stages.
  __device__ __forceinline__ void fill(int stage) {
    if (tile >= batch_end) take_next_batch();
    if (current.valid) {
      if constexpr (Shape::kTensorCopy) {
        copy_boxes(stage);
      } else {
        copy_rows(stage);
      }
      tile++;
    }
    if (!Shape::kTensorCopy) copy_async_commit();
  }

  // Waits for the oldest stage in flight.
  __device__ __forceinline__ void wait(int stage, u32 phase) {
#if __CUDA_ARCH__ >= 900
    if (Shape::kTensorCopy) {
      mbarrier_wait(barriers + stage * 8, phase);
      return;
    }
#endif
    copy_async_wait<Shape::kStages - 1>();
    __syncwarp();  // the other lanes' copies of this stage are visible too
  }

 private:
  // Tiles of a unit that belong to this warp.
  __device__ __forceinline__ int own_tiles(const Unit& unit) const {
    return (unit.tiles() - warp + kWarps - 1) / kWarps;
  }

  __device__ __forceinline__ int first_token(const Unit& unit, int own_tile) const {
    return unit.item.begin + (warp + own_tile * kWarps) * kTileTokens;
  }

  __device__ __forceinline__ void take_next_unit() {
    next_batch = 0;
    do {
      ahead = beyond;
      if (!ahead.valid) break;
      beyond = cursor.next();
    } while (own_tiles(ahead) <= 0);
  }

  __device__ __forceinline__ void read_pages() {
    const int token = kPagePerTile ? first_token(ahead, next_batch + lane)
                                   : first_token(ahead, next_batch + (lane >> 4)) + (lane & 15);
    next_pages = 0;
    if (ahead.valid && token < ahead.item.end) {
      const i32 page = load_ahead(params.pages + ahead.item.page_offset + token / kPageSize);
      next_pages = checked_page<Shape::kChecked>(params, page, ahead.item.row, token);
    }
  }

  __device__ __forceinline__ void take_next_batch() {
    current = ahead;
    batch = next_batch;
    pages = next_pages;
    tile = batch;
    const int own = current.valid ? own_tiles(current) : 0;
    batch_end = own < batch + kBatchTiles ? own : batch + kBatchTiles;
    if (batch_end < own) {
      next_batch = batch + kBatchTiles;
    } else {
      take_next_unit();
    }
    read_pages();
  }

  __device__ __forceinline__ void copy_boxes(int stage) {
#if __CUDA_ARCH__ >= 900
    const int page = __shfl_sync(~0u, pages, tile - batch);
    if (lane == 0) {
      const int slot = first_token(current, tile) % kPageSize;
      const u32 target = stage_address(stage), barrier = barriers + stage * 8;
      mbarrier_expect(barrier, Shape::kStageBytes);
      copy_tensor(target, params.kv_map, barrier, 0, current.kv_head, slot, static_cast<i32>(params.key_page) + page, 0,
                  policy);
      copy_tensor(target + Shape::kTileBytes, params.kv_map, barrier, 0, current.kv_head, slot,
                  static_cast<i32>(params.value_page) + page, 0, policy);
    }
#endif
  }

  __device__ __forceinline__ void copy_rows(int stage) {
    const int token = first_token(current, tile);
    const int row = lane / kChunks, chunk = lane % kChunks;
    const u32 target = stage_address(stage) + (chunk >> 3) * (kTileTokens * 128);
    const i64 head = current.kv_head * params.head_stride + chunk * 8;
    i64 page_start = 0;
    if (kPagePerTile) page_start = __shfl_sync(~0u, pages, tile - batch) * params.page_stride + head;
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int at = i * kRowsPerCopy + row;
      // Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may hold anything.
      const u32 bytes = token + at < current.item.end ? 16 : 0;
      i64 offset;
      if (kPagePerTile) {
        offset = page_start + (token % kPageSize + at) * params.token_stride;
      } else {
        const int page = __shfl_sync(~0u, pages, (tile - batch) * kTileTokens + at);
        offset = page * params.page_stride + ((token + at) % kPageSize) * params.token_stride + head;
      }
      const u32 shared = target + at * 128 + (((chunk & 7) ^ (at & 7)) << 4);
      copy_async(shared, params.key + offset * 2, bytes, policy);
      copy_async(shared + Shape::kTileBytes, params.value + offset * 2, bytes, policy);
    }
  }
};

}  // namespace flashinfer
