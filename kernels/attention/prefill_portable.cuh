// Prefill on any sm_80 or later: cp.async, ldmatrix, mma.sync m16n8k16. Serves every page size, ragged keys and values, and
// quantised ones.
#pragma once

#include "attention/prefill_parts.cuh"
#include "attention/prefill_softmax.cuh"
#include "attention/prefill_work.cuh"
#include "core/fault.cuh"
#include "core/float8.cuh"

namespace flashinfer {

template <typename Shape>
struct PortablePrefill {
  using Tile = PrefillTile<Shape>;
  using Element = typename Shape::Element;
  using KvElement = typename Shape::KvElement;
  using MathElement = typename Shape::MathElement;
  using Parts = PrefillParts<Shape>;

  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kHeadDim = Shape::kHeadDim;
  static constexpr int kValueDim = Shape::kValueDim;
  static constexpr int kSlabs = Shape::kSlabs;
  static constexpr int kWarps = Shape::kTileRows / (kSlabs * 16);
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kCrews = kThreads / Parts::kCrewThreads;
  static constexpr int kQuerySteps = kHeadDim / 16;
  static constexpr int kColumnSteps = Shape::kColumn / 16;
  static_assert(kValueDim <= kHeadDim && kValueDim % 32 == 0, "the output is staged in Q's place");

  // A tile is [column][row][bytes of a column's row], as Q's is.
  static constexpr int kKvRowBytes = Shape::kColumn * KvElement::kBytes;
  static constexpr int kKvRowChunks = kKvRowBytes / 16;
  static constexpr int kKvColumnBytes = kBlockTokens * kKvRowBytes;
  static constexpr int kQueryColumnBytes = Shape::kTileRows * Shape::kRowBytes;
  static constexpr int kKeyBytes = kBlockTokens * kHeadDim * KvElement::kBytes;
  static constexpr int kValueBytes = kBlockTokens * kValueDim * KvElement::kBytes;
  // ldmatrix brings this many tiles of 8 columns of B.
  static constexpr int kLoadTiles = Shape::kQuantised ? 4 : 2;

  static constexpr int kBufferBytes = kKeyBytes + kValueBytes;
  static constexpr int kUnitBytes = 64, kIndexPlace = sizeof(WorkItem), kScalePlace = kIndexPlace + 4;
  static constexpr int kPagesOffset = Shape::kQueryBytes + 2 * kUnitBytes;
  static constexpr int kStateOffset = kPagesOffset + (Shape::kPaged ? 3 * kBlockTokens * 4 : 0);
  static constexpr bool kStateInShared = Shape::kStateBytes > 0 && kBlockTokens == Shape::kMostTokens;
  static constexpr int kFixedBytes = kStateOffset + (kStateInShared ? Shape::kStateBytes : 0);
  static constexpr int kBuffers =
      256 / kThreads * (kFixedBytes + 2 * kBufferBytes + 1024) <= Shape::kSharedPerSm ? 2 : 1;
  static constexpr int kUnitOffset = Shape::kQueryBytes;
  static constexpr int kKeyOffset = kFixedBytes;
  static constexpr int kValueOffset = kKeyOffset + kBuffers * kKeyBytes;
  static constexpr int kSharedBytes = kFixedBytes + kBuffers * kBufferBytes;
  static_assert(kSharedBytes + 1024 <= Shape::kSharedPerSm, "a block needs more shared memory than the chip has");
  static constexpr int kBlocksPerSm = kThreads <= 128 && 2 * (kSharedBytes + 1024) <= Shape::kSharedPerSm ? 2 : 1;

  static __device__ __forceinline__ void run(const PrefillParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    launch_dependents();
    wait_for_dependency();
    PortablePrefill kernel(params, shared_address(shared));
    kernel.attend_all();
    if (threadIdx.x == 0) finish_queue(params.queue);
  }

 private:
  const PrefillParams& params;
  u32 base;
  int lane = threadIdx.x & 31;
  u32 place;  // of the unit in shared memory

