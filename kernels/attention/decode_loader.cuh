// Brings one warp's tiles of K and V to shared memory.
//
// Each warp loads its own tiles (tile t of a unit belongs to warp t % kCrewWarps of the crew) into its own ring of kStages
// stages and runs ahead of the computation over unit borders, so that the ring stays full while a unit is being merged.
// There is no producer warp.
// A stage in shared memory: K, then V, each [slabs][strips][16 tokens][kStripBytes], 16-byte chunks swizzled
// (DecodeShape::chunk_offset).
// Hopper, pages of 16 tokens or multiples: one lane issues a box a slab for K and one for V, completion on an mbarrier a
//   stage. A box has always 16 rows: where the sequence has less, it ends at the sequence's end, so that its last rows are
//   the tokens. Rows before the page come as zeros, unread; others hold earlier tokens.
// Else: cp.async, 16 bytes a thread, one commit group a tile; rows behind the end become zeros. So are ragged keys and values
//   copied, which have no pages.
// Page ids are read a batch of tiles ahead, one for each lane, and handed out by shuffle.
#pragma once

#include "attention/decode_work.cuh"
#include "core/fault.cuh"

namespace flashinfer {

template <typename Shape>
struct DecodeLoader {
  using Unit = DecodeUnit<Shape>;

  static constexpr int kSlabTokens = Shape::kSlabTokens;
  static constexpr int kSlabs = Shape::kSlabs;
  static constexpr int kPageSize = Shape::kPageSize;
  static constexpr bool kPagePerSlab = Shape::kPagePerSlab;
  static constexpr int kKvBytes = Shape::KvElement::kBytes;

  // Page ids of a batch: one per slab when a slab lies in one page, else one per token.
  static constexpr int kBatchTiles = (kPagePerSlab || !Shape::kPaged ? 32 : 2) / kSlabs;

  // How cp.async loads a tile: 16-byte chunks of token rows, as many at once as a warp has lanes.
  static constexpr int kHeadChunks = Shape::kRowBytes / 16;  // of a row
  static constexpr int kChunks = Shape::kUnitHeads * kHeadChunks;
  static constexpr int kCopies = (Shape::kTileTokens * kChunks + 31) / 32;

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
        ring(shared_address(shared) + Shape::kRingOffset + c.warp * (Shape::kStages * Shape::kStageBytes)),
        barriers(shared_address(shared) + Shape::kBarrierOffset +
                 (Shape::kClusterBarriers + c.warp * Shape::kStages) * 8),
        policy(evict_first_policy()) {}

  __device__ __forceinline__ u32 stage_address(int stage) const { return ring + stage * Shape::kStageBytes; }

  // Fills a stage with the warp's next tile. The first call only fetches the first unit and its page ids. Without the copy engine it commits a group even when there is no tile, so that
  // waiting counts stages.
  __device__ __forceinline__ void fill(int stage) {
    if (tile >= batch_end) take_next_batch();
    if (current.valid) {
      const int end = min(first_token(current, tile) + Shape::kTileTokens, current.item.end);
      if (end > current.settled) wait_for_dependency();  // some tokens may be new in this step
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
      __syncwarp();  // the other lanes' copies of this stage are visible too
    }
  }

 private:
  // Tiles of a unit that belong to this warp.
  __device__ __forceinline__ int own_tiles(const Unit& unit) const {
    return (unit.tiles() - crew.place() + Shape::kCrewWarps - 1) / Shape::kCrewWarps;
  }

  __device__ __forceinline__ int first_token(const Unit& unit, int own_tile) const {
    return unit.item.begin + (crew.place() + own_tile * Shape::kCrewWarps) * Shape::kTileTokens;
  }

  __device__ __forceinline__ void take_next_unit() {
    next_batch = 0;
    do {
      ahead = cursor.next();
    } while (ahead.valid && own_tiles(ahead) <= 0);
  }

