// The structures that host and kernels share; src/FlashInfer.Runtime/Attention/KernelParams.cs
// mirrors them, and a test compares sizes and the order of members. Strides count elements of 2
// bytes. All pointers are device addresses, aligned to 16 bytes.
#pragma once

#include "core/types.cuh"

namespace flashinfer {

// The first 16 bytes of every list that the host uploads; its items follow.
struct ListHeader {
  i32 count;         // items in the list
  float scale_log2;  // decode: smScale * log2(e)
  i64 reserved;
};
static_assert(sizeof(ListHeader) == 16, "ListHeader is 16 bytes on the host");

// A range of one sequence's tokens that a block attends to, for one KV head and group tile at a
// time.
struct DecodeItem {
  i32 row;          // of the query and the output
  i32 begin;        // first token, a multiple of 16
  i32 end;          // one past the last token; equal to begin for an empty sequence
  i32 page_offset;  // where the sequence's pages start in the page table
  i32 part_offset;  // first partial-state slot of the sequence when parts > 1
  i32 part;         // which part of the sequence this is
  i32 parts;        // parts of the sequence; 1 writes the output directly
  i32 reserved;
};
static_assert(sizeof(DecodeItem) == 32, "DecodeItem is 32 bytes on the host");

// A CUtensorMap: what the copy engine knows of a tensor.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

struct alignas(64) DecodeParams {
  const u16* query;        // [rows, heads, headDim]
  const u16* key;          // one layer: [pages, pageSize, kvHeads, headDim] (NHD) or HND
  const u16* value;        // as key
  u16* output;             // [rows, heads, headDim]
  float* lse;              // [rows, heads], base 2, contiguous; null when not wanted
  const i32* pages;        // page table
  const ListHeader* plan;  // header and DecodeItems
  float* partial_output;   // [slots, heads, headDim]: sum of exp2(s - max) * v
  float2* partial_state;   // [slots, heads]: max, sum of exp2(s - max)
  u32* counters;           // [slots, kvHeads * groupTiles]: parts that have arrived; zero between launches
  i64 query_row_stride;
  i64 query_head_stride;
  i64 output_row_stride;
  i64 output_head_stride;
  i64 page_stride;
  i64 token_stride;
  i64 head_stride;
  i64 key_page;    // first page of this layer's keys in kv_map
  i64 value_page;  // first page of this layer's values in kv_map
  i64 reserved0;   // the map stands at a multiple of 64 bytes
  i64 reserved1;
  i64 reserved2;
  i64 reserved3;
  i64 reserved4;
  TensorMap kv_map;  // the whole cache as {64, kvHeads, pageSize, pages, headDim/64}; where KernelInfo asks for it
};
static_assert(sizeof(DecodeParams) == 24 * 8 + 128, "DecodeParams has 24 words and a tensor map on the host");

// Up to 16 new tokens of one sequence.
struct AppendItem {
  i32 row;          // of the first token in the new keys and values
  i32 count;        // tokens, 1 to 16
  i32 position;     // of the first token in its sequence
  i32 page_offset;  // where the sequence's pages start in the page table
};
static_assert(sizeof(AppendItem) == 16, "AppendItem is 16 bytes on the host");

struct AppendParams {
  const u16* key;          // new keys, [tokens, kvHeads, headDim]
  const u16* value;        // new values, as key
  u16* key_cache;          // one layer: [pages, pageSize, kvHeads, headDim] (NHD) or HND
  u16* value_cache;        // as key_cache
  const i32* pages;        // page table
  const ListHeader* plan;  // header and AppendItems
  i64 key_row_stride;
  i64 key_head_stride;
  i64 value_row_stride;
  i64 value_head_stride;
  i64 page_stride;
  i64 token_stride;
  i64 head_stride;
};
static_assert(sizeof(AppendParams) == 13 * 8, "AppendParams has 13 members of 8 bytes on the host");

// One changed entry of the page table.
struct PageTableUpdate {
  i32 index;
  i32 page;
};
static_assert(sizeof(PageTableUpdate) == 8, "PageTableUpdate is 8 bytes on the host");

struct PageTableParams {
  i32* pages;                 // page table; the entries of the list are written
  const ListHeader* updates;  // header and PageTableUpdates
};
static_assert(sizeof(PageTableParams) == 16, "PageTableParams differs from the host's");

enum Feature { kTensorMap = 1, kClusters = 2 };

// What a cubin says of itself: the host launches by it and refuses a version that it does not know.
struct KernelInfo {
  i32 abi_version;
  i32 params_bytes;    // size of the argument structure
  i32 threads;         // of a block
  i32 shared_bytes;    // dynamic shared memory of a block
  i32 blocks_per_sm;   // blocks meant to share an SM
  i32 units_per_item;  // pieces of work that one list item expands to
  i32 features;        // kTensorMap: wants kv_map; kClusters: can share a unit between the blocks of a cluster
  i32 reserved;
};
static_assert(sizeof(KernelInfo) == 32, "KernelInfo is 32 bytes on the host");

template <typename Item>
__device__ __forceinline__ const Item* items_of(const ListHeader* list) {
  return reinterpret_cast<const Item*>(list + 1);
}

}  // namespace flashinfer