  __device__ __forceinline__ PortablePrefill(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  // Two places for units: this one's and the next one's.
  __device__ __forceinline__ void attend_all() {
    place = base + kUnitOffset;
    if (threadIdx.x == 0) fetch(place, blockIdx.x);
    copy_async_wait_all();
    __syncthreads();
    prepare(place);
    copy_async_wait_all();
    __syncthreads();
    while (load_word<kIndexPlace>() >= 0) {
      attend();
      __syncthreads();  // the next unit is there, and all else in shared memory is free
      place ^= kUnitBytes;
    }
  }

  // Asks for a unit's item, and says which unit of it this is, or -1 at the end of the list. One thread.
  __device__ __forceinline__ void fetch(u32 place, u32 unit) const {
    const u32 heads = params.plan->heads;
    const bool exists = unit < params.plan->count * heads;
    if (exists) {
      const u8* source = reinterpret_cast<const u8*>(items_of<WorkItem>(params.plan) + unit / heads);
      copy_async(place, source, 16);
      copy_async(place + 16, source + 16, 16);
    }
    store_shared(place + kIndexPlace, exists ? unit % heads : ~0u);
  }

  template <int kOffset>
  __device__ __forceinline__ i32 load_word() const {
    i32 v;
    asm volatile("ld.shared.s32 %0, [%1 + %2];" : "=r"(v) : "r"(place), "n"(kOffset) : "memory");
    return v;
  }

  // Computed anew wherever it is wanted: registers are scarce.
  static __device__ __forceinline__ u32 thread_index() {
    int v;
    asm volatile("mov.u32 %0, %tid.x;" : "=r"(v));
    return v;
  }

  __device__ __forceinline__ float unit_scale() const { return __int_as_float(load_word<kScalePlace>()); }

  static __device__ __forceinline__ Tile tile_at(u32 place) {
    const int4 low = load_shared(place), high = load_shared(place + 16);
    return Tile::unpack({low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w,
                         static_cast<u16>(high.z >> 16) + load_shared_word(place + kIndexPlace)});
  }
  // Read again wherever it is wanted: registers are scarce.
  __device__ __forceinline__ Tile unit_tile() const { return tile_at(place); }

  __device__ __forceinline__ void attend() {
    const Tile tile = unit_tile();
    const int blocks = tile.blocks();
    float o[kSlabs][kValueDim / 2];
    PrefillSoftmax softmax[kSlabs];
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
      softmax[m].clear();
#pragma unroll
      for (int i = 0; i < kValueDim / 2; i++) o[m][i] = 0.f;
    }
    put_aside(softmax);
    if (blocks > 0) {
      copy_query(tile);
      check_pages(blocks - 1, first_pages());
      copy_block<false>(blocks - 1, first_pages());
      if constexpr (kBuffers == 2) {
        copy_block<true>(blocks - 1, first_pages());
        copy_pages(tile, blocks - 2, pages_of(blocks - 2));
      }
    }
    copy_async_commit();
    if (threadIdx.x == 0) {
      fetch(place ^ kUnitBytes, atomicAdd(params.queue, 1) + gridDim.x);
      float scale = params.plan->scale_log2;
      if constexpr (Shape::kQuantised) scale *= __ldg(params.key_scales + tile.kv_head());
      store_shared(place + kScalePlace, __float_as_uint(scale));
    }
    copy_async_commit();
    if (blocks == 0) {
      copy_async_wait<0>();
      __syncthreads();  // the scale and the next unit are there
      prepare(place ^ kUnitBytes);
    }

    int n = blocks - 1;
    if (first_row(0) >= tile.rows()) {
#pragma unroll 1
      for (; n >= 0; n--) {  // a warp without rows only copies
        start_step(n);
        turn_step(n);
      }
    }
#pragma unroll 1
    for (; n >= 0; n--) {
      start_step(n);
      float s[kSlabs][kBlockTokens / 2];
      u32 p[kSlabs][kBlockTokens / 16][4];
      multiply_keys(s, n);
      const float scale = unit_scale(), slack = __fdividef(8.f, scale);
      const bool masked = hides(n);
      if (masked) mask(s, n);
      take_back(softmax);
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        float2 factor;
        if (softmax[m].raise(s[m], scale, slack, factor)) rescale(o[m], factor);
        softmax[m].weigh(s[m], scale, masked);
        round_probabilities(p[m], s[m]);
      }
      put_aside(softmax);
      turn_step(n);
      multiply_values(o, p, n);
    }
    copy_async_wait_all();
    take_back(softmax);
    finish(o, softmax);
  }

