// What a prefill kernel is made for, how its tiles lie in shared memory, and how its blocks share the work.
//
// Unit of work = one item of the host's list: up to kTileRows query rows of one head. Block b starts with item b; every
// further one comes from a counter, so that items are taken in the order of the list (long ones first), each by the block
// that is free. The last block to finish puts the counters back for the next launch.
#pragma once

#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

constexpr __host__ __device__ int greatest_divisor(int a, int b) { return b == 0 ? a : greatest_divisor(b, a % b); }

// All constants of a configuration on this architecture. Tuning numbers stand here, each with its reason.
template <typename Config>
struct PrefillShape {
  using Element = typename Config::Element;
  static_assert(SameType<Element, typename Config::KvElement>::value, "prefill wants keys and values of Q's type");
  static constexpr bool kChecked = Config::kChecked;

  static constexpr int kHeads = Config::kHeads;
  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kPageSize = Config::kPageSize;  // 0: keys and values are ragged, packed rows
  static constexpr int kGroup = kHeads / kKvHeads;
  static constexpr bool kPaged = kPageSize > 0;
  static_assert(kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static_assert(kHeadDim == 64 || kHeadDim == 96 || kHeadDim == 128 || kHeadDim == 192 || kHeadDim == 256,
                "headDim must be 64, 96, 128, 192 or 256");

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  // Warpgroup matrix products want a tile whose groups of 8 tokens are evenly spaced: ragged rows, or pages of whole
  // groups. Other page sizes run the portable kernel.
  static constexpr bool kHopper = !kPaged || kPageSize % 8 == 0;
#else
  static constexpr bool kHopper = false;
#endif

  // A tile in shared memory is made of columns of 128 bytes, or 64 where headDim is no multiple of 64; the index of a
  // row's 16-byte chunk is xored with the row against bank conflicts, as the copy engine's swizzle of that width does.
  static constexpr int kColumn = kHeadDim % 64 == 0 ? 64 : 32;  // elements
  static constexpr int kColumns = kHeadDim / kColumn;
  static constexpr int kRowBytes = kColumn * 2;        // of a row of one column
  static constexpr int kRowChunks = kColumn / 8;       // 16-byte chunks of it
  static constexpr int kHeadChunks = kHeadDim / 8;     // of a row of all columns
  static constexpr int kRowTotalBytes = kHeadDim * 2;  // of a row of all columns

  static __device__ __forceinline__ int swizzled(int chunk, int row) {
    return chunk ^ (kColumn == 64 ? row & 7 : (row >> 1) & 3);
  }

  // Hopper: 128 x 128 was the fastest tile up to headDim 128 (176 keys lost everywhere); above, K and V of two steps, Q
  // and the output's staging leave room for 80 and 64 keys.
  // Portable: 32 rows a warp halve what ldmatrix reads for each product; headDim above 128 has registers for 16. headDim
  // 128 spills beside scores for 64 keys; with 32 two blocks fit every chip's shared memory.
  static constexpr int kTileRows = kHopper || kHeadDim <= 128 ? 128 : 64;
  static constexpr int kHopperTokens = kHeadDim <= 128 ? 128 : kHeadDim <= 192 ? 80 : 64;
  static constexpr int kPortableTokens = kHeadDim == 128 ? 32 : 64;
  static constexpr int kBlockTokens = kHopper ? kHopperTokens : kPortableTokens;
  static constexpr int kQueryBytes = kTileRows * kRowTotalBytes;
  static constexpr int kBlockBytes = kBlockTokens * kRowTotalBytes;  // K, or V, of one step
};

// One item, and what follows from it.
template <typename Shape>
struct PrefillTile {
  PrefillItem item;

  static __device__ __forceinline__ PrefillTile unpack(int4 a, int4 b) {
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  }

  // Tokens that the tile's last row sees: no row sees more. 0 when nothing is visible.
  __device__ __forceinline__ int tokens() const { return max(0, min(item.kv_length, item.visible + item.rows - 1)); }
  __device__ __forceinline__ int blocks() const { return (tokens() + Shape::kBlockTokens - 1) / Shape::kBlockTokens; }
  __device__ __forceinline__ int kv_head() const { return item.head / Shape::kGroup; }
};

// Leaves the counters zero for the next launch. One thread of each block calls it, when it takes no more items.
__device__ __forceinline__ void finish_items(u32* counters) {
  __threadfence();
  if (atomicAdd(counters + 1, 1) == gridDim.x - 1) {
    counters[0] = 0;
    counters[1] = 0;
  }
}

}  // namespace flashinfer
