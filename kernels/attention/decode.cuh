// Batch decode over a paged KV cache: one query token a sequence. Any sm_80 or later.
//
// Math, with swapped operands so that N = 8 query heads of one KV head waste nothing at group 8
// (mma.sync m16n8k16):
//   S^T [16 tokens x 8 heads] = K tile (A, ldmatrix) x Q^T (B, registers, loaded once per unit)
//   P^T = exp2(S^T * scale - running max), turned from accumulator to B layout by two movmatrix
//   O^T [headDim x 8 heads] += V^T (A, ldmatrix.trans) x P^T
// Work: unit = (item of the host's list, KV head, group tile of up to 8 query heads). Units stand
// longest first; block b of n takes
//   units b, 2n-1-b, 2n+b, ... (there and back), so that the loads even out.
// Grid: any number of blocks. Block: kWarps warps, all alike: there is no producer warp.
// Who loads: each warp loads its own 16-token tiles (tile t of a unit belongs to warp t % kWarps)
// into its own ring of kStages stages
//   and runs ahead over unit borders, so the ring stays full while a unit is being merged.
//   Completion: cp.async groups and
//   __syncwarp; no block barrier inside a unit. Page ids are read one batch of tiles ahead and
//   handed out by shuffle.
// End of a unit: every warp puts O, max and sum into shared memory; after one barrier all threads
// merge them. parts == 1 writes the
//   output; else the partial state goes to the workspace, and the block that arrives last merges
//   all parts in part order (the same bits every time) and sets the counter back to zero (so that a
//   captured graph can be replayed).
// Shared memory, bytes: [rings kWarps*kStages*kStageBytes][O kWarps*kTileHeads*(kHeadDim+4)*4][max,
// sum kWarps*8*8][flag 16] Tile in shared memory: [kHeadDim/64][16 tokens][128 B], 16-byte chunk
// index xored with token & 7 against bank conflicts.
#pragma once

#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

template <typename Config>
struct Decode {
  using Element = typename Config::Element;

