// The structures that host and kernels share; KernelParams.cs and PrefillParams.cs in src/FlashInfer.Runtime/Attention
// mirror them, and a test compares sizes and the order of members. Strides count
// elements. All pointers are device addresses, aligned to 16 bytes.
#pragma once

#include "core/types.cuh"

namespace flashinfer {

// The first 16 bytes of every list that the host uploads; its items follow.
struct ListHeader {
  i32 count;         // items in the list
  float scale_log2;  // decode, prefill: smScale * log2(e); prefill wants it above 0
  i32 heads;         // head tiles that an item expands to, from its own on; decode's own kernel does not ask
  i32 fresh_tokens;  // decode: the last tokens of a sequence that this step may still write, at most; StageItems: rows of all
};
static_assert(sizeof(ListHeader) == 16, "ListHeader is 16 bytes on the host");

// Query tokens of one sequence and a range of its keys and values that they attend to: what planners make and decode and
// prefill kernels take. On the device every item expands over heads.
struct WorkItem {
  i32 row;          // first row of the query and the output
  i32 begin;        // first token of the range; a multiple of 16 (decode), of KernelInfo's block_tokens (prefill)
  i32 end;          // one past the last token; equal to begin for an empty range
  i32 kv_start;     // paged: where the sequence's pages start in the page table; ragged: row of its first key and value
  i32 part_offset;  // first partial-state slot of these query tokens when parts > 1
  u16 part;         // which part of the sequence this is
  u16 parts;        // parts that these query tokens' attention is cut into; 1 writes the output directly
  u16 query_tokens;  // 1 or more, on consecutive rows
  u16 head;          // prefill: first head tile; decode: 0
  i32 visible;  // query token t sees the first visible + t tokens of the sequence, of those before end; may be 0 or below
};
static_assert(sizeof(WorkItem) == 32, "WorkItem is 32 bytes on the host");

// Which sequence an item's query tokens belong to; item i of a list has context i. For variants of attention only.
struct ItemContext {
  i32 sequence;   // place of the sequence in the batch
  i32 first_row;  // row of the sequence's first query token
  i32 qo_len;     // query tokens of the sequence
  i32 kv_len;     // tokens of the sequence
};
static_assert(sizeof(ItemContext) == 16, "ItemContext is 16 bytes on the host");

// Starts what a plan gives to a variant of attention; the variant's Arguments follow.
struct alignas(16) VariantData {
  const ItemContext* contexts;  // one for each item of the list
  i64 reserved0;
};
static_assert(sizeof(VariantData) == 16, "VariantData is 16 bytes on the host");

// A CUtensorMap: what the copy engine knows of a tensor.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

// The first violation that a checked kernel met; zero when there was none.
struct KernelFault {
  i32 kind;   // 1: the page table names a page that the cache does not have
  i32 row;    // of the query (decode, prefill), the new keys and values (append) or the staged ones
  i32 token;  // of the sequence, which the kernel was about to touch
  i32 value;  // what was wrong
};
static_assert(sizeof(KernelFault) == 16, "KernelFault is 16 bytes on the host");

struct alignas(64) DecodeParams {
  const u16* query;        // [rows, heads, headDim]
  const u8* key;           // one layer: [pages, pageSize, kvHeads, headDim] (NHD) or HND
  const u8* value;         // as key
  u16* output;             // [rows, heads, headDim]
  float* lse;              // [rows, heads], base 2, contiguous; null when not wanted
  const i32* pages;        // page table
  const ListHeader* plan;  // header and WorkItems
  float* partial_output;   // [slots, units of an item, columns of a unit, headDim]: sum of exp2(s - max) * v
  float2* partial_state;   // [slots, units of an item, columns of a unit]: max, sum of exp2(s - max)
  u32* counters;           // [slots, units of an item]: parts that have arrived; zero between launches
  i64 query_row_stride;
  i64 query_head_stride;
  i64 output_row_stride;
  i64 output_head_stride;
  i64 page_stride;            // paged
  i64 token_stride;           // ragged: of keys
  i64 head_stride;            // as token_stride
  i64 key_page;               // first page of this layer's keys in kv_map; ragged: values' token stride
  i64 value_page;             // first page of this layer's values in kv_map; ragged: values' head stride
  const float* key_scales;    // [kvHeads]: what stored keys are multiplied by; null unless the cache is quantised
  const float* value_scales;  // as key_scales
  KernelFault* fault;         // checked mode: where the first violation goes
  i32 page_count;             // checked mode: pages of the cache
  i32 reserved0;
  const VariantData* variant;  // what the unit's variant of attention is given; null for NoVariant
  // The whole cache, where KernelInfo asks for it: {strip, pageSize, strips of a token, pages} (NHD), or {strip, pageSize,
  // strips of a head, kvHeads of all pages} (HND).
  TensorMap kv_map;
};
static_assert(sizeof(DecodeParams) == 24 * 8 + 128, "DecodeParams has 24 words and a tensor map on the host");

struct alignas(64) PrefillParams {
  const u16* query;        // [rows, heads, headDim]
  const u8* key;           // ragged: [tokens, kvHeads, headDim]; paged: one layer, as DecodeParams
  const u8* value;         // as key
  u16* output;             // [rows, heads, headDim]
  float* lse;              // [rows, heads], base 2, contiguous; null when not wanted
  const i32* pages;        // page table; null when ragged
  const ListHeader* plan;  // header and WorkItems, in the order in which blocks take them
  float* partial_output;   // [slots, heads of the header, rows of a tile, headDim]: sum of exp2(s - max) * v
  float2* partial_state;   // [slots, heads of the header, rows of a tile]: max (base 2), sum of exp2(s - max)
  u32* counters;           // [slots, heads of the header]: parts that have arrived; zero between launches
  // Zero between launches. [2]: units taken beyond each block's first, blocks that are done; kStager: warps of blocks that are done, slices
  // taken by stagers, rows that they staged, and of each 64 rows those that they did.
  u32* queue;
  i64 query_row_stride;
  i64 query_head_stride;
  i64 output_row_stride;
  i64 output_head_stride;
  i64 key_token_stride;
  i64 key_head_stride;
  i64 value_token_stride;
  i64 value_head_stride;
  i64 key_page_stride;        // paged
  i64 value_page_stride;      // paged
  i64 key_page;               // paged: first page of this layer's keys in key_map
  i64 value_page;             // paged: first page of this layer's values in value_map
  i32 page_groups;            // paged: 8-token groups of the maps between two pages
  i32 head_groups;            // paged: between two heads of a page; 0 when heads are a dimension of the maps (NHD)
  const float* key_scales;    // [kvHeads]: what stored keys are multiplied by; null unless they are quantised
  const float* value_scales;  // as key_scales
  KernelFault* fault;         // checked mode: where the first violation goes
  i32 page_count;             // checked mode: pages of the cache
  i32 reserved0;
  const VariantData* variant;  // what the unit's variant of attention is given; null for NoVariant
  // For KernelInfo's kStager, whose keys, values, pages and strides are the cache's, and whose maps those of the staged rows:
  u16* staged_key;           // [rows, kvHeads, headDim], contiguous
  u16* staged_value;         // as staged_key
  const ListHeader* staged;  // header and StageItems, none of which goes over a multiple of 64 rows
  // For KernelInfo's kTensorMap. c = 64 columns, or 32 where headDim is no multiple of 64, swizzled over 2c bytes; b =
  // KernelInfo's block_tokens; p, t = its pack and tile_tokens. Keys and values ragged: {c, tokens, headDim/c, kvHeads}, box
  // {c, b, headDim/c, 1}; paged, pages of 8 tokens or multiples: {c, 8, headDim/c, kvHeads (NHD) or 1 (HND), 8-token groups
  // of all pages}, box {c, 8, headDim/c, 1, gcd(pageSize, b) / 8}; quantised, c = headDim.
  // query_map: {c, heads, rows, headDim/c}, box {c, min(p, 64), max(1, 64/p), 1} where p is a power of two, else {c, p, t, 1}.
  TensorMap query_map;
  TensorMap output_map;  // as query_map, box {c, min(p, 16), max(1, 16/p), headDim/c, but 2 of 4}; p a power of two
  TensorMap key_map;
  TensorMap value_map;
};
static_assert(sizeof(PrefillParams) == 32 * 8 + 4 * 128, "PrefillParams has 32 words and four tensor maps on the host");

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
  u8* key_cache;           // one layer: [pages, pageSize, kvHeads, headDim] (NHD) or HND
  u8* value_cache;         // as key_cache
  const i32* pages;        // page table
  const ListHeader* plan;  // header and AppendItems
  i64 key_row_stride;
  i64 key_head_stride;
  i64 value_row_stride;
  i64 value_head_stride;
  i64 page_stride;
  i64 token_stride;
  i64 head_stride;
  const float* key_scales;    // [kvHeads]: what stored keys are multiplied by; null unless the cache is quantised
  const float* value_scales;  // as key_scales
  KernelFault* fault;         // checked mode: where the first violation goes
  i32 page_count;             // checked mode: pages of the cache
  i32 reserved0;
};
static_assert(sizeof(AppendParams) == 17 * 8, "AppendParams has 17 words on the host");

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

