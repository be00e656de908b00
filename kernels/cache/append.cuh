// Writes new keys and values into their pages, quantising them for a quantised cache. Any sm_80 or later.
//
// Grid: any number of blocks; a block takes list items blockIdx.x, blockIdx.x + gridDim.x, ...
// Block: kThreads threads, each moving 8 elements of K and of V at a time. No shared memory, no barrier: every element is
// written by one thread.
#pragma once

#include "cache/page_table.cuh"
#include "core/fault.cuh"
#include "core/float8.cuh"
#include "core/hopper.cuh"
#include "core/params.cuh"

namespace flashinfer {

template <typename Config>
struct Append {
  using Element = typename Config::Element;
  using KvElement = typename Config::KvElement;

  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kPageSize = Config::kPageSize;
  static constexpr int kChunks = Config::kHeadDim / 8;  // of 8 elements, in one head
  static_assert(Config::kHeads % kKvHeads == 0, "heads must be a multiple of kvHeads");
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerSm = 8;

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion, sizeof(AppendParams), kThreads, 0, kBlocksPerSm, 1, 0, 0, 1, 1};
  }

  static __device__ __forceinline__ void run(const AppendParams& params) {
    const AppendItem* items = items_of<AppendItem>(params.plan);
    const int count = params.plan->count;
    launch_dependents();
    wait_for_dependency();  // the new keys and values come from the kernel before; the list does not
    for (int i = blockIdx.x; i < count; i += gridDim.x) {
      const int4 raw = __ldg(reinterpret_cast<const int4*>(items + i));
      const AppendItem item = {raw.x, raw.y, raw.z, raw.w};
      const int copies = item.count * (kKvHeads * kChunks);
#pragma unroll 4
      for (int at = threadIdx.x; at < copies; at += kThreads) {
        const int chunk = at % kChunks;
        const int head = at / kChunks % kKvHeads;
        const int token = at / (kChunks * kKvHeads);
        const int position = item.position + token;
        const i64 page = checked_page<Config::kChecked>(
            params, __ldg(params.pages + item.page_offset + position / kPageSize), item.row + token, position);
        const i64 target = page * params.page_stride + position % kPageSize * params.token_stride +
                           head * params.head_stride + chunk * 8;
        const i64 row = item.row + token;
        const uint4 key = *reinterpret_cast<const uint4*>(params.key + row * params.key_row_stride +
                                                          head * params.key_head_stride + chunk * 8);
        const uint4 value = *reinterpret_cast<const uint4*>(params.value + row * params.value_row_stride +
                                                            head * params.value_head_stride + chunk * 8);
        store(params.key_cache + target * KvElement::kBytes, key, params.key_scales, head);
        store(params.value_cache + target * KvElement::kBytes, value, params.value_scales, head);
      }
    }
  }

 private:
  static __device__ __forceinline__ void store(u8* target, uint4 eight, const float* scales, int head) {
    if constexpr (KvElement::kBytes == 2) {
      *reinterpret_cast<uint4*>(target) = eight;
    } else {
      const float scale = __ldg(scales + head);
      *reinterpret_cast<uint2*>(target) = make_uint2(narrow(eight.x, scale) | narrow(eight.y, scale) << 16,
                                                     narrow(eight.z, scale) | narrow(eight.w, scale) << 16);
    }
  }

  // Two elements divided by the scale: rounded once, as on the host.
  static __device__ __forceinline__ u32 narrow(u32 two, float scale) {
    const float2 v = Element::unpack(two);
    return KvElement::narrow(v.x / scale, v.y / scale);
  }
};

}  // namespace flashinfer