  static constexpr int kHeads = Config::kHeads;
  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kPageSize = Config::kPageSize;
  static constexpr int kGroup = kHeads / kKvHeads;
  static_assert(kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static_assert(kHeadDim % 64 == 0,
                "headDim must be a multiple of 64: a tile is made of 128-byte columns");

  static constexpr int kTileTokens = 16;                      // M of the instruction
  static constexpr int kTileHeads = kGroup < 8 ? kGroup : 8;  // of the N = 8 columns
  static constexpr int kGroupTiles = (kGroup + 7) / 8;
  static constexpr int kUnitsPerItem = kKvHeads * kGroupTiles;

  // Bytes in flight: 64 to 128 KB per SM saturate the memory; chips with 99 KB of shared memory get
  // half.
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static constexpr int kRingBytes = 64 * 1024;
  static constexpr int kSharedLimit = 99 * 1024;
#else
  static constexpr int kRingBytes = 128 * 1024;
  static constexpr int kSharedLimit = 163 * 1024;
#endif
  static constexpr int kColumns = kHeadDim / 64;  // 128-byte columns of a tile
  static constexpr int kTileBytes = kColumns * kTileTokens * 128;
  static constexpr int kStageBytes = 2 * kTileBytes;  // K and V
  static constexpr int kWarps =
      kHeadDim <= 128 ? 8 : 4;  // headDim 256: two stages a warp matter more than eight warps
  static constexpr int kStages = kRingBytes / (kWarps * kStageBytes);
  static_assert(kStages >= 1, "the ring must hold a stage for every warp");
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kBlocksPerSm = 1;

  static constexpr int kMergeRow = kHeadDim + 4;  // floats; the 4 keep rows on different banks
  static constexpr int kMergeOffset = kWarps * kStages * kStageBytes;
  static constexpr int kStateOffset = kMergeOffset + kWarps * kTileHeads * kMergeRow * 4;
  static constexpr int kFlagOffset = kStateOffset + kWarps * 8 * 8;
  static constexpr int kSharedBytes = kFlagOffset + 16;
  static_assert(kSharedBytes <= kSharedLimit, "a block needs more shared memory than the chip has");

  // Page ids come in batches of one per lane: one per tile when a tile lies in one page, else one
  // per token.
  static constexpr bool kPagePerTile = kPageSize % kTileTokens == 0;
  static constexpr int kBatchTiles = kPagePerTile ? 32 : 2;

  // How a warp loads a tile: kRowsPerCopy token rows with each instruction.
  static constexpr int kChunks = kHeadDim / 8;  // 16-byte chunks of a token row
  static constexpr int kRowsPerCopy = 32 / kChunks;
  static constexpr int kCopies = kTileTokens / kRowsPerCopy;
  static_assert(kRowsPerCopy >= 1, "a token row must fit one warp-wide copy");

  // Merging: each thread owns kVector neighbouring outputs at a time.
  static constexpr int kPerThread = kTileHeads * kHeadDim / kThreads;
  static constexpr int kVector = kPerThread >= 4 ? 4 : kPerThread >= 2 ? 2 : 1;
  static constexpr int kVectors = kHeadDim / kVector;  // of one head
  static constexpr int kMergeSteps = (kTileHeads * kVectors + kThreads - 1) / kThreads;
  static constexpr int kPartsAtOnce = 8;  // parts whose loads overlap in the last block's merge

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion,  sizeof(DecodeParams), kThreads, kSharedBytes,
            kBlocksPerSm, kUnitsPerItem,        0};
  }

  // One piece of work. parts == 0 stands for "no more".
  struct Unit {
    DecodeItem item;
    int kv_head;
    int group_tile;

    __device__ __forceinline__ int tiles() const {
      return (item.end - item.begin + kTileTokens - 1) / kTileTokens;
    }
    __device__ __forceinline__ int first_head() const { return kv_head * kGroup + group_tile * 8; }
    __device__ __forceinline__ int heads() const {
      const int left = kGroup - group_tile * 8;
      return left < 8 ? left : 8;
    }
  };

  // Walks this block's units.
  struct UnitCursor {
    const DecodeItem* items;
    int units;
    int round = 0;

    __device__ __forceinline__ explicit UnitCursor(const ListHeader* plan)
        : items(items_of<DecodeItem>(plan)), units(plan->count * kUnitsPerItem) {}

    __device__ __forceinline__ Unit next() {
      const int blocks = gridDim.x, at = blockIdx.x;
      const int index = round * blocks + ((round & 1) ? blocks - 1 - at : at);
      round++;
      Unit unit = {};
      if (index < units) {
        const int4* source = reinterpret_cast<const int4*>(items + index / kUnitsPerItem);
        const int4 a = __ldg(source), b = __ldg(source + 1);
        unit.item = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, 0};
        const int expanded = index % kUnitsPerItem;
        unit.kv_head = expanded / kGroupTiles;
        unit.group_tile = expanded % kGroupTiles;
      }
      return unit;
    }
  };

  // Loads one warp's tiles, running ahead of the computation over unit borders.
  struct Loader {
    const DecodeParams& params;
    UnitCursor cursor;
    Unit current = {};  // whose tiles are being loaded
    Unit ahead = {};    // whose page ids are in next_pages
    Unit beyond;        // the unit after it: its item is in flight already
    int tile = 0;       // next tile of current, and the end of the batch in hand
    int batch = 0, batch_end = 0, next_batch = 0;
    int pages = 0, next_pages = 0;
    u32 ring;
    u64 policy;
    int warp, lane;

    __device__ __forceinline__ Loader(const DecodeParams& p, u32 ring_address, int warp_index,
                                      int lane_index)
        : params(p),
          cursor(p.plan),
          ring(ring_address),
          policy(evict_first_policy()),
          warp(warp_index),
          lane(lane_index) {
      beyond = cursor.next();
    }

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
        if (!ahead.item.parts) break;
        beyond = cursor.next();
      } while (own_tiles(ahead) <= 0);
    }

    __device__ __forceinline__ void read_pages() {
      const int token = kPagePerTile ? first_token(ahead, next_batch + lane)
                                     : first_token(ahead, next_batch + (lane >> 4)) + (lane & 15);
      next_pages = 0;
      if (ahead.item.parts && token < ahead.item.end) {
        next_pages = __ldg(params.pages + ahead.item.page_offset + token / kPageSize);
      }
    }

    __device__ __forceinline__ void take_next_batch() {
      current = ahead;
      batch = next_batch;
      pages = next_pages;
      tile = batch;
      const int own = current.item.parts ? own_tiles(current) : 0;
      batch_end = own < batch + kBatchTiles ? own : batch + kBatchTiles;
      if (batch_end < own) {
        next_batch = batch + kBatchTiles;
      } else {
        take_next_unit();
      }
      read_pages();
    }

    // Fills a stage with the warp's next tile. Commits a group even when there is none, so that
    // waiting counts stages.
    __device__ __forceinline__ void fill(int stage) {
      if (tile >= batch_end) take_next_batch();
      if (current.item.parts) {
        const int token = first_token(current, tile);
        const int row = lane / kChunks, chunk = lane % kChunks;
        const u32 target = ring + stage * kStageBytes + (chunk >> 3) * (kTileTokens * 128);
        const i64 head = current.kv_head * params.head_stride + chunk * 8;
        i64 page_start = 0;
        if (kPagePerTile) {
          const int page = __shfl_sync(~0u, pages, tile - batch);
          page_start = page * params.page_stride + head;
        }
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
          const int at = i * kRowsPerCopy + row;
          // Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may
          // hold anything.
          const u32 bytes = token + at < current.item.end ? 16 : 0;
          i64 offset;
          if (kPagePerTile) {
            offset = page_start + (token % kPageSize + at) * params.token_stride;
          } else {
            const int page = __shfl_sync(~0u, pages, (tile - batch) * kTileTokens + at);
            offset =
                page * params.page_stride + ((token + at) % kPageSize) * params.token_stride + head;
          }
          const u32 shared = target + at * 128 + (((chunk & 7) ^ (at & 7)) << 4);
          copy_async(shared, params.key + offset, bytes, policy);
          copy_async(shared + kTileBytes, params.value + offset, bytes, policy);
        }
        tile++;
      }
      copy_async_commit();
    }
  };

  // Q of one unit as B operands: [headDim/16][2], lane = 4 * head + column.
  struct QueryFragments {
    u32 at[kHeadDim / 16][2];

    __device__ __forceinline__ void load(const DecodeParams& params, const Unit& unit, int lane) {
      const int head = lane >> 2;
      const bool present = unit.item.parts && head < unit.heads();
      const u16* source = params.query + unit.item.row * params.query_row_stride +
                          (unit.first_head() + head) * params.query_head_stride + (lane & 3) * 2;
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; k++) {
        at[k][0] = present ? *reinterpret_cast<const u32*>(source + k * 16) : 0;
        at[k][1] = present ? *reinterpret_cast<const u32*>(source + k * 16 + 8) : 0;
      }
    }
  };

  // The online softmax of one warp: O^T of its tokens and, for heads 2c and 2c + 1 of lane column
  // c, max and sum.
  struct Accumulator {
    float o[kHeadDim / 16][4];
    float max[2];
    float sum[2];

    __device__ __forceinline__ void clear() {
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; i++) {
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
      }
      max[0] = max[1] = negative_infinity();
      sum[0] = sum[1] = 0.f;
    }

    // Takes in the tile in shared memory, of which the first `left` tokens count.
    __device__ __forceinline__ void attend(u32 stage, const QueryFragments& q, int left,
                                           float scale, int lane) {
      const u32 key = stage + (lane & 15) * 128;
      const u32 key_swizzle = ((lane >> 4) ^ (lane & 7)) << 4;
      float s[2][4] = {};  // two chains hide the latency of the instruction
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; k++) {
        u32 a[4];
        ldmatrix(a, key + (k >> 2) * (kTileTokens * 128) + (key_swizzle ^ ((k & 3) << 5)));
        Element::mma(s[k & 1], a, q.at[k][0], q.at[k][1]);
      }
      // x[0], x[1]: token lane / 4, heads 2c and 2c + 1; x[2], x[3]: token lane / 4 + 8.
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = (s[0][i] + s[1][i]) * scale;
      const int token = lane >> 2;
      if (token >= left) x[0] = x[1] = negative_infinity();
      if (token + 8 >= left) x[2] = x[3] = negative_infinity();

      float high[2] = {fmaxf(x[0], x[2]), fmaxf(x[1], x[3])};
