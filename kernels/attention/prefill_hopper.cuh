// Prefill on sm_90a: TMA, warpgroup products from registers, softmax of one warpgroup under the products of the other.
//
// Grid: at most one block an SM, persistent. Block: 384 threads, 512 where three consumers have registers enough, or 256 where
//   64 rows are enough. Warpgroup 0 produces: two warps copy K, two V; they also read the items and copy Q
//   (prefill_producer.cuh). Or one of each, and one copies pages into the rows that they read (prefill_stager.cuh). The one to three others consume: 64 query rows each (prefill_consumer.cuh). Where queries and keys turn
//   with their positions, or are quantised, one more warpgroup does what that takes, between the two (prefill_preparer.cuh).
// Shared memory, at HopperLayout's offsets: Q | stages of K | stages of V | both with 8 bits | output of each consumer warp |
//   columns of a line | a slice to be staged | mbarriers | items.
// mbarriers, each a pair of full (the arrival of the warp that copies, or of every thread that gathers, and the bytes copied) and
//   empty (one arrival of each consumer warp, or thread): Q, every stage of K and of V, and every slot of items, which all producing warps
//   but the first, and the preparer, read too. Of Q and K, and V that is widened, one more says that it is prepared (an arrival of each of
//   the preparer's threads), and of what is widened one that consumers have read it: empty is then the preparer's word.
//   For items every thread arrives: racecheck does not see that __syncwarp orders the others' accesses before one's arrival.
// Named barriers: 1 zeroed rows of V, all consumers; for each consumer its turn on the tensor cores, and its partial states.
// Programmatic dependent launch: before the wait only the barriers, the maps, the list's scale and count; of decode also items,
//   page ids, and keys and values of earlier steps, as decode.cuh.
#pragma once

#include "attention/prefill_consumer.cuh"
#include "attention/prefill_preparer.cuh"
#include "attention/prefill_producer.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct HopperPrefill {
  using Layout = HopperLayout<Shape>;

  static constexpr int kThreads = Layout::kWarpgroups * 128;
  static constexpr int kBlocksPerSm = 1;
  static constexpr int kSharedBytes = Layout::kAskedBytes;
  static constexpr int kFeatures = kTensorMap | (Layout::kHasStager ? kStager : 0);

  static __device__ __forceinline__ void run(const PrefillParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const u32 base = Layout::base(shared);
    if (threadIdx.x == 0) {
      prefetch_tensor_map(params.query_map);
      prefetch_tensor_map(params.key_map);
      prefetch_tensor_map(params.value_map);
      prefetch_tensor_map(params.output_map);
      Layout::init_barriers(base);
    }
    if constexpr (Shape::Hooks::kAddsLine) {
      if (threadIdx.x < Shape::kBlockTokens) {
        store_shared(base + Layout::kLineOffset + threadIdx.x * 16, PrefillLine<Shape>::column(threadIdx.x));
      }
      async_proxy_fence();  // before products read them
    }
    __syncthreads();  // nobody waits on a barrier before it is initialised
    launch_dependents();
    if (threadIdx.x < 128) {
      if (Layout::kMovesRegisters) yield_registers<Layout::kProducerRegisters>();
      if (threadIdx.x < Layout::kProducerWarps * 32) {
        work<PrefillProducer<Shape>>(params, base);
      } else if (Layout::kHasStager && threadIdx.x < Layout::kProducerWarps * 32 + 32) {
        work<PrefillStager<Shape>>(params, base);
      }
    } else if (!Layout::kPrepares || threadIdx.x < 128 + PrefillConsumer<Shape>::kThreads) {
      if (Layout::kMovesRegisters) take_registers<Layout::kConsumerRegisters>();
      work<PrefillConsumer<Shape>>(params, base);
    } else if constexpr (Layout::kPrepares) {
      if (Layout::kMovesRegisters) yield_registers<Layout::kPreparerRegisters>();
      work<PrefillPreparer<Shape>>(params, base);
    }
  }

 private:
  // What a warpgroup does; nothing where the list is empty, as in a graph that has other kernels for this plan: consumers would multiply a
  // block of nothing. Asked by each of them, since asked before they part, NVRTC 12.4 spills at headDim 96.
  template <typename Role>
  static __device__ __forceinline__ void work(const PrefillParams& params, u32 base) {
    if (load_ahead(&params.plan->count) == 0) {
      wait_for_dependency();
    } else {
      Role(params, base).run();
    }
  }
};

#endif

}  // namespace flashinfer