  __device__ __forceinline__ void read_pages() {
    if constexpr (Shape::kPaged) {
      const int slab = kPagePerSlab ? crew.lane : crew.lane / kSlabTokens;  // of the batch
      int token = first_token(ahead, next_batch + slab / kSlabs) + slab % kSlabs * kSlabTokens;
      if (!kPagePerSlab) token += crew.lane % kSlabTokens;
      next_pages = 0;
      if (ahead.valid && token < ahead.item.end) {
        const i32 page = load_ahead(params.pages + ahead.item.kv_start + token / kPageSize);
        next_pages = checked_page<Shape::kChecked>(params, page, ahead.item.row, token);
      }
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
    const int first = first_token(current, tile),
              slabs = kSlabs == 1 ? 1 : min(kSlabs, slabs_of(current.item.end - first));
    int page[kSlabs];
#pragma unroll
    for (int i = 0; i < kSlabs; i++) page[i] = __shfl_sync(~0u, pages, (tile - batch) * kSlabs + i);
    if (crew.lane == 0) {
      const u32 target = stage_address(stage), barrier = barriers + stage * 8;
      mbarrier_expect(barrier, slabs * (2 * Shape::kSlabBytes));
#pragma unroll
      for (int i = 0; i < kSlabs; i++) {
        if (i < slabs) {
          const int token = first + i * kSlabTokens;
          const int slot = token % kPageSize - max(0, kSlabTokens - (current.item.end - token));  // -15 and up
          copy_box(target + i * Shape::kSlabBytes, barrier, slot, static_cast<i32>(params.key_page) + page[i]);
          copy_box(target + Shape::kTileBytes + i * Shape::kSlabBytes, barrier, slot,
                   static_cast<i32>(params.value_page) + page[i]);
        }
      }
    }
  }

  // The unit's KV heads are some of the strips of a token (NHD) or one of the heads of a page (HND).
  __device__ __forceinline__ void copy_box(u32 target, u32 barrier, int slot, i32 page) {
    const int head = current.kv_head();
    if constexpr (Shape::kHeadsFirst) {
      copy_tensor(target, params.kv_map, barrier, 0, slot, 0, page * Shape::kKvHeads + head, policy);
    } else {
      copy_tensor(target, params.kv_map, barrier, 0, slot, head * Shape::kRowBytes / Shape::kStripBytes, page, policy);
    }
  }

  static __device__ __forceinline__ int slabs_of(int tokens) { return (tokens + kSlabTokens - 1) / kSlabTokens; }

  __device__ __forceinline__ void copy_rows(int stage) {
    const int first = first_token(current, tile);
    const i64 head = current.kv_head() * params.head_stride;
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int index = i * 32 + crew.lane;
      const int row = index / kChunks, chunk = index % kChunks, token = first + row;
      i64 key, value;  // elements to the row
      if constexpr (Shape::kPaged) {
        const int lane = kPagePerSlab ? row / kSlabTokens : row % Shape::kTileTokens;  // who holds its page
        const int page = __shfl_sync(~0u, pages, (tile - batch) * (kPagePerSlab ? kSlabs : Shape::kTileTokens) + lane);
        key = value = page * params.page_stride + (token % kPageSize) * params.token_stride + head +
                      chunk / kHeadChunks * params.head_stride;
      } else {
        const i64 at = current.item.kv_start + min(token, current.item.end - 1);
        const int kv_head = current.kv_head() + chunk / kHeadChunks;
        key = at * params.token_stride + kv_head * params.head_stride;
        value = at * params.key_page + kv_head * params.value_page;  // the values' own strides: there is no map
      }
      if (Shape::kTileTokens * kChunks % 32 == 0 || row < Shape::kTileTokens) {
        // Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may hold anything.
        const u32 bytes = token < current.item.end ? 16 : 0;
        const u32 target = stage_address(stage) + row / kSlabTokens * Shape::kSlabBytes +
                           Shape::chunk_offset(row % kSlabTokens, chunk);
        const int within = chunk % kHeadChunks * 16;
        copy_async(target, params.key + (key * kKvBytes + within), bytes, policy);
        copy_async(target + Shape::kTileBytes, params.value + (value * kKvBytes + within), bytes, policy);
      }
    }
  }
};

}  // namespace flashinfer
