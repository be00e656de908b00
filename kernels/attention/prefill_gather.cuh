// Keys and values of pages that are no multiple of 8 tokens: the producing warpgroup of the Hopper prefill kernel gathers them
// token by token with cp.async, into the layout that the copy engine would leave.
//
// Nobody waits for copies: they arrive at the block's full barrier themselves when they are done. What they wrote becomes
// visible to wgmma by a fence of each consumer behind its wait.
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

  // This warp's share of block n: token t of it is number t * kWarps + warp of the block; lane t brings its page. Tokens
  // behind the end become zeros.
  template <bool kValues>
  static __device__ __forceinline__ void copy(const PrefillParams& params, const Tile& tile, int n, i32 page,
                                              u32 target, u32 full) {
    constexpr int kChunks = kValues ? Shape::kValueChunks : Shape::kHeadChunks;
    constexpr int kStride = kValues ? Layout::kValueGroupStride : Layout::kKeyGroupStride;
    // A lane copies a chunk of each round. After so many rounds it meets the same chunk of another token, whole groups of 8
    // tokens further on: the addresses of the rounds between are all that it computes.
    constexpr int kRounds = kTokens * kChunks / 32;
    constexpr int kPeriod = kChunks % 3 == 0 ? 3 : kChunks == 32 ? 2 : 1;
    constexpr int kPeriodTokens = kPeriod * 32 / kChunks;
    static_assert(kTokens * kChunks % 32 == 0 && kRounds % kPeriod == 0, "every lane copies as many chunks");
    static_assert(kPeriod * 32 % kChunks == 0 && kPeriodTokens * kWarps % 8 == 0, "a period is whole groups of tokens");
    const int warp = warp_now(), lane = lane_now();
    const int first = tile.item.begin + n * Shape::kBlockTokens + warp;  // of the warp's tokens in the sequence
    const u64 source = reinterpret_cast<u64>(kValues ? params.value : params.key) +
                       tile.kv_head() * (kValues ? params.value_head_stride : params.key_head_stride) * 2;
    // Where this lane's token begins, in chunks: half the registers and shuffles of an address.
    const i64 row =
        page * (kValues ? params.value_page_stride : params.key_page_stride) +
        (first + lane * kWarps) % Shape::kPageSize * (kValues ? params.value_token_stride : params.key_token_stride);
    const u32 mine = page < 0 ? 0 : static_cast<u32>(row >> 3);
    const int there = (tile.item.end - first + kWarps - 1) / kWarps;  // of the warp's tokens
    u32 address[kPeriod];
    int token[kPeriod], chunk[kPeriod];
#pragma unroll
    for (int k = 0; k < kPeriod; k++) {
      // The compiler does not know that a lane is below 32.
      token[k] = kChunks == 32 ? k : (k * 32 + lane) / kChunks;
      chunk[k] = kChunks == 32 ? lane : (k * 32 + lane) % kChunks;
      const int at = token[k] * kWarps + warp;
      address[k] = target + (at >> 3) * kStride + (at & 7) * Shape::kRowBytes +
                   chunk[k] / Shape::kRowChunks * Layout::kColumnStride +
                   Shape::swizzled(chunk[k] % Shape::kRowChunks, at) * 16;
    }
    const u64 column = kPeriod > 1 ? source : anew(source + chunk[0] * 16);
    constexpr int kTogether = kPeriod == 3 ? 3 : Layout::kConsumers == 3 ? 1 : 4;  // so that latencies overlap
    static_assert(kRounds % kTogether == 0, "rounds come in groups");
#pragma unroll
    for (int i = 0; i < kRounds; i += kTogether) {
      u32 from[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; k++) {
        from[k] = __shfl_sync(~0u, mine, token[(i + k) % kPeriod] + (i + k) / kPeriod * kPeriodTokens);
        if (kPeriod > 1) from[k] += chunk[(i + k) % kPeriod];
      }
#pragma unroll
      for (int k = 0; k < kTogether; k++) {
        const int period = (i + k) / kPeriod;
        copy_async(address[(i + k) % kPeriod] + period * (kPeriodTokens * kWarps / 8 * kStride),
                   column + static_cast<u64>(from[k]) * 16,
                   token[(i + k) % kPeriod] + period * kPeriodTokens < there ? 16 : 0);
      }
    }
    copy_async_arrive(full);
  }
};

#endif

}  // namespace flashinfer
