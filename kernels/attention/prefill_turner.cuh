// The turning warpgroup of the Hopper prefill kernel, for variants whose queries and keys turn with their positions (rotary.cuh).
//
// It turns Q of a tile and every block of K in shared memory, in place, between their arrival and the products, for all consumers,
// which wait for it instead of the copies. Turning a block takes less than the products with it, so that it stays ahead: by as many
// blocks as there are stages.
// A thread has the same pairs of every block, in rows of an equal distance, so that it can walk from angle to angle (RotaryWalk): the
// unit that makes sines is busy with exponentials. It starts anew every few blocks, before errors add up to 2^-14.
#pragma once

#include "attention/prefill_layout.cuh"
#include "attention/rotary.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillTurner {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;
  using Hooks = typename Shape::Hooks;
  using Element = typename Shape::Element;
  using Pairs = RotaryPairs<typename Shape::Variant, Shape::kHeadDim, 8>;

  static constexpr int kThreads = 128;
  // In whole rounds; of the lanes that share a row some may have no part of it.
  static constexpr int kRowsAtOnce = greatest_divisor(Shape::kBlockTokens, kThreads / power_of_two(Pairs::kParts));
  static constexpr int kLanes = kThreads / kRowsAtOnce;
  static constexpr int kRounds = Shape::kBlockTokens / kRowsAtOnce;
  static constexpr int kRoundBytes = kRowsAtOnce / 8 * Layout::kKeyGroupStride;
  // A part's second chunk is as far from the first in every row, or by an exclusive or.
  static constexpr bool kColumnsApart = Pairs::kParts % Shape::kRowChunks == 0;
  static constexpr bool kBitApart = Pairs::kParts < Shape::kRowChunks && power_of_two(Pairs::kParts) == Pairs::kParts;
  // Rounds, so that latencies overlap, if there are registers.
  static constexpr int kTogether = kRounds % 2 == 0 && (kColumnsApart || kBitApart) ? 2 : 1;
  static constexpr int kExactBlocks = 4;
  static_assert(kRowsAtOnce % 8 == 0, "a thread's chunks lie alike in every round");

  const PrefillParams& params;
  u32 base;
  RingPlace<Layout::kKeyStages> keys;

  __device__ __forceinline__ PrefillTurner(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  __device__ __forceinline__ void run() {
    wait_for_dependency();
    RotaryWalk<Pairs> walk;
    walk.turn_by(part(), kRowsAtOnce, arguments());
    for (u32 number = 0;; number++) {
      mbarrier_wait(Layout::item_full(base, number % Layout::kItems), (number / Layout::kItems) & 1);
      const int blocks = Layout::blocks_of(Layout::tile(base, number));
      if (blocks == 0) break;
      turn_query(number, walk.now);
#pragma unroll 1
      for (int n = blocks - 1; n >= 0; n--) {
        const Tile tile = Layout::tile(base, number);
        const bool jumps = Hooks::kSkips && n == tile.skipped.first - 1;
        if (n == blocks - 1 || n % kExactBlocks == kExactBlocks - 1 || jumps) {
          const int begin = tile.item.begin + tile.start_of(n);
          walk.start(part(), begin + (kRounds - 1) * kRowsAtOnce + slot(), kRowsAtOnce, arguments());
        }
        mbarrier_wait(Layout::key_full(base, keys.slot), keys.phase);
        if (turns()) {
          const u32 row = base + Layout::kKeyOffset + keys.slot * Shape::kBlockBytes +
                          slot() / 8 * Layout::kKeyGroupStride + slot() % 8 * Shape::kRowBytes;
          u32 first = chunk(row, Layout::kColumnStride, slot(), part()) + kRounds * kRoundBytes;
#pragma unroll 1
          for (int round = kRounds; round > 0; round -= kTogether) {
            first -= kTogether * kRoundBytes;
            const u32 second = second_of<Layout::kColumnStride>(first, slot());
            u32 x[kTogether][4], y[kTogether][4];
#pragma unroll
            for (int i = kTogether - 1; i >= 0; i--) {
              load_shared(x[i], first + i * kRoundBytes);
              load_shared(y[i], second + i * kRoundBytes);
            }
#pragma unroll
            for (int i = kTogether - 1; i >= 0; i--) {
              Pairs::template turn<Element>(x[i], y[i], walk.now);
              walk.step();
            }
#pragma unroll
            for (int i = kTogether - 1; i >= 0; i--) {
              store_shared(first + i * kRoundBytes, x[i]);
              store_shared(second + i * kRoundBytes, y[i]);
            }
          }
        }
        finish(Layout::key_turned(base, keys.slot));
        keys.next();
      }
      mbarrier_arrive(Layout::item_empty(base, number % Layout::kItems));
    }
  }

 private:
  __device__ __forceinline__ typename Hooks::Arguments arguments() const { return Hooks::arguments(params.variant); }

  // Which part of a row this thread turns, if any, and of which of the rows at once. Computed anew wherever it is wanted: registers
  // are scarce.
  static __device__ __forceinline__ int part() { return thread_now() % kLanes; }
  static __device__ __forceinline__ int slot() { return thread_now() % kThreads / kLanes; }
  static __device__ __forceinline__ bool turns() { return kLanes == Pairs::kParts || part() < Pairs::kParts; }

  // Of rows that share a query token, and so an angle, a thread has neighbours.
  __device__ __forceinline__ void turn_query(u32 number, float2 (&angles)[Pairs::kPairs]) const {
    constexpr int kRows = (Layout::kQueryPartRows + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma unroll 1
    for (int query = 0; query < Layout::kQueryParts; query++) {
      mbarrier_wait(Layout::query_full(base, query), number & 1);
      // A part may have fewer rows than are turned at once.
      const int first = query * Layout::kQueryPartRows + slot() * kRows;
      int last = -1;
#pragma unroll 1
      for (int row = first; turns() && row < first + kRows; row++) {
        const Tile tile = Layout::tile(base, number);
        if (row >= min(tile.rows(), (query + 1) * Layout::kQueryPartRows)) break;
        const int token = Tile::token_of(row);
        if (token != last) {
          Pairs::set(angles, part(), Hooks::position(Layout::context(base, number), tile.item.row + token),
                     arguments());
        }
        last = token;
        const u32 x = chunk(base + row * Shape::kRowBytes, Layout::kQueryColumnBytes, row, part());
        const u32 y = second_of<Layout::kQueryColumnBytes>(x, row);
        u32 a[4], b[4];
        load_shared(a, x);
        load_shared(b, y);
        Pairs::template turn<Element>(a, b, angles);
        store_shared(x, a);
        store_shared(y, b);
      }
      finish(Layout::query_turned(base, query));
    }
  }

  // Chunk `at` of a row of columns so many bytes apart.
  static __device__ __forceinline__ u32 chunk(u32 address, u32 column_bytes, int row, int at) {
    return address + at / Shape::kRowChunks * column_bytes + Shape::swizzled(at % Shape::kRowChunks, row) * 16;
  }

  // The other chunk of this thread's part of a row.
  template <int kColumnBytes>
  static __device__ __forceinline__ u32 second_of(u32 first, int row) {
    constexpr int kParts = Pairs::kParts;
    if constexpr (kColumnsApart) {
      return first + kParts / Shape::kRowChunks * kColumnBytes;
    } else if constexpr (kBitApart) {
      return first ^ kParts * 16;
    } else {
      return first + chunk(0, kColumnBytes, row, part() + kParts) - chunk(0, kColumnBytes, row, part());
    }
  }

  // What this warp has turned is there for products.
  static __device__ __forceinline__ void finish(u32 barrier) {
    async_proxy_fence();
    __syncwarp();
    if ((threadIdx.x & 31) == 0) mbarrier_arrive(barrier);
  }
};

#endif

}  // namespace flashinfer
