// Shared memory of the Hopper prefill kernel, and the barriers between its warpgroups.
#pragma once

#include "attention/prefill_work.cuh"
#include "core/hopper.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct HopperLayout {
  static constexpr int kConsumers = 2;  // warpgroups
  static constexpr int kStages = 2;     // of K, and of V

  // The pool is what the launch allocated, 168 registers for each of 384 threads. headDim 128 and 256 fill 240; the
  // producer of the others spills beside 24.
  static constexpr bool kManyRegisters = Shape::kHeadDim % 128 == 0;
  static constexpr int kProducerRegisters = kManyRegisters ? 24 : 40;
  static constexpr int kConsumerRegisters = kManyRegisters ? 240 : 232;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters == 168 * (kConsumers + 1),
                "registers of the pool");

  // Q lives in registers where these are enough: its slot is then free for the next tile at once.
  static constexpr bool kQueryInRegisters = Shape::kHeadDim <= 128;

  // K and V. Ragged: [column][token][kRowBytes]. Paged: [token / 8][column][8 tokens][kRowBytes], so that boxes of whole
  // pages leave groups of 8 tokens evenly spaced.
  static constexpr int kGroupBytes = 8 * Shape::kRowBytes;
  static constexpr int kColumnStride = Shape::kPaged ? kGroupBytes : Shape::kBlockTokens * Shape::kRowBytes;
  static constexpr int kGroupStride = Shape::kPaged ? kGroupBytes * Shape::kColumns : kGroupBytes;
  static constexpr int kBoxTokens =
      Shape::kPaged ? greatest_divisor(Shape::kPageSize, Shape::kBlockTokens) : Shape::kBlockTokens;
  static constexpr int kBoxes = Shape::kBlockTokens / kBoxTokens;  // of a block
  static constexpr int kBoxBytes = kBoxTokens * Shape::kRowTotalBytes;
  static_assert(kBoxes <= 32, "each lane of the producer copies a box");

  // Output of a consumer, [column][64 rows][kRowBytes]; headDim 256 has room for half of it.
  static constexpr int kOutputColumns = Shape::kHeadDim == 256 ? 2 : Shape::kColumns;
  static constexpr int kOutputColumnBytes = 64 * Shape::kRowBytes;
  static constexpr int kOutputBytes = kOutputColumns * kOutputColumnBytes;
  static constexpr int kQueryColumnBytes = Shape::kTileRows * Shape::kRowBytes;

  static constexpr int kKeyOffset = Shape::kQueryBytes;
  static constexpr int kValueOffset = kKeyOffset + kStages * Shape::kBlockBytes;
  static constexpr int kOutputOffset = kValueOffset + kStages * Shape::kBlockBytes;
  static constexpr int kBarrierOffset = kOutputOffset + kConsumers * kOutputBytes;
  static constexpr int kItemOffset = kBarrierOffset + 128;
  static constexpr int kSharedBytes = kItemOffset + sizeof(PrefillItem);
  static_assert(kSharedBytes <= 227 * 1024, "a block needs more shared memory than the chip has");

  static __device__ __forceinline__ u32 query_full(u32 base) { return base + kBarrierOffset; }
  static __device__ __forceinline__ u32 query_empty(u32 base) { return base + kBarrierOffset + 8; }
  static __device__ __forceinline__ u32 key_full(u32 base, u32 stage) { return base + kBarrierOffset + 16 + stage * 8; }
  static __device__ __forceinline__ u32 key_empty(u32 base, u32 stage) { return key_full(base, stage) + kStages * 8; }
  static __device__ __forceinline__ u32 value_full(u32 base, u32 stage) {
    return key_full(base, stage) + 2 * kStages * 8;
  }
  static __device__ __forceinline__ u32 value_empty(u32 base, u32 stage) {
    return key_full(base, stage) + 3 * kStages * 8;
  }

  static __device__ __forceinline__ void init_barriers(u32 base) {
    constexpr int kConsumerWarps = kConsumers * 4;
    mbarrier_init(query_full(base), 1);
    mbarrier_init(query_empty(base), kConsumerWarps);
    for (int i = 0; i < kStages; i++) {
      mbarrier_init(key_full(base, i), 1);
      mbarrier_init(key_empty(base, i), kConsumerWarps);
      mbarrier_init(value_full(base, i), 1);
      mbarrier_init(value_empty(base, i), kConsumerWarps);
    }
    mbarrier_init_fence();
  }
};

#endif

}  // namespace flashinfer