// States of attention to be merged, each an output and its base-2 LSE: a first one, then others. With indptr the states of all rows lie
// one behind the other, [states, heads, headDim]: first and first_lse begin with the first of them, other and other_lse with the second.
struct MergeStatesParams {
  const u8* first;         // [rows, heads, headDim]
  const float* first_lse;  // [rows, heads]
  const u8* other;         // [rows, others, heads, headDim]
  const float* other_lse;  // [rows, others, heads]
  u8* output;              // [rows, heads, headDim]; may be first
  float* lse;              // [rows, heads]; null when not wanted; may be first_lse
  const i32* mask;         // [rows]: 0 where nothing is written, as the first state is the output; null for none
  const i32* indptr;       // [rows + 1]: where the states of each row begin; null where all have as many
  i64 first_row_stride;
  i64 first_head_stride;
  i64 first_lse_row_stride;
  i64 first_lse_head_stride;
  i64 other_row_stride;
  i64 other_state_stride;
  i64 other_head_stride;
  i64 other_lse_row_stride;
  i64 other_lse_state_stride;
  i64 other_lse_head_stride;
  i64 output_row_stride;
  i64 output_head_stride;
  i64 lse_row_stride;
  i64 lse_head_stride;
  i32 rows;
  i32 others;  // states of a row besides the first; with indptr all states
  i32 heads;
  i32 head_dim;
};
static_assert(sizeof(MergeStatesParams) == 24 * 8, "MergeStatesParams has 24 words on the host");

