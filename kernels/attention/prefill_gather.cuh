// Keys and values of pages that are no multiple of 8 tokens: a team of producing warps of the Hopper prefill kernel gathers them
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

  static constexpr int kWarps = Layout::kTeamWarps;
  static constexpr int kTokens = Shape::kBlockTokens / kWarps;  // of a block, for each warp

  // After so many rounds, in each of which a lane copies a chunk, it meets the same chunk of another token, whole groups of 8
  // tokens further on: the addresses of the rounds between are all that it computes.
  static constexpr __host__ __device__ int period(int chunks) {
    int rounds = 1;
    while (rounds * 32 % chunks != 0 || rounds * 32 / chunks * kWarps % 8 != 0) rounds++;
    return rounds;
  }

  // This warp's share of a block: token t of it is number t * kWarps + warp of the block; lane t % 32 brings its page as word
  // t / 32, and the place in the sequence of the first of these tokens. Keys behind the end are those of any token, since they are
  // masked; values become zeros, for which the last block of a sequence has code of its own.
  template <bool kValues, int kWords>
  static __device__ __forceinline__ void copy(const PrefillParams& params, int head, int warp, int first,
                                              const i32 (&pages)[kWords], u32 target, u32 full) {
    bool ends = false;
#pragma unroll
    for (int i = 0; i < kWords; i++) ends |= pages[i] < 0 && lane_now() + 32 * i < kTokens;
    if (kValues && __any_sync(~0u, ends)) {
      copy<kValues, true>(params, head, warp, first, pages, target);
    } else {
      copy<kValues, false>(params, head, warp, first, pages, target);
    }
    copy_async_arrive(full);
  }

 private:
  static constexpr u32 kNothing = 1u << 31;  // instead of where a token begins: it does not

  template <bool kValues, bool kEnds, int kWords>
  static __device__ __forceinline__ void copy(const PrefillParams& params, int head, int warp, int first,
                                              const i32 (&pages)[kWords], u32 target) {
    constexpr int kChunks = kValues ? Shape::kValueChunks : Shape::kHeadChunks;
    constexpr int kStride = kValues ? Layout::kValueGroupStride : Layout::kKeyGroupStride;
    constexpr int kRounds = kTokens * kChunks / 32;
    constexpr int kPeriod = period(kChunks);
    constexpr int kPeriodTokens = kPeriod * 32 / kChunks;
    constexpr bool kOneChunk = 32 % kChunks == 0;  // of all rounds
    static_assert(kTokens * kChunks % 32 == 0 && kRounds % kPeriod == 0, "every lane copies as many chunks");
    const int lane = lane_now();  // else what follows from it would stay in registers that are not there
    // Where this lane's tokens begin, in chunks: half the registers and shuffles of an address.
    u32 mine[kWords];
#pragma unroll
    for (int i = 0; i < kWords; i++) {
      const u32 token = first + i * 32 * kWarps;
      const i64 row = pages[i] * (kValues ? params.value_page_stride : params.key_page_stride) +
                      token % Shape::kPageSize * (kValues ? params.value_token_stride : params.key_token_stride);
      mine[i] = pages[i] < 0 ? (kEnds ? kNothing : 0) : static_cast<u32>(row >> 3);
    }
    u64 source = reinterpret_cast<u64>(kValues ? params.value : params.key) +
                 head * (kValues ? params.value_head_stride : params.key_head_stride) * 2;
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
    if (kOneChunk) source = anew(source + chunk[0] * 16);
    constexpr int kTogether = Layout::kConsumers < 3 && kOneChunk ? 4 : 3 - kWords;  // so that latencies overlap
    static_assert(kRounds % kTogether == 0, "rounds come in groups");
#pragma unroll
    for (int i = 0; i < kRounds; i += kTogether) {
      u32 from[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; k++) {
        const int t = (i + k) / kPeriod * kPeriodTokens;
        from[k] = __shfl_sync(~0u, mine[t / 32], token[(i + k) % kPeriod] + t);
        if (!kOneChunk) from[k] += chunk[(i + k) % kPeriod];
      }
#pragma unroll
      for (int k = 0; k < kTogether; k++) {
        const u32 to = address[(i + k) % kPeriod] + (i + k) / kPeriod * (kPeriodTokens * kWarps / 8 * kStride);
        if constexpr (kEnds) {
          const u64 chunk_address = source + static_cast<u64>(from[k] & ~kNothing) * 16;
          copy_async(to, reinterpret_cast<const void*>(chunk_address), from[k] & kNothing ? 0 : 16);
        } else {
          copy_async(to, source + static_cast<u64>(from[k]) * 16);
        }
      }
    }
  }
};

#endif

}  // namespace flashinfer