  // This thread's maxima and sums: in shared memory between softmaxes, where registers do not suffice.
  __device__ __forceinline__ void put_aside(const PrefillSoftmax (&softmax)[kSlabs]) const {
    if constexpr (kStateInShared) {
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        store_shared(base + kStateOffset + (m * kThreads + thread_index()) * 16,
                     make_int4(__float_as_int(softmax[m].max[0]), __float_as_int(softmax[m].max[1]),
                               __float_as_int(softmax[m].sum[0]), __float_as_int(softmax[m].sum[1])));
      }
    }
  }
  __device__ __forceinline__ void take_back(PrefillSoftmax (&softmax)[kSlabs]) const {
    if constexpr (kStateInShared) {
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        const int4 state = load_shared(base + kStateOffset + (m * kThreads + thread_index()) * 16);
        softmax[m].max[0] = __int_as_float(state.x);
        softmax[m].max[1] = __int_as_float(state.y);
        softmax[m].sum[0] = __int_as_float(state.z);
        softmax[m].sum[1] = __int_as_float(state.w);
      }
    }
  }

  // K of block n is there, and everybody has done with the step before: asks for what is needed next.
  __device__ __forceinline__ void start_step(int n) const {
    copy_async_wait<0>();
    __syncthreads();
    if constexpr (kBuffers == 2) {
      if (n > 0) {
        check_pages(n - 1, pages_of(n - 1));
        copy_block<false>(n - 1, pages_of(n - 1));
        copy_block<true>(n - 1, pages_of(n - 1));
        if (Shape::kPaged) copy_pages(unit_tile(), n - 2, pages_of(n - 2));
      } else {
        prepare(place ^ kUnitBytes);
      }
    } else {
      const bool first = Shape::kPaged && n == unit_tile().blocks() - 1;
      copy_block<true>(n, first ? first_pages() : pages_of(n));
      if (Shape::kPaged) copy_pages(unit_tile(), n - 1, pages_of(n - 1));
    }
    copy_async_commit();
  }

  // Between the products of a step.
  __device__ __forceinline__ void turn_step(int n) const {
    if constexpr (kBuffers == 1) {
      copy_async_wait<0>();
      __syncthreads();
      if (n > 0) {
        check_pages(n - 1, pages_of(n - 1));
        copy_block<false>(n - 1, pages_of(n - 1));
      } else {
        prepare(place ^ kUnitBytes);
      }
      copy_async_commit();
    }
  }

  // Asks for what the first copies of a unit, which has come, need to know.
  __device__ __forceinline__ void prepare(u32 place) const {
    if (load_shared_word(place + kIndexPlace) < 0) return;
    const Tile tile = tile_at(place);
    const int row = thread_index();
    if (row < tile.rows()) {
      const u16* source = params.query + query_offset(tile, row);
#pragma unroll
      for (int i = 0; i < kHeadDim; i += 64) prefetch(source + i);
    }
    copy_pages(tile, tile.blocks() - 1, first_pages());
  }

  __device__ __forceinline__ void finish(float (&o)[kSlabs][kValueDim / 2], PrefillSoftmax (&softmax)[kSlabs]) const {
    const float scale = unit_scale();
    const Tile tile = unit_tile();
    if (first_row(0) < tile.rows()) {
#pragma unroll
      for (int m = 0; m < kSlabs; m++) write(tile, m, o[m], softmax[m], scale);
    }
    if (tile.item.parts > 1) {
      const int crew = threadIdx.x / Parts::kCrewThreads;
      constexpr int kCrewRows = Shape::kTileRows / kCrews;
      const int end = min((crew + 1) * kCrewRows, tile.rows());
      if (crew * kCrewRows < end) Parts::finish(params, tile, crew, 1 + crew, crew * kCrewRows, end);
    }
  }

  // This warp's first row of a slab.
  static __device__ __forceinline__ int first_row(int slab) { return (thread_index() / 32 * kSlabs + slab) * 16; }
  // Of a slab this thread has rows own_row and own_row + 8.
  static __device__ __forceinline__ int own_row(int slab) {
    const u32 thread = thread_index();
    return (thread / 32 * kSlabs + slab) * 16 + thread % 32 / 4;
  }

  // The xor of a 16-byte chunk's index with its row's against bank conflicts.
  template <int kRowBytes>
  static __device__ __forceinline__ int swizzled(int chunk, int row) {
    return chunk ^ (row * kRowBytes / 128 % (kRowBytes / 16));
  }

  // Rows behind the item's repeat its last one: nobody reads what comes of them.
  __device__ __forceinline__ void copy_query(const Tile& tile) const {
    constexpr int kAtOnce = Shape::kQuantised ? 2 : 1;  // chunks
    constexpr int kRowThreads = Shape::kRowChunks / kAtOnce, kRowsAtOnce = kThreads / kRowThreads;
    const int thread = thread_index(), place = thread % kRowThreads * kAtOnce;
#pragma unroll 4
    for (int row = thread / kRowThreads; row < Shape::kTileRows; row += kRowsAtOnce) {
      const u16* source = params.query + place * 8 + query_offset(tile, min(row, tile.rows() - 1));
      const u32 target = base + row * Shape::kRowBytes;
#pragma unroll
      for (int c = 0; c < Shape::kColumns; c++) {
        if constexpr (Shape::kQuantised) {
          // The order of headDim in a step is that of the keys' bytes: words 0, 2, 4, 6 and then 1, 3, 5, 7.
          const int4 low = load_volatile(source + c * Shape::kColumn),
                     high = load_volatile(source + c * Shape::kColumn + 8);
          store_shared(target + c * kQueryColumnBytes + Shape::swizzled(place, row) * 16,
                       make_int4(convert(low.x), convert(low.z), convert(high.x), convert(high.z)));
          store_shared(target + c * kQueryColumnBytes + Shape::swizzled(place + 1, row) * 16,
                       make_int4(convert(low.y), convert(low.w), convert(high.y), convert(high.w)));
        } else {
          copy_async(target + c * kQueryColumnBytes + Shape::swizzled(place, row) * 16, source + c * Shape::kColumn,
                     16);
        }
      }
    }
  }

  // a rows of a stride, which is below 2^31: one instruction.
  static __device__ __forceinline__ i64 times(i32 a, i64 stride) {
    return static_cast<i64>(a) * static_cast<i32>(stride);
  }

  __device__ __forceinline__ i64 query_offset(const Tile& tile, int row) const {
    return times(tile.item.row + Tile::token_of(row), params.query_row_stride) +
           times(tile.head_of(row), params.query_head_stride);
  }

  static __device__ __forceinline__ u32 convert(u32 two) {
    if constexpr (IsSame<Element, MathElement>::value) return two;
    const float2 v = Element::unpack(two);
    return MathElement::pack(v.x, v.y);
  }

  // The query comes from the kernel before: the compiler must not lift its loads over wait_for_dependency.
  static __device__ __forceinline__ int4 load_volatile(const u16* p) {
    int4 v;
    asm volatile("ld.global.v4.s32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
  }

  // Where page ids are: of a unit's first block, and of the others.
  __device__ __forceinline__ u32 first_pages() const { return base + kPagesOffset; }
  __device__ __forceinline__ u32 pages_of(int n) const {
    return base + kPagesOffset + (1 + (n & 1)) * (kBlockTokens * 4);
  }

  // Paged: the page of each token of block n.
  __device__ __forceinline__ void copy_pages(const Tile& tile, int n, u32 pages) const {
    if constexpr (Shape::kPaged) {
      const int at = thread_index(), token = tile.item.begin + n * kBlockTokens + at;
      if (at < kBlockTokens && n >= 0 && token < tile.item.end) {
        copy_async_word(pages + at * 4, params.pages + tile.item.kv_start + token / Shape::kPageSize);
      }
    }
  }

  // Checked mode: holds the pages of block n, which have come, to those that there are.
  __device__ __forceinline__ void check_pages(int n, u32 pages) const {
    if constexpr (Shape::kPaged && Shape::kChecked) {
      const Tile tile = unit_tile();
      const int at = thread_index(), token = tile.item.begin + n * kBlockTokens + at;
      if (at < kBlockTokens && token < tile.item.end) {
        const i32 page = checked_page<true>(params, load_shared_word(pages + at * 4), tile.item.row, token);
        store_shared(pages + at * 4, static_cast<u32>(page));
      }
      __syncthreads();
    }
  }

  static __device__ __forceinline__ void copy_async_wait_all() {
    copy_async_commit();
    copy_async_wait<0>();
  }

  // Brings 128 bytes to the L2.
  static __device__ __forceinline__ void prefetch(const void* global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
  }

  static __device__ __forceinline__ void copy_async_word(u32 shared, const void* global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
  }

  // K or V of a block. Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may hold
  // anything.
  template <bool kValues>
  __device__ __forceinline__ void copy_block(int n, u32 pages) const {
    constexpr int kRowsAtOnce = kThreads / kKvRowChunks;
    constexpr int kColumns = (kValues ? kValueDim : kHeadDim) / Shape::kColumn;
    const u32 thread = thread_index();
    const int row = thread / kKvRowChunks, chunk = thread % kKvRowChunks;
    const Tile tile = unit_tile();
    const int first = tile.item.begin + n * kBlockTokens + row;
    const i64 stride = kValues ? params.value_token_stride : params.key_token_stride;
    i64 start = times(tile.kv_head(), kValues ? params.value_head_stride : params.key_head_stride);
    if constexpr (!Shape::kPaged) start += times(tile.item.kv_start + first, stride);
    const u8* source = (kValues ? params.value : params.key) + start * KvElement::kBytes + chunk * 16;
    const u32 target = base + (kValues ? kValueOffset : kKeyOffset) +
                       (kBuffers == 2 ? (n & 1) * (kValues ? kValueBytes : kKeyBytes) : 0) + row * kKvRowBytes +
                       swizzled<kKvRowBytes>(chunk, row) * 16;
    if (kRowsAtOnce > kBlockTokens && row >= kBlockTokens) return;
#pragma unroll
    for (int i = 0; i < kBlockTokens; i += kRowsAtOnce) {
      const int token = first + i;
      const bool exists = token < tile.item.end;
      i64 offset = times(i, stride);
      if constexpr (Shape::kPaged) {
        const i32 page = load_shared_word(pages + (row + i) * 4);
        offset = times(page, kValues ? params.value_page_stride : params.key_page_stride) +
                 times(token % Shape::kPageSize, stride);
      }
      const u8* at = source + offset * KvElement::kBytes;
      const u32 bytes = exists ? 16 : 0;
#pragma unroll
      for (int c = 0; c < kColumns; c++) {
        copy_async(target + i * kKvRowBytes + c * kKvColumnBytes, at + c * kKvRowBytes, bytes);
      }
    }
  }

  // Several tiles of B, 16 x 8 each, from what ldmatrix brought.
  using Operands = u32[kLoadTiles][2];

  static __device__ __forceinline__ void key_operands(Operands& b, const u32 (&a)[4]) {
#pragma unroll
    for (int i = 0; i < kLoadTiles; i++) {
      if constexpr (Shape::kQuantised) {
        b[i][0] = KvElement::widen_low(a[i]);
        b[i][1] = KvElement::widen_high(a[i]);
      } else {
        b[i][0] = a[2 * i];
        b[i][1] = a[2 * i + 1];
      }
    }
  }

  static __device__ __forceinline__ void value_operands(Operands& b, const u32 (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if constexpr (Shape::kQuantised) {  // two tokens of two neighbours become two neighbours of two tokens
        const u32 first = __byte_perm(a[2 * i], 0, 0x3120), last = __byte_perm(a[2 * i + 1], 0, 0x3120);
        b[2 * i][0] = KvElement::widen_low(first);
        b[2 * i + 1][0] = KvElement::widen_high(first);
        b[2 * i][1] = KvElement::widen_low(last);
        b[2 * i + 1][1] = KvElement::widen_high(last);
      } else {
        b[i][0] = a[2 * i];
        b[i][1] = a[2 * i + 1];
      }
    }
  }

  // S = Q K^T.
  __device__ __forceinline__ void multiply_keys(float (&s)[kSlabs][kBlockTokens / 2], int n) const {
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
#pragma unroll
      for (int i = 0; i < kBlockTokens / 2; i++) s[m][i] = 0.f;
    }
    // Matrices of a K load, 16-bit: 8 tokens by chunk 0 and 1 of the step, then the next 8 tokens; 8-bit: 4 times 8 tokens.
    const int token = Shape::kQuantised ? lane : (lane & 7) + (lane >> 4) * 8, row = first_row(0) + (lane & 15);
    const u32 keys = base + kKeyOffset + (kBuffers == 2 ? (n & 1) * kKeyBytes : 0) + token * kKvRowBytes;
    const u32 rows = base + row * Shape::kRowBytes;
    const u32 key_swizzle = swizzled<kKvRowBytes>(Shape::kQuantised ? 0 : (lane >> 3) & 1, token) * 16;
    const u32 row_swizzle = Shape::swizzled(lane >> 4, row) * 16;
#pragma unroll
    for (int k = 0; k < kQuerySteps; k++) {
      u32 query[kSlabs][4];
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        ldmatrix(query[m], rows + k / kColumnSteps * kQueryColumnBytes + m * 16 * Shape::kRowBytes +
                               (row_swizzle ^ (k % kColumnSteps * 32)));
      }
#pragma unroll
      for (int j = 0; j < kBlockTokens / (8 * kLoadTiles); j++) {
        u32 loaded[4];
        ldmatrix(loaded, keys + k / kColumnSteps * kKvColumnBytes + j * 8 * kLoadTiles * kKvRowBytes +
                             (key_swizzle ^ (k % kColumnSteps * (16 * KvElement::kBytes))));
        Operands key;
        key_operands(key, loaded);
#pragma unroll
        for (int i = 0; i < kLoadTiles; i++) {
#pragma unroll
          for (int m = 0; m < kSlabs; m++) multiply(s[m], kLoadTiles * j + i, query[m], key[i]);
        }
      }
    }
  }

  // Whether this warp's first row does not see all of block n: the others see as much or more.
  __device__ __forceinline__ bool hides(int n) const {
    const Tile tile = unit_tile();
    return tile.item.begin + (n + 1) * kBlockTokens > tile.limit_of(first_row(0));
  }

  // Hides what rows do not see of block n.
  __device__ __forceinline__ void mask(float (&s)[kSlabs][kBlockTokens / 2], int n) const {
    const Tile tile = unit_tile();
    const int start = tile.item.begin + n * kBlockTokens;
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
      const int row = own_row(m);
      PrefillSoftmax::mask(s[m], tile.limit_of(row) - start, tile.limit_of(row + 8) - start, lane);
    }
  }

  // The scores' fragments are P's as operands.
  static __device__ __forceinline__ void round_probabilities(u32 (&p)[kBlockTokens / 16][4],
                                                             const float (&s)[kBlockTokens / 2]) {
#pragma unroll
    for (int k = 0; k < kBlockTokens / 16; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) p[k][i] = MathElement::pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
  }

  static __device__ __forceinline__ void rescale(float (&o)[kValueDim / 2], float2 factor) {
#pragma unroll
    for (int j = 0; j < kValueDim / 8; j++) {
      o[4 * j] *= factor.x;
      o[4 * j + 1] *= factor.x;
      o[4 * j + 2] *= factor.y;
      o[4 * j + 3] *= factor.y;
    }
  }

  // O += P V.
  __device__ __forceinline__ void multiply_values(float (&o)[kSlabs][kValueDim / 2],
                                                  const u32 (&p)[kSlabs][kBlockTokens / 16][4], int n) const {
    // Matrices of a transposed V load: 8 tokens, the next 8, both of chunk 0, then of chunk 1.
    const int token = lane & 15;
    const u32 values = base + kValueOffset + (kBuffers == 2 ? (n & 1) * kValueBytes : 0) + token * kKvRowBytes;
    const u32 swizzle = swizzled<kKvRowBytes>(lane >> 4, token) * 16;
    constexpr int kColumnLoads = kKvRowChunks / 2;
#pragma unroll
    for (int k = 0; k < kBlockTokens / 16; k++) {
#pragma unroll
      for (int j = 0; j < kValueDim / (8 * kLoadTiles); j++) {
        u32 loaded[4];
        ldmatrix_transposed(loaded, values + j / kColumnLoads * kKvColumnBytes + k * 16 * kKvRowBytes +
                                        (swizzle ^ j % kColumnLoads * 32));
        Operands value;
        value_operands(value, loaded);
#pragma unroll
        for (int i = 0; i < kLoadTiles; i++) {
#pragma unroll
          for (int m = 0; m < kSlabs; m++) multiply(o[m], kLoadTiles * j + i, p[m][k], value[i]);
        }
      }
    }
  }

  // Accumulator j of a row of them.
  template <int N>
  static __device__ __forceinline__ void multiply(float (&d)[N], int j, const u32 (&a)[4], const u32 (&b)[2]) {
    float(&part)[4] = *reinterpret_cast<float(*)[4]>(d + 4 * j);
    MathElement::mma(part, a, b[0], b[1]);
  }

  // A slab's output, or its partial state.
  __device__ __forceinline__ void write(const Tile& tile, int slab, float (&o)[kValueDim / 2], PrefillSoftmax& softmax,
                                        float scale) const {
    float value_scale = 1.f;
    if constexpr (Shape::kQuantised) value_scale = __ldg(params.value_scales + tile.kv_head());
    softmax.gather();
    const bool whole = tile.item.parts <= 1;
    rescale(o, make_float2(whole ? softmax.inverse(0) * value_scale : value_scale,
                           whole ? softmax.inverse(1) * value_scale : value_scale));
    if constexpr (Shape::kQuantised) {  // of two tiles one had the even elements of headDim, one the odd ones
#pragma unroll
      for (int j = 0; j < kValueDim / 8; j += 2) {
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
          const float odd = o[4 * j + r + 1];
          o[4 * j + r + 1] = o[4 * j + 4 + r];
          o[4 * j + 4 + r] = odd;
        }
      }
    }
    if (whole) {
      write_rows(tile, slab, o, softmax, scale);
    } else {
      Parts::store(params, tile, own_row(slab), o, softmax, scale);
    }
  }

  // A slab's output and log-sum-exp, by way of the warp's own rows of Q: 16 bytes a thread.
  __device__ __forceinline__ void write_rows(const Tile& tile, int slab, const float (&o)[kValueDim / 2],
                                             const PrefillSoftmax& softmax, float scale) const {
    const int first = first_row(slab), row = own_row(slab);
    __syncwarp();  // the warp has read its Q
#pragma unroll
    for (int j = 0; j < kValueDim / 8; j++) {
      const int element = Shape::pair_element(j, lane & 3), chunk = element / 8;
      const u32 target = base + chunk / Shape::kRowChunks * kQueryColumnBytes + row * Shape::kRowBytes +
                         Shape::swizzled(chunk % Shape::kRowChunks, row) * 16 + element % 8 * 2;
      store_shared(target, Element::pack(o[4 * j], o[4 * j + 1]));
      store_shared(target + 8 * Shape::kRowBytes, Element::pack(o[4 * j + 2], o[4 * j + 3]));
    }
    __syncwarp();
    constexpr int kRowsAtOnce = 32 / Shape::kRowChunks;
    const int chunk = lane % Shape::kRowChunks;
#pragma unroll
    for (int i = 0; i < 16; i += kRowsAtOnce) {
      const int at = first + i + lane / Shape::kRowChunks;
      if (at < tile.rows()) {
        u16* target = params.output + times(tile.item.row + Tile::token_of(at), params.output_row_stride) +
                      times(tile.head_of(at), params.output_head_stride) + chunk * 8;
        const u32 source = base + at * Shape::kRowBytes + Shape::swizzled(chunk, at) * 16;
#pragma unroll
        for (int c = 0; c < Shape::kValueColumns; c++) {
          *reinterpret_cast<int4*>(target + c * Shape::kColumn) = load_shared(source + c * kQueryColumnBytes);
        }
      }
    }
    if (params.lse != nullptr && (lane & 3) == 0) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int at = row + 8 * r;
        if (at < tile.rows()) {
          params.lse[static_cast<i64>(tile.item.row + Tile::token_of(at)) * Shape::kHeads + tile.head_of(at)] =
              softmax.lse(r, scale);
        }
      }
    }
  }
};

}  // namespace flashinfer