// Up to 64 tokens of one sequence, which become rows for prefill.
struct StageItem {
  i32 row;          // of the first token among the staged keys and values
  i32 count;        // tokens, 1 to 64
  i32 position;     // of the first token in its sequence
  i32 page_offset;  // where the sequence's pages start in the page table; ragged: row of its first key
};
static_assert(sizeof(StageItem) == 16, "StageItem is 16 bytes on the host");

struct StageParams {
  const u8* key;      // one layer: [pages, pageSize, kvHeads, headDim] (NHD) or HND; ragged: [tokens, kvHeads, headDim]
  const u8* value;    // as key; ragged, where only keys turn, null, and so are staged_value and pages
  u16* staged_key;    // [rows, kvHeads, headDim], contiguous
  u16* staged_value;  // as staged_key
  const i32* pages;   // page table
  const ListHeader* plan;  // header and StageItems
  i64 page_stride;
  i64 token_stride;
  i64 head_stride;
  KernelFault* fault;  // checked mode: where the first violation goes
  i32 page_count;      // checked mode: pages of the cache
  i32 reserved0;
  const VariantData* variant;  // as PrefillParams
};
static_assert(sizeof(StageParams) == 12 * 8, "StageParams has 12 words on the host");

enum Feature { kTensorMap = 1, kClusters = 2, kStager = 4 };

// What a cubin says of itself: the host launches by it and refuses a version that it does not know.
struct KernelInfo {
  i32 abi_version;
  i32 params_bytes;      // size of the argument structure
  i32 threads;           // of a block
  i32 shared_bytes;      // dynamic shared memory of a block
  i32 blocks_per_sm;     // blocks meant to share an SM
  i32 units_per_item;    // pieces of work that one list item expands to
  i32 features;          // kTensorMap: wants tensor maps; kClusters: can share a unit between the blocks of a cluster;
                         // kStager: stages the rows that it attends to
  i32 columns_per_unit;  // pairs of query token and head that a unit has room for; the rows of a prefill tile
  i32 crews;             // units that a block works on at once
  i32 teams;        // decode: warps of a block, each a team of its own in the kernel for short sequences; 1 without one
  i32 pack;         // prefill: query heads that share a tile; decode: 0
  i32 tile_tokens;  // prefill: query tokens of an item at most; decode: 0
  i32 block_tokens;  // tokens of keys and values that a step takes: items begin at multiples of it
};
static_assert(sizeof(KernelInfo) == 52, "KernelInfo is 52 bytes on the host");

template <typename Item>
__device__ __forceinline__ const Item* items_of(const ListHeader* list) {
  return reinterpret_cast<const Item*>(list + 1);
}

}  // namespace flashinfer
