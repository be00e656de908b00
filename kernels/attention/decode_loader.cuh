// Brings one team's tiles of K and V to shared memory.
//
// Each team loads its own 16-token tiles (tile t of a unit belongs to team t % kCrewTeams of the crew) into its own ring of
// kStages stages and runs ahead of the computation over unit borders, so that the ring stays full while a unit is being
// merged. There is no producer warp.
// A tile in shared memory: [strips][16 tokens][kStripBytes], 16-byte chunks swizzled (DecodeShape::chunk_offset).
// Hopper, pages of 16 tokens or multiples: one lane issues one box for K and one for V, completion on an mbarrier a stage.
//   A box is always whole: rows behind the end hold whatever lies in the page.
// Else: cp.async, 16 bytes a thread, one commit group a tile; rows behind the end become zeros.
// Page ids are read a batch of tiles ahead, one for each lane, and handed out by shuffle.
#pragma once

#include "attention/decode_work.cuh"
#include "core/fault.cuh"

namespace flashinfer {

template <typename Shape>
struct DecodeLoader {
  using Unit = DecodeUnit<Shape>;

  static constexpr int kTileTokens = Shape::kTileTokens;
  static constexpr int kPageSize = Shape::kPageSize;
  static constexpr bool kPagePerTile = Shape::kPagePerTile;
  static constexpr int kKvBytes = Shape::KvElement::kBytes;

  // Page ids of a batch: one per tile when a tile lies in one page, else one per token.
  static constexpr int kBatchTiles = kPagePerTile ? 32 : 2;

  // How cp.async loads a tile: 16-byte chunks of token rows, as many at once as the team has threads.
  static constexpr int kChunks = Shape::kRowBytes / 16;  // of a row
  static constexpr int kCopies = (kTileTokens * kChunks + Shape::kTeamThreads - 1) / Shape::kTeamThreads;

  const DecodeParams& params;
  const DecodeCrew<Shape>& crew;
  UnitCursor<Shape> cursor;
  Unit current = {};  // whose tiles are being loaded
  Unit ahead = {};    // whose page ids are in next_pages
  int tile = 0;       // next tile of current, and the batch in hand
  int batch = 0, batch_end = 0, next_batch = 0;
  int pages = 0, next_pages = 0;
  u32 ring;
  u32 barriers;
  u64 policy;

  __device__ __forceinline__ DecodeLoader(const DecodeParams& p, unsigned char* shared, const DecodeCrew<Shape>& c,
                                          const UnitCursor<Shape>& first)
      : params(p),
        crew(c),
        cursor(first),
        ring(shared_address(shared) + Shape::kRingOffset + c.team * (Shape::kStages * Shape::kStageBytes)),
        barriers(shared_address(shared) + Shape::kBarrierOffset + c.team * (Shape::kStages * 8)),
        policy(evict_first_policy()) {}

  // Before anything else, since the fence waits for loads in flight; a block-wide barrier or one of the cluster follows.
  static __device__ __forceinline__ void init_barriers(const DecodeParams& params, unsigned char* shared) {
    if constexpr (Shape::kTensorCopy) {
      if (threadIdx.x == 0) {
        prefetch_tensor_map(params.kv_map);
        for (int i = 0; i < Shape::kTeams * Shape::kStages; i++) {
          mbarrier_init(shared_address(shared) + Shape::kBarrierOffset + i * 8, 1);
        }
        mbarrier_init_fence();
      }
    }
  }

  __device__ __forceinline__ u32 stage_address(int stage) const { return ring + stage * Shape::kStageBytes; }

  // Fills a stage with the team's next tile. The first call only fetches the first unit and its page ids: nothing that
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
    if constexpr (Shape::kTensorCopy) {
      mbarrier_wait(barriers + stage * 8, phase);
    } else {
      copy_async_wait<Shape::kStages - 1>();
      crew.sync_team();  // the other threads' copies of this stage are visible too
    }
  }

 private:
  __device__ __forceinline__ bool issues() const { return crew.member == 0 && crew.lane == 0; }

  // Tiles of a unit that belong to this team.
  __device__ __forceinline__ int own_tiles(const Unit& unit) const {
    return (unit.tiles() - crew.place() + Shape::kCrewTeams - 1) / Shape::kCrewTeams;
  }

  __device__ __forceinline__ int first_token(const Unit& unit, int own_tile) const {
    return unit.item.begin + (crew.place() + own_tile * Shape::kCrewTeams) * kTileTokens;
  }

  __device__ __forceinline__ void take_next_unit() {
    next_batch = 0;
    do {
      ahead = cursor.next();
    } while (ahead.valid && own_tiles(ahead) <= 0);
  }

  __device__ __forceinline__ void read_pages() {
    const int token = kPagePerTile ? first_token(ahead, next_batch + crew.lane)
                                   : first_token(ahead, next_batch + (crew.lane >> 4)) + (crew.lane & 15);
    next_pages = 0;
    if (ahead.valid && token < ahead.item.end) {
      const i32 page = load_ahead(params.pages + ahead.item.kv_start + token / kPageSize);
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
    const int page = __shfl_sync(~0u, pages, tile - batch);
    if (issues()) {
      const int slot = first_token(current, tile) % kPageSize;
      const u32 target = stage_address(stage), barrier = barriers + stage * 8;
      mbarrier_expect(barrier, Shape::kStageBytes);
      copy_tensor(target, params.kv_map, barrier, 0, current.kv_head(), slot, static_cast<i32>(params.key_page) + page,
                  0, policy);
      copy_tensor(target + Shape::kTileBytes, params.kv_map, barrier, 0, current.kv_head(), slot,
                  static_cast<i32>(params.value_page) + page, 0, policy);
    }
  }

  __device__ __forceinline__ void copy_rows(int stage) {
    const int token = first_token(current, tile);
    const i64 head = current.kv_head() * params.head_stride;
    i64 page_start = 0;
    if (kPagePerTile) page_start = __shfl_sync(~0u, pages, tile - batch) * params.page_stride + head;
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int index = i * Shape::kTeamThreads + crew.member * 32 + crew.lane;
      const int row = index / kChunks, chunk = index % kChunks;
      i64 offset;
      if (kPagePerTile) {
        offset = page_start + (token % kPageSize + row) * params.token_stride;
      } else {
        const int page = __shfl_sync(~0u, pages, (tile - batch) * kTileTokens + (row & 15));
        offset = page * params.page_stride + ((token + row) % kPageSize) * params.token_stride + head;
      }
      if (kTileTokens * kChunks % Shape::kTeamThreads == 0 || row < kTileTokens) {
        // Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may hold anything.
        const u32 bytes = token + row < current.item.end ? 16 : 0;
        const u32 target = stage_address(stage) + Shape::chunk_offset(row, chunk);
        copy_async(target, params.key + offset * kKvBytes + chunk * 16, bytes, policy);
        copy_async(target + Shape::kTileBytes, params.value + offset * kKvBytes + chunk * 16, bytes, policy);
      }
    }
  }
};

}  // namespace flashinfer