#pragma unroll
      for (int step = 4; step < 32; step <<= 1) {
        high[0] = fmaxf(high[0], __shfl_xor_sync(~0u, high[0], step));
        high[1] = fmaxf(high[1], __shfl_xor_sync(~0u, high[1], step));
      }
      if (__any_sync(~0u, high[0] > max[0] || high[1] > max[1])) rescale(high);
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = exp2_fast(x[i] - max[i & 1]);
      sum[0] += x[0] + x[2];
      sum[1] += x[1] + x[3];
      const u32 p0 = transpose_fragment(Element::pack(x[0], x[1]));
      const u32 p1 = transpose_fragment(Element::pack(x[2], x[3]));

      const u32 value = stage + kTileBytes + ((lane & 7) + ((lane >> 4) << 3)) * 128;
      const u32 value_swizzle = (((lane >> 3) & 1) ^ (lane & 7)) << 4;
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; d++) {
        u32 a[4];
        ldmatrix_transposed(
            a, value + (d >> 2) * (kTileTokens * 128) + (value_swizzle ^ ((d & 3) << 5)));
        Element::mma(o[d], a, p0, p1);
      }
    }

    // The sums of all lanes; then puts O, max and sum where the block merges them.
    __device__ __forceinline__ void store(float* merge, float2* state, int heads, int lane) {
#pragma unroll
      for (int step = 4; step < 32; step <<= 1) {
        sum[0] += __shfl_xor_sync(~0u, sum[0], step);
        sum[1] += __shfl_xor_sync(~0u, sum[1], step);
      }
      const int row = lane >> 2, head = (lane & 3) * 2;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (head + h < heads) {
          float* target = merge + (head + h) * kMergeRow + row;
#pragma unroll
          for (int d = 0; d < kHeadDim / 16; d++) {
            target[d * 16] = o[d][h];
            target[d * 16 + 8] = o[d][h + 2];
          }
        }
        if (row == 0) state[head + h] = make_float2(max[h], sum[h]);
      }
    }

   private:
    __device__ __forceinline__ void rescale(const float (&high)[2]) {
      float factor[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float raised = fmaxf(max[h], high[h]);
        factor[h] = exp2_fast(max[h] - raised);  // 0 at the first tile: the old maximum is -inf
        max[h] = raised;
        sum[h] *= factor[h];
      }
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; d++) {
        o[d][0] *= factor[0];
        o[d][1] *= factor[1];
        o[d][2] *= factor[0];
        o[d][3] *= factor[1];
      }
    }
  };

  // Several partial states becoming one, for kVector outputs of one head.
  struct Merged {
    float o[kVector] = {};
    float max = negative_infinity();
    float sum = 0.f;

    __device__ __forceinline__ void raise(float high) {
      const float raised = fmaxf(max, high);
      // Nothing to scale while everything so far was empty; -inf minus -inf would be NaN.
      const float factor = max > negative_infinity() ? exp2_fast(max - raised) : 0.f;
      max = raised;
      sum *= factor;
#pragma unroll
      for (int e = 0; e < kVector; e++) o[e] *= factor;
    }

    __device__ __forceinline__ void add(float2 state, const float (&part)[kVector]) {
      const float factor = state.x > negative_infinity() ? exp2_fast(state.x - max) : 0.f;
      sum += factor * state.y;
#pragma unroll
      for (int e = 0; e < kVector; e++) o[e] += factor * part[e];
    }

    // A sequence without tokens gives output 0 and LSE -inf.
    __device__ __forceinline__ void write(const DecodeParams& params, const Unit& unit, int head,
                                          int d) const {
      const float inverse = sum > 0.f ? 1.f / sum : 0.f;
      const int query_head = unit.first_head() + head;
      u16* target = params.output + unit.item.row * params.output_row_stride +
                    query_head * params.output_head_stride + d;
      if constexpr (kVector == 4) {
        *reinterpret_cast<uint2*>(target) =
            make_uint2(Element::pack(o[0] * inverse, o[1] * inverse),
                       Element::pack(o[2] * inverse, o[3] * inverse));
      } else if constexpr (kVector == 2) {
        *reinterpret_cast<u32*>(target) = Element::pack(o[0] * inverse, o[1] * inverse);
      } else {
        *target = static_cast<u16>(Element::pack(o[0] * inverse, 0.f));
      }
      if (params.lse && d == 0) {
        params.lse[static_cast<i64>(unit.item.row) * kHeads + query_head] =
            sum > 0.f ? max + __log2f(sum) : negative_infinity();
      }
    }
  };

  // Merges the warps of this block; writes the output, or this part's state.
  static __device__ __forceinline__ void merge_warps(const DecodeParams& params, const Unit& unit,
                                                     const float* merge, const float2* state) {
    const int warps = unit.tiles() < kWarps ? unit.tiles() : kWarps;
#pragma unroll
    for (int step = 0; step < kMergeSteps; step++) {
      const int index = threadIdx.x + step * kThreads;
      const int head = index / kVectors, d = (index % kVectors) * kVector;
      if (head >= unit.heads()) continue;
      float high = negative_infinity();
#pragma unroll
      for (int w = 0; w < kWarps; w++) {
        if (w < warps) high = fmaxf(high, state[w * 8 + head].x);
      }
      Merged merged;
      merged.max = high;
#pragma unroll
      for (int w = 0; w < kWarps; w++) {
        if (w < warps) {
          float part[kVector];
#pragma unroll
          for (int e = 0; e < kVector; e++)
            part[e] = merge[(w * kTileHeads + head) * kMergeRow + d + e];
          merged.add(state[w * 8 + head], part);
        }
      }
      if (unit.item.parts == 1) {
        merged.write(params, unit, head, d);
      } else {
        const i64 slot = static_cast<i64>(unit.item.part_offset + unit.item.part) * kHeads +
                         unit.first_head() + head;
        FloatVector<kVector> out;
#pragma unroll
        for (int e = 0; e < kVector; e++) out.at[e] = merged.o[e];
        *reinterpret_cast<FloatVector<kVector>*>(params.partial_output + slot * kHeadDim + d) = out;
        if (d == 0) params.partial_state[slot] = make_float2(merged.max, merged.sum);
      }
    }
  }

  // Announces this part; whether all others were there before it. Called by all threads.
  static __device__ __forceinline__ bool arrive_last(const DecodeParams& params, const Unit& unit,
                                                     volatile int* last) {
    __syncthreads();  // all threads have written this part's state before thread 0 announces it
    if (threadIdx.x == 0) {
      u32* counter = params.counters + static_cast<i64>(unit.item.part_offset) * kUnitsPerItem +
                     unit.kv_head * kGroupTiles + unit.group_tile;
      const bool is_last = atomic_add_acq_rel(counter, 1) == static_cast<u32>(unit.item.parts) - 1;
      if (is_last) *counter = 0;
      *last = is_last;
    }
    __syncthreads();  // the verdict is there
    return *last;
  }

  // Merges all parts of a sequence, in part order.
  static __device__ __forceinline__ void merge_parts(const DecodeParams& params, const Unit& unit) {
    const int parts = unit.item.parts;
#pragma unroll
    for (int step = 0; step < kMergeSteps; step++) {
      const int index = threadIdx.x + step * kThreads;
      const int head = index / kVectors, d = (index % kVectors) * kVector;
      if (head >= unit.heads()) continue;
      const i64 first = static_cast<i64>(unit.item.part_offset) * kHeads + unit.first_head() + head;
      Merged merged;
      for (int start = 0; start < parts; start += kPartsAtOnce) {
        float part[kPartsAtOnce][kVector];
        float2 state[kPartsAtOnce];
#pragma unroll
        for (int i = 0; i < kPartsAtOnce; i++) {
          const int at = start + i < parts ? start + i : parts - 1;
          const i64 slot = first + static_cast<i64>(at) * kHeads;
          state[i] = load_coherent(params.partial_state + slot);
          load_coherent(part[i], params.partial_output + slot * kHeadDim + d);
          if (start + i >= parts) state[i].x = negative_infinity();
        }
        float high = negative_infinity();
#pragma unroll
        for (int i = 0; i < kPartsAtOnce; i++) high = fmaxf(high, state[i].x);
        merged.raise(high);
#pragma unroll
        for (int i = 0; i < kPartsAtOnce; i++) merged.add(state[i], part[i]);
      }
      merged.write(params, unit, head, d);
    }
  }

  static __device__ __forceinline__ void run(const DecodeParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const u32 ring = shared_address(shared) + warp * (kStages * kStageBytes);
    float* merge = reinterpret_cast<float*>(shared + kMergeOffset);
    float2* state = reinterpret_cast<float2*>(shared + kStateOffset);
    volatile int* last = reinterpret_cast<volatile int*>(shared + kFlagOffset);

    Loader loader(params, ring, warp, lane);
    UnitCursor cursor(params.plan);
    const float scale = params.plan->scale_log2;
    QueryFragments query;
    // The first round has no unit: it fills the ring. One call more than there are stages, since
    // the first only fetches the first unit; and through the same loop as all others, since a
    // second copy of fill would cost compile time.
    Unit unit = {};
    int tile = -(kStages + 1) * kWarps;
    int stage = 0;
    do {
      const Unit following = cursor.next();
      Accumulator accumulator;
      accumulator.clear();
      const int tiles = unit.tiles();
      for (; tile < tiles; tile += kWarps) {
        if (unit.item.parts) {
          copy_async_wait<kStages - 1>();
          __syncwarp();  // the other lanes' copies of this stage are visible too
          const int left = unit.item.end - unit.item.begin - tile * kTileTokens;
          accumulator.attend(ring + stage * kStageBytes, query, left, scale, lane);
          __syncwarp();  // every lane has read the stage: it may be filled again
        }
        loader.fill(stage);
        if (++stage == kStages) stage = 0;
      }
      tile = warp;
      query.load(params, following, lane);  // travels during the merge
      if (unit.item.parts) {
        if (warp < tiles) {
          accumulator.store(merge + warp * (kTileHeads * kMergeRow), state + warp * 8, unit.heads(),
                            lane);
        }
        __syncthreads();  // all warps' states are in shared memory
        merge_warps(params, unit, merge, state);
        if (unit.item.parts > 1 && arrive_last(params, unit, last)) merge_parts(params, unit);
        __syncthreads();  // the merge buffer and the verdict may be overwritten
      }
      unit = following;
    } while (unit.item.parts);
  }
};

}  // namespace flashinfer
