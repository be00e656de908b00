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
#include "core/ptx.cuh"

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
  static constexpr int kAtOnce = 3;  // copies of a thread whose loads overlap
  static constexpr int kBlocksPerSm = 8;

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion, sizeof(AppendParams), kThreads, 0, kBlocksPerSm, 1, 0, 0, 1, 1};
  }

  static __device__ __forceinline__ void run(const AppendParams& params) {
    launch_dependents();
    const AppendItem* items = items_of<AppendItem>(params.plan);
    // The first item is read beside the count, not after it: the list has room for as many as there are blocks.
    int4 next = load_ahead(reinterpret_cast<const int4*>(items + blockIdx.x));
    const int count = load_ahead(&params.plan->count);
    for (int i = blockIdx.x; i < count; i += gridDim.x) {
      const AppendItem item = {next.x, next.y, next.z, next.w};
      if (i + gridDim.x < count) next = load_ahead(reinterpret_cast<const int4*>(items + i + gridDim.x));
      const int copies = item.count * (kKvHeads * kChunks);
      for (int first = threadIdx.x; first < copies; first += kAtOnce * kThreads) copy(params, item, first, copies);
    }
    wait_for_dependency();  // also without an item: the next kernel counts on the one before this to be done
  }

 private:
  // Copies first, first + kThreads, ...: all loads before the first store, which the compiler may not move them over.
  static __device__ __forceinline__ void copy(const AppendParams& params, const AppendItem& item, int first,
                                              int copies) {
    i32 page[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int at = first + i * kThreads, position = item.position + token_of(at);
      if (at < copies) page[i] = load_ahead(params.pages + item.page_offset + position / kPageSize);
    }
    wait_for_dependency();  // the new keys and values come from the kernel before; list and pages do not
    uint4 key[kAtOnce], value[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int at = first + i * kThreads;
      if (at < copies) {
        const i64 row = item.row + token_of(at);
        key[i] = *reinterpret_cast<const uint4*>(params.key + row * params.key_row_stride +
                                                 head_of(at) * params.key_head_stride + at % kChunks * 8);
        value[i] = *reinterpret_cast<const uint4*>(params.value + row * params.value_row_stride +
                                                   head_of(at) * params.value_head_stride + at % kChunks * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int at = first + i * kThreads;
      if (at < copies) {
        const int position = item.position + token_of(at);
        const i64 to = checked_page<Config::kChecked>(params, page[i], item.row + token_of(at), position);
        const i64 target = to * params.page_stride + position % kPageSize * params.token_stride +
                           head_of(at) * params.head_stride + at % kChunks * 8;
        store(params.key_cache + target * KvElement::kBytes, key[i], params.key_scales, head_of(at));
        store(params.value_cache + target * KvElement::kBytes, value[i], params.value_scales, head_of(at));
      }
    }
  }

  static __device__ __forceinline__ int head_of(int at) { return at / kChunks % kKvHeads; }
  static __device__ __forceinline__ int token_of(int at) { return at / (kChunks * kKvHeads); }

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
