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
  using Variant = typename Shape::Variant;

  // Elements of a vector: of a chunk of 8, or half of one where pairs are no whole chunks apart or registers are short.
  static constexpr bool kWholeChunks = !Hooks::kSkips && (Variant::kTurnsNeighbours || Variant::kRotaryDim % 16 == 0);
  static constexpr int kVector = kWholeChunks ? 8 : 4;
  using Pairs = RotaryPairs<Variant, Shape::kHeadDim, kVector>;

  static constexpr int kThreads = 128;
  static constexpr int kWords = kVector / 2;
  // In whole rounds; of the lanes that share a row some may have no part of it.
  static constexpr int kRowsAtOnce = greatest_divisor(Shape::kBlockTokens, kThreads / power_of_two(Pairs::kParts));
  static constexpr int kLanes = kThreads / kRowsAtOnce;
  static constexpr int kRounds = Shape::kBlockTokens / kRowsAtOnce;
  // A part's second vector is as far from the first in every row.
  static constexpr bool kColumnsApart = Pairs::kApart % Shape::kColumn == 0;
  // Rows 4 apart are swizzled differently: then rounds go by two. Else for latencies to overlap.
  static constexpr bool kHalfGroups = kRowsAtOnce == 4;
  static constexpr int kTogether = kRounds % 2 == 0 ? 2 : 1;
  static constexpr int kStepBytes = kTogether * kRowsAtOnce / 8 * Layout::kKeyGroupStride;
  static constexpr int kExactBlocks = 4;
  static_assert(kTogether * kRowsAtOnce % 8 == 0, "a thread's vectors lie alike in every step");

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
          u32 first = vector(row, Layout::kColumnStride, slot(), part() * kVector) + kRounds / kTogether * kStepBytes;
          const u32 apart = distance(Layout::kColumnStride, slot());
#pragma unroll 1
          for (int round = kRounds; round > 0; round -= kTogether) {
            first -= kStepBytes;
            const u32 second = first + apart;
            u32 x[kTogether][kWords], y[kTogether][kWords];
#pragma unroll
            for (int i = kTogether - 1; i >= 0; i--) {
              load_shared(x[i], in_round(first, i));
              load_shared(y[i], in_round(second, i));
            }
#pragma unroll
            for (int i = kTogether - 1; i >= 0; i--) {
              Pairs::template turn<Element>(x[i], y[i], walk.now);
              walk.step();
            }
#pragma unroll
            for (int i = kTogether - 1; i >= 0; i--) {
              store_shared(in_round(first, i), x[i]);
              store_shared(in_round(second, i), y[i]);
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
        const u32 x = vector(base + row * Shape::kRowBytes, Layout::kQueryColumnBytes, row, part() * kVector);
        const u32 y = x + distance(Layout::kQueryColumnBytes, row);
        u32 a[kWords], b[kWords];
        load_shared(a, x);
        load_shared(b, y);
        Pairs::template turn<Element>(a, b, angles);
        store_shared(x, a);
        store_shared(y, b);
      }
      finish(Layout::query_turned(base, query));
    }
  }

  // The vector from an element on, of a row of columns so many bytes apart.
  static __device__ __forceinline__ u32 vector(u32 address, u32 column_bytes, int row, int element) {
    const int chunk = element / 8;
    return address + chunk / Shape::kRowChunks * column_bytes + Shape::swizzled(chunk % Shape::kRowChunks, row) * 16 +
           element % 8 * 2;
  }

  // From this thread's first vector of a row to the second: alike in rows that are swizzled alike.
  static __device__ __forceinline__ u32 distance(u32 column_bytes, int row) {
    if constexpr (kColumnsApart) return Pairs::kApart / Shape::kColumn * column_bytes;
    const int element = part() * kVector;
    return vector(0, column_bytes, row, element + Pairs::kApart) - vector(0, column_bytes, row, element);
  }

  // A vector's place in round i of those together.
  static __device__ __forceinline__ u32 in_round(u32 first, int i) {
    if constexpr (kHalfGroups) return i == 0 ? first : (first ^ Shape::kRowBytes / 2) + 4 * Shape::kRowBytes;
    return first + i * (kStepBytes / kTogether);
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
