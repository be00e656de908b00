// Keys and values of pages that are no multiple of 8 tokens: a team of producing warps of the Hopper prefill kernel gathers them
// token by token with cp.async, into the layout that the copy engine would leave.
//
// A consumer waits wherever a producing warp beside it issues. So as many lanes share a token as a column's row has chunks, and each copies
// its chunk of all columns: one shuffle and one address serve them, and all else is known when the code is compiled.
// Nobody waits for copies: they arrive at the block's full barrier themselves when they are done. What they wrote becomes
// visible to wgmma by a fence of each consumer behind its wait.
#pragma once

#include "attention/prefill_layout.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape, bool kValues>
struct PrefillGather {
  using Layout = HopperLayout<Shape>;

  static constexpr int kWarps = Layout::kTeamWarps;
  using Copied = typename Layout::template Copied<kValues>;
  static constexpr int kLanes = Copied::kRowBytes / 16;         // of a token
  static constexpr int kAtOnce = 32 / kLanes;                   // tokens of a warp
  static constexpr int kTokens = Shape::kBlockTokens / kWarps;  // of a block, for each warp
  static constexpr int kRounds = kTokens / kAtOnce;
  static constexpr int kTogether = 4;  // rounds, so that latencies overlap
  static constexpr int kGroupStride = Copied::kGroupStride;
  // The warps take tokens in turn, so a lane's tokens lie whole groups of 8 apart: their rows are swizzled alike.
  static constexpr int kRoundStride = kAtOnce * kWarps / 8 * kGroupStride;
  static_assert(!Layout::kGathers || kRounds * kAtOnce == kTokens, "every lane copies as many chunks");

  u64 source;  // this lane's chunk of the KV head's first token
  u32 place;   // of this lane's first token, in a block
  bool ends;   // whether the tile's last block has tokens behind the end, and is next

  // Of the warp's tokens of a block, the one whose page this lane knows, and every 32nd from it: in a round the lanes that share a
  // token ask the same one among them.
  static __device__ __forceinline__ int token_of(int lane) { return lane % kLanes * kAtOnce + lane / kLanes; }

  __device__ __forceinline__ void turn_to(const PrefillParams& params, int head, int warp) {
    const int lane = lane_now(), chunk = lane % kLanes, token = lane / kLanes * kWarps + warp;
    source = reinterpret_cast<u64>(kValues ? params.value : params.key) +
             head * (kValues ? params.value_head_stride : params.key_head_stride) * Copied::kElementBytes + chunk * 16;
    place = (token >> 3) * kGroupStride + (token & 7) * Copied::kRowBytes +
            swizzled_chunk<Copied::kRowBytes>(chunk, token) * 16;
  }

  // This warp's share of a block: the page of each of this lane's tokens, and the place in the sequence of the first. Keys behind the
  // end are those of any token, since they are masked; values become zeros, for which the last block of a sequence has code of its own.
  template <int kWords>
  __device__ __forceinline__ void copy(const PrefillParams& params, int first, const i32 (&pages)[kWords], u32 target,
                                       u32 full) {
    u32 mine[kWords];  // where tokens begin, in chunks: half the registers and shuffles of an address
#pragma unroll
    for (int i = 0; i < kWords; i++) {
      const u32 token = static_cast<u32>(first + i * 32 * kWarps) % Shape::kPageSize;
      mine[i] = pages[i] * chunks(kValues ? params.value_page_stride : params.key_page_stride) +
                token * chunks(kValues ? params.value_token_stride : params.key_token_stride);
    }
    if (kValues && ends) {
#pragma unroll
      for (int i = 0; i < kWords; i++) mine[i] = pages[i] < 0 ? kNothing : mine[i];
      copy<true>(mine, target + place);
      ends = false;
    } else {
      copy<false>(mine, target + place);
    }
    copy_async_arrive(full);
  }

 private:
  static constexpr u32 kNothing = 1u << 31;  // instead of where a token begins: it does not

  static __device__ __forceinline__ u32 chunks(i64 elements) {
    return static_cast<u32>(elements >> (Copied::kElementBytes == 1 ? 4 : 3));
  }

  template <bool kEnds, int kWords>
  __device__ __forceinline__ void copy(const u32 (&mine)[kWords], u32 target) const {
#pragma unroll
    for (int i = 0; i < kRounds; i += kTogether) {
      u32 from[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; k++) {
        if (i + k < kRounds) from[k] = __shfl_sync(~0u, mine[(i + k) / kLanes], (i + k) % kLanes, kLanes);
      }
#pragma unroll
      for (int k = 0; k < kTogether && i + k < kRounds; k++) {
        const u64 begin = source + static_cast<u64>(kEnds ? from[k] & ~kNothing : from[k]) * 16;
#pragma unroll
        for (int c = 0; c < Copied::kColumns; c++) {
          const u32 to = target + (i + k) * kRoundStride + c * Copied::kColumnStride;
          const u64 chunk = begin + c * Copied::kRowBytes;
          if constexpr (kEnds) {
            copy_async(to, reinterpret_cast<const void*>(chunk), from[k] & kNothing ? 0 : 16);
          } else {
            copy_async(to, chunk);
          }
        }
      }
    }
  }
};

#endif

}  // namespace flashinfer
