// How Q, K, V and page ids come to the portable prefill kernel's shared memory: cp.async, by all threads of the block.
#pragma once

#include "attention/prefill_hooks.cuh"
#include "attention/prefill_portable_layout.cuh"
#include "core/fault.cuh"
#include "core/float8.cuh"

namespace flashinfer {

template <typename Shape>
struct PortableCopies {
  using Layout = PortableLayout<Shape>;
  using Tile = PrefillTile<Shape>;
  using Element = typename Shape::Element;
  using KvElement = typename Shape::KvElement;
  using MathElement = typename Shape::MathElement;

  static constexpr int kBlockTokens = Shape::kBlockTokens;

  const PrefillParams& params;
  u32 base;

  // Asks for a unit's item, and says which unit of it this is, or -1 at the end of the list. One thread.
  __device__ __forceinline__ void fetch(u32 place, u32 unit) const {
    const u32 heads = params.plan->heads;
    const bool exists = unit < params.plan->count * heads;
    if (exists) {
      const u8* source = reinterpret_cast<const u8*>(items_of<WorkItem>(params.plan) + unit / heads);
      copy_async(place, source, 16);
      copy_async(place + 16, source + 16, 16);
      if constexpr (Shape::Hooks::kWantsContext) {
        copy_async(place + Layout::kContextPlace, params.variant->contexts + unit / heads, 16);
      }
    }
    store_shared(place + Layout::kIndexPlace, exists ? unit % heads : ~0u);
  }

  // Asks for what the first copies of a unit, which has come, need to know.
  __device__ __forceinline__ void prepare(u32 place) const {
    if (load_shared_word(place + Layout::kIndexPlace) < 0) return;
    Tile tile = Layout::tile_at(place, {});
    const int row = Layout::thread_index();
    if constexpr (Shape::Hooks::kSkips) {
      tile.skipped = PrefillHooks<Shape>::skipped(tile, Layout::context_at(place), params);
      if (row == 0) store_skipped(place + Layout::kSkippedPlace, tile.skipped);
    }
    if (row < tile.rows()) {
      const u16* source = params.query + query_offset(tile, row);
#pragma unroll
      for (int i = 0; i < Shape::kHeadDim; i += 64) prefetch(source + i);
    }
    copy_pages(tile, tile.blocks() - 1, first_pages());
  }

  // Where page ids are: of a unit's first block, and of the others.
  __device__ __forceinline__ u32 first_pages() const { return base + Layout::kPagesOffset; }
  __device__ __forceinline__ u32 pages_of(int n) const {
    return base + Layout::kPagesOffset + (1 + (n & 1)) * Layout::kPagesBytes;
  }

  // Paged: the page of each token of block n.
  __device__ __forceinline__ void copy_pages(const Tile& tile, int n, u32 pages) const {
    if constexpr (Shape::kPaged) {
      const int at = Layout::thread_index(), token = tile.item.begin + tile.start_of(n) + at;
      if (at < kBlockTokens && n >= 0 && token < tile.item.end) {
        copy_async_word(pages + at * 4, params.pages + tile.item.kv_start + token / Shape::kPageSize);
      }
    }
  }

  // Checked mode: holds the pages of block n, which have come, to those that there are.
  __device__ __forceinline__ void check_pages(const Tile& tile, int n, u32 pages) const {
    if constexpr (Shape::kPaged && Shape::kChecked) {
      const int at = Layout::thread_index(), token = tile.item.begin + tile.start_of(n) + at;
      if (at < kBlockTokens && token < tile.item.end) {
        const i32 page = checked_page<true>(params, load_shared_word(pages + at * 4), tile.item.row, token);
        store_shared(pages + at * 4, static_cast<u32>(page));
      }
      __syncthreads();
    }
  }

  // Rows behind the item's repeat its last one: nobody reads what comes of them.
  __device__ __forceinline__ void copy_query(const Tile& tile) const {
    constexpr int kAtOnce = Shape::kQuantised ? 2 : 1;  // chunks
    constexpr int kRowThreads = Shape::kRowChunks / kAtOnce, kRowsAtOnce = Layout::kThreads / kRowThreads;
    const int thread = Layout::thread_index(), place = thread % kRowThreads * kAtOnce;
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
          store_shared(target + c * Layout::kQueryColumnBytes + Shape::swizzled(place, row) * 16,
                       make_int4(convert(low.x), convert(low.z), convert(high.x), convert(high.z)));
          store_shared(target + c * Layout::kQueryColumnBytes + Shape::swizzled(place + 1, row) * 16,
                       make_int4(convert(low.y), convert(low.w), convert(high.y), convert(high.w)));
        } else {
          copy_async(target + c * Layout::kQueryColumnBytes + Shape::swizzled(place, row) * 16,
                     source + c * Shape::kColumn, 16);
        }
      }
    }
  }

  // K or V of a block. Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may hold
  // anything.
  template <bool kValues>
  __device__ __forceinline__ void copy_block(const Tile& tile, int n, u32 pages) const {
    constexpr int kRowsAtOnce = Layout::kThreads / Layout::kKvRowChunks;
    constexpr int kColumns = (kValues ? Shape::kValueDim : Shape::kHeadDim) / Shape::kColumn;
    const u32 thread = Layout::thread_index();
    const int row = thread / Layout::kKvRowChunks, chunk = thread % Layout::kKvRowChunks;
    const int first = tile.item.begin + tile.start_of(n) + row;
    const i64 stride = kValues ? params.value_token_stride : params.key_token_stride;
    i64 start = Layout::times(tile.kv_head(), kValues ? params.value_head_stride : params.key_head_stride);
    if constexpr (!Shape::kPaged) start += Layout::times(tile.item.kv_start + first, stride);
    const u8* source = (kValues ? params.value : params.key) + start * KvElement::kBytes + chunk * 16;
    const u32 target = base + (kValues ? Layout::values_of(n) : Layout::keys_of(n)) + row * Layout::kKvRowBytes +
                       Layout::template swizzled<Layout::kKvRowBytes>(chunk, row) * 16;
    if (kRowsAtOnce > kBlockTokens && row >= kBlockTokens) return;
    static_assert(kRowsAtOnce > kBlockTokens || kBlockTokens % kRowsAtOnce == 0, "whole rounds");
#pragma unroll
    for (int i = 0; i < kBlockTokens; i += kRowsAtOnce) {
      const int token = first + i;
      const bool exists = token < tile.item.end;
      i64 offset = Layout::times(i, stride);
      if constexpr (Shape::kPaged) {
        const i32 page = load_shared_word(pages + (row + i) * 4);
        offset = Layout::times(page, kValues ? params.value_page_stride : params.key_page_stride) +
                 Layout::times(token % Shape::kPageSize, stride);
      }
      const u8* at = source + offset * KvElement::kBytes;
      const u32 bytes = exists ? 16 : 0;
#pragma unroll
      for (int c = 0; c < kColumns; c++) {
        copy_async(target + i * Layout::kKvRowBytes + c * Layout::kKvColumnBytes, at + c * Layout::kKvRowBytes, bytes);
      }
    }
  }

 private:
  __device__ __forceinline__ i64 query_offset(const Tile& tile, int row) const {
    return Layout::times(tile.item.row + Tile::token_of(row), params.query_row_stride) +
           Layout::times(tile.head_of(row), params.query_head_stride);
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

  // Brings 128 bytes to the L2.
  static __device__ __forceinline__ void prefetch(const void* global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
  }

  static __device__ __forceinline__ void copy_async_word(u32 shared, const void* global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
  }
};

}  // namespace flashinfer
