// A warp of the Hopper prefill kernel that stages pages on the way: it copies their tokens into the rows over which the kernel attends, so that a
// block comes as one box, and ahead of those who walk it, beside products, which want little memory.
//
// The stagers of all blocks take slices of a few tokens, keys and values of all heads, from one counter, in the order of the list: whoever takes one
// runs and waits for nobody, so whoever waits for rows waits for a warp that runs. Of each 64 rows a word counts what is there. A slice comes to
// shared memory by the copy engine, a copy for each token, or for each of its heads where these lie apart, and goes as one piece. What has to be
// known of the next slice is asked for meanwhile.
#pragma once

#include "attention/prefill_layout.cuh"
#include "core/fault.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillStager {
  using Layout = HopperLayout<Shape>;

  static constexpr int kPageSize = Shape::kStagedPageSize > 0 ? Shape::kStagedPageSize : 1;
  static constexpr int kItemTokens = 64;  // at most, and of the rows that a word counts
  static constexpr int kSliceTokens = Layout::kSliceTokens;
  static constexpr u32 kSlices = (kItemTokens + kSliceTokens - 1) / kSliceTokens;  // of an item
  static constexpr u32 kTokenBytes = Shape::kKvHeads * Shape::kRowTotalBytes;      // of keys, or values
  static constexpr u32 kFinishers = 3;  // warps that read of the queue: those of K and V, and this one

  // Words of the queue behind those that all kernels have.
  enum Word { kTaken = 2, kStaged, kStagedOfFirst };

  const PrefillParams& params;
  u32 base;

  __device__ __forceinline__ PrefillStager(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  __device__ __forceinline__ void run() {
    const u32 slices = load_ahead(&params.staged->count) * kSlices;
    wait_for_dependency();  // the kernel before may have written the pages, or read the rows
    u32 phase = 0, taken = take();
    u32 slice = __shfl_sync(~0u, taken, 0);
    taken = take();
    int4 item = item_of(slice, slices);
    u32 source = source_of(item, 0);
    while (slice < slices) {
      const int row = item.x, count = item.y;
      if (count > 0) {
        if (lane_now() == 0) mbarrier_expect(full(), count * (2 * kTokenBytes));
        __syncwarp();
        copy(source, 0, count);
        if (kSliceTokens > 32) copy(source_of(item, 32), 32, count);
      }
      slice = __shfl_sync(~0u, taken, 0);
      taken = take();
      item = item_of(slice, slices);
      if (count > 0) {
        mbarrier_wait(full(), phase);
        phase ^= 1;
        if (lane_now() == 0) send(row, count);
      }
      source = source_of(item, 0);
      if (count > 0 && lane_now() == 0) publish(row, count);
      __syncwarp();
    }
    finish(params);
  }

  // Waits until rows from `first` on are there, of those before `unknown`, from which on they are known to be; the warp looks at as many more as it
  // has lanes for. Returns from which row on they are known to be there: kNone for all.
  static __device__ __forceinline__ int wait_for(const PrefillParams& params, int first, int unknown) {
    const int lane = lane_now();
    do {
      // The last lane looks at how many are there in all.
      const int last = (unknown - 1) / kItemTokens, at = lane == 31 ? kStaged : kStagedOfFirst + max(last - lane, 0);
      const u32 there = load_acquire(params.queue + at);
      const u32 lacks = __ballot_sync(~0u, there != (lane == 31 ? rows_of(params) : kItemTokens));
      unknown = lacks >> 31 ? min(unknown, (last + 2 - __ffs(lacks)) * kItemTokens) : kNone;
    } while (first < unknown);
    __syncwarp();  // what any lane has seen
    global_proxy_fence();
    return unknown;
  }
  static constexpr int kNone = -(1 << 30);

  // The last warp of the last block leaves the queue zero for the next launch; one that has asked for nothing more.
  static __device__ __forceinline__ void finish(const PrefillParams& params) {
    u32 before = 0;
    __syncwarp();
    if (lane_now() == 0) {
      __threadfence();
      before = atomicAdd(params.queue + 1, 1);
    }
    if (__shfl_sync(~0u, before, 0) != gridDim.x * kFinishers - 1) return;
    const u32 words = kStagedOfFirst + (rows_of(params) + kItemTokens - 1) / kItemTokens;
#pragma unroll 1
    for (u32 i = lane_now(); i < words; i += 32) params.queue[i] = 0;
  }

 private:
  static __device__ __forceinline__ u32 rows_of(const PrefillParams& params) {
    return load_ahead(&params.staged->fresh_tokens);
  }

  __device__ __forceinline__ u32 full() const { return Layout::slice_full(base); }
  __device__ __forceinline__ u32 keys() const { return base + Layout::kStagerOffset; }

  // One lane's to take.
  __device__ __forceinline__ u32 take() const { return lane_now() == 0 ? atomicAdd(params.queue + kTaken, 1) : 0; }

  // A slice as a StageItem's words; of no tokens behind its item's end, or the list's.
  __device__ __forceinline__ int4 item_of(u32 slice, u32 slices) const {
    if (slice >= slices) return make_int4(0, 0, 0, 0);
    int4 words = load_ahead(reinterpret_cast<const int4*>(items_of<StageItem>(params.staged) + slice / kSlices));
    const int skipped = slice % kSlices * kSliceTokens;
    words.x += skipped;
    words.y = min(words.y - skipped, kSliceTokens);
    words.z += skipped;
    return words;
  }

  // Where this lane's token of a slice begins in the cache's layer, from one of them on; in chunks of 16 bytes.
  __device__ __forceinline__ u32 source_of(const int4& item, int first) const {
    const int token = first + lane_now(), position = item.z + token;
    if (token >= item.y) return 0;
    const i32 page = __ldg(params.pages + item.w + position / kPageSize);
    return checked_page<Shape::kChecked>(params, page, item.x + token, position) * chunks(params.key_page_stride) +
           position % kPageSize * chunks(params.key_token_stride);
  }
  static __device__ __forceinline__ u32 chunks(i64 elements) { return static_cast<u32>(elements >> 3); }

  // Asks for this lane's token of a slice, if it is one of `count`.
  __device__ __forceinline__ void copy(u32 source, int first, int count) const {
    const int token = first + lane_now();
    if (token >= count) return;
    const u32 head = chunks(params.key_head_stride);
    const u32 bytes = head == Shape::kHeadChunks ? kTokenBytes : Shape::kRowTotalBytes;
    u32 target = keys() + token * kTokenBytes;
#pragma unroll 1
    for (const u32 end = target + kTokenBytes; target < end; target += bytes, source += head) {
      copy_bulk(target, params.key + static_cast<u64>(source) * 16, bytes, full(), kEvictFirst);
      copy_bulk(target + Layout::kSliceBytes / 2, params.value + static_cast<u64>(source) * 16, bytes, full(),
                kEvictFirst);
    }
  }

  // One lane's: to the rows, and when it is there, to whoever waits for it.
  __device__ __forceinline__ void send(int row, int count) const {
    const i64 element = row * static_cast<i64>(kTokenBytes / 2);
    store_bulk(params.staged_key + element, keys(), count * kTokenBytes, kEvictLast);
    store_bulk(params.staged_value + element, keys() + Layout::kSliceBytes / 2, count * kTokenBytes, kEvictLast);
    bulk_commit();
  }
  __device__ __forceinline__ void publish(u32 row, u32 count) const {
    const u32 end = row + count;
    const u32 lacking = end == rows_of(params) ? -end % kItemTokens : 0;  // of 64 in the last word
    bulk_wait();
    global_proxy_fence();
    __threadfence();
    atomicAdd(params.queue + kStagedOfFirst + row / kItemTokens, count + lacking);
    atomicAdd(params.queue + kStaged, count);
  }
};

#endif

}  // namespace flashinfer
