// Batch prefill: any number of query tokens a sequence, causal or full, over ragged keys and values or a paged KV cache.
// Which kernel does it is PrefillShape's to say.
#pragma once

#include "attention/prefill_hopper.cuh"
#include "attention/prefill_portable.cuh"

namespace flashinfer {

template <typename Shape, bool kHopper>
struct PrefillKernel {
  using Type = PortablePrefill<Shape>;
};
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
template <typename Shape>
struct PrefillKernel<Shape, true> {
  using Type = HopperPrefill<Shape>;
};
#endif

template <typename Config, bool kStaged = false>
struct Prefill {
  using Shape = PrefillShape<Config, kStaged>;
  using Kernel = typename PrefillKernel<Shape, Shape::kHopper>::Type;

  static constexpr int kThreads = Kernel::kThreads;
  static constexpr int kBlocksPerSm = Kernel::kBlocksPerSm;

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion,
            sizeof(PrefillParams),
            kThreads,
            Kernel::kSharedBytes,
            kBlocksPerSm,
            1,
            Kernel::kFeatures,
            Shape::kUsedRows,
            1,
            1,
            Shape::kPack,
            Shape::kTileTokens,
            Shape::kBlockTokens};
  }

  static __device__ __forceinline__ void run(const PrefillParams& params) { Kernel::run(params); }
};

}  // namespace flashinfer
