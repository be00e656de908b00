// Keys and values of pages that are no multiple of 8 tokens: the producing warpgroup of the Hopper prefill kernel gathers them
// token by token with cp.async, into the layout that the copy engine would leave.
//
// A block's full barrier is told when its copies are done, which is looked at when those of the next block are under way,
// or at once before a wait. What threads wrote becomes visible to wgmma by a fence of each of them ahead of the arrival.
#pragma once

#include "attention/prefill_layout.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillGather {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;

  static constexpr int kWarps = Layout::kProducerWarps;
  static constexpr int kTokens = Shape::kBlockTokens / kWarps;  // of a block, for each warp

  u32 pending = 0;  // full barrier of the block whose copies are under way

  // Waits for all copies and tells.
  __device__ __forceinline__ void flush() {
    if constexpr (Layout::kGathers) {
      if (pending != 0) tell<0>();
      pending = 0;
    }
  }

  // This warp's share of block n: token t of it is number t * kWarps + warp of the block; lane t brings its page. Tokens
  // behind the end become zeros.
  template <bool kValues>
  __device__ __forceinline__ void copy(const PrefillParams& params, const Tile& tile, int n, i32 page, u32 target,
                                       u32 full) {
    constexpr int kChunks = kValues ? Shape::kValueChunks : Shape::kHeadChunks;
    constexpr int kStride = kValues ? Layout::kValueGroupStride : Layout::kKeyGroupStride;
    static_assert(kTokens * kChunks % 32 == 0, "every lane copies as many chunks");
    const int warp = warp_now(), lane = lane_now();
    const int first = tile.item.begin + n * Shape::kBlockTokens + warp;  // of the warp's tokens in the sequence
    const u64 source = reinterpret_cast<u64>(kValues ? params.value : params.key) +
                       tile.kv_head() * (kValues ? params.value_head_stride : params.key_head_stride) * 2;
    // Where this lane's token begins, in chunks: half the registers and shuffles of an address.
    const i64 row =
        page * (kValues ? params.value_page_stride : params.key_page_stride) +
        (first + lane * kWarps) % Shape::kPageSize * (kValues ? params.value_token_stride : params.key_token_stride);
    const u32 mine = page < 0 ? 0 : static_cast<u32>(row >> 3);
    const auto address_of = [&](int at, int chunk) {
      return target + (at >> 3) * kStride + (at & 7) * Shape::kRowBytes +
             chunk / Shape::kRowChunks * Layout::kColumnStride + Shape::swizzled(chunk % Shape::kRowChunks, at) * 16;
    };
    if constexpr (32 % kChunks == 0 && 32 / kChunks * kWarps % 8 == 0) {
      // Every step is whole groups of 8 tokens further on.
      constexpr int kAtOnce = 32 / kChunks;  // tokens
      const u32 address = address_of(lane / kChunks * kWarps + warp, lane % kChunks);
      const int left = tile.item.end - first - lane / kChunks * kWarps;
      const u64 column = anew(source + lane % kChunks * 16);
#pragma unroll
      for (int i = 0; i < kTokens / kAtOnce; i += 4) {
        u32 chunk[4];  // together, so that latencies overlap
#pragma unroll
        for (int k = 0; k < 4; k++) chunk[k] = __shfl_sync(~0u, mine, (i + k) * kAtOnce + lane / kChunks);
#pragma unroll
        for (int k = 0; k < 4; k++) {
          copy_async(address + (i + k) * (kAtOnce * kWarps / 8 * kStride), column + static_cast<u64>(chunk[k]) * 16,
                     (i + k) * kAtOnce * kWarps < left ? 16 : 0);
        }
      }
    } else {
#pragma unroll 3
      for (int i = lane; i < kTokens * kChunks; i += 32) {
        const int token = i / kChunks, chunk = i % kChunks;
        const u32 from = __shfl_sync(~0u, mine, token) + chunk;
        copy_async(address_of(token * kWarps + warp, chunk), source + static_cast<u64>(from) * 16,
                   first + token * kWarps < tile.item.end ? 16 : 0);
      }
    }
    copy_async_commit();
    if (pending != 0) tell<1>();
    pending = full;
  }

 private:
  template <int kUnderWay>
  __device__ __forceinline__ void tell() {
    copy_async_wait<kUnderWay>();
    async_proxy_fence();
    __syncwarp();
    if (lane_now() == 0) mbarrier_arrive(pending);
  }
};

#endif

}  // namespace flashinfer
