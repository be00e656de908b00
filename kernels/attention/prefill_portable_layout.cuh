// What the portable prefill kernel keeps in shared memory, and which rows a thread has.
#pragma once

#include "attention/prefill_parts.cuh"
#include "attention/prefill_work.cuh"

namespace flashinfer {

template <typename Shape>
struct PortableLayout {
  using Tile = PrefillTile<Shape>;
  using KvElement = typename Shape::KvElement;

  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kWarps = Shape::kTileRows / (Shape::kSlabs * 16);
  static constexpr int kThreads = kWarps * 32;
  static_assert(Shape::kValueDim <= Shape::kHeadDim, "the output is staged in Q's place");

  // A tile is [column][row][bytes of a column's row]. Of K and V there are one or two: two where two blocks of 4 warps, or
  // one of 8, fit an SM with them.
  static constexpr int kQueryColumnBytes = Shape::kTileRows * Shape::kRowBytes;
  static constexpr int kKvRowBytes = Shape::kColumn * KvElement::kBytes;
  static constexpr int kKvRowChunks = kKvRowBytes / 16;
  static constexpr int kKvColumnBytes = kBlockTokens * kKvRowBytes;
  static constexpr int kKeyBytes = kBlockTokens * Shape::kHeadDim * KvElement::kBytes;
  static constexpr int kValueBytes = kBlockTokens * Shape::kValueDim * KvElement::kBytes;

  // A unit: its item, which of the item's units it is (-1: the list has ended), the scale of its scores; for variants, the item's
  // context and the blocks that it skips.
  static constexpr int kUnitBytes = Shape::Hooks::kSkips ? 128 : 64, kIndexPlace = sizeof(WorkItem),
                       kScalePlace = kIndexPlace + 4;
  static constexpr int kContextPlace = 48, kSkippedPlace = 64;
  static constexpr int kPagesBytes = Shape::kPaged ? kBlockTokens * 4 : 0;  // of the tokens of a block
  static constexpr bool kStateInShared = Shape::kStateBytes > 0 && kBlockTokens == Shape::kMostTokens;

  static constexpr int kUnitOffset = Shape::kQueryBytes;
  static constexpr int kPagesOffset = kUnitOffset + 2 * kUnitBytes;
  static constexpr int kStateOffset = kPagesOffset + 3 * kPagesBytes;
  static constexpr int kKeyOffset = kStateOffset + (kStateInShared ? Shape::kStateBytes : 0);
  static constexpr int kBlockBytes = kKeyBytes + kValueBytes;
  static constexpr int kReservedBytes = 1024;  // what the system takes of a block's shared memory
  static constexpr bool kDouble =
      256 / kThreads * (kKeyOffset + 2 * kBlockBytes + kReservedBytes) <= Shape::kSharedPerSm;
  static constexpr int kValueOffset = kKeyOffset + (kDouble ? 2 : 1) * kKeyBytes;
  static constexpr int kSharedBytes = kKeyOffset + (kDouble ? 2 : 1) * kBlockBytes;
  static_assert(kSharedBytes + kReservedBytes <= Shape::kSharedPerSm, "a block needs more shared memory than there is");
  static constexpr int kBlocksPerSm =
      kThreads == 128 && 2 * (kSharedBytes + kReservedBytes) <= Shape::kSharedPerSm ? 2 : 1;

  static __device__ __forceinline__ u32 keys_of(int n) { return kKeyOffset + (kDouble ? (n & 1) * kKeyBytes : 0); }
  static __device__ __forceinline__ u32 values_of(int n) {
    return kValueOffset + (kDouble ? (n & 1) * kValueBytes : 0);
  }

  // Where in its row of so many bytes a 16-byte chunk lies: xored with the row against bank conflicts.
  template <int kRowBytes>
  static __device__ __forceinline__ int swizzled(int chunk, int row) {
    return chunk ^ (row * kRowBytes / 128 % (kRowBytes / 16));
  }

  static __device__ __forceinline__ Tile tile_at(u32 place) {
    SkippedBlocks skipped = {};
    if constexpr (Shape::Hooks::kSkips) {
      skipped = load_skipped(place + kSkippedPlace);
    }
    return tile_at(place, skipped);
  }
  static __device__ __forceinline__ Tile tile_at(u32 place, const SkippedBlocks& skipped) {
    const int4 low = load_shared(place), high = load_shared(place + 16);
    return Tile::unpack({low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w,
                         static_cast<u16>(high.z >> 16) + load_shared_word(place + kIndexPlace)},
                        skipped);
  }

  static __device__ __forceinline__ ItemContext context_at(u32 place) {
    const int4 words = load_shared(place + kContextPlace);
    return {words.x, words.y, words.z, words.w};
  }

  // a rows of a stride, which is below 2^31: one instruction.
  static __device__ __forceinline__ i64 times(i32 a, i64 stride) {
    return static_cast<i64>(a) * static_cast<i32>(stride);
  }

  // Registers are scarce: what follows from the thread's index is computed anew wherever it is wanted.
  static __device__ __forceinline__ u32 thread_index() {
    u32 v;
    asm volatile("mov.u32 %0, %tid.x;" : "=r"(v));
    return v;
  }
  // This warp's first row of a slab.
  static __device__ __forceinline__ int first_row(int slab) {
    return (thread_index() / 32 * Shape::kSlabs + slab) * 16;
  }
  // Of a slab this thread has rows own_row and own_row + 8.
  static __device__ __forceinline__ int own_row(int slab) {
    const u32 thread = thread_index();
    return (thread / 32 * Shape::kSlabs + slab) * 16 + thread % 32 / 4;
  }
};

}  // namespace flashinfer
