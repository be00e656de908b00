// The preparing warpgroup of the Hopper prefill kernel: for variants whose queries and keys turn with their positions (rotary.cuh), and for
// quantised keys and values, which products take with 16 bits.
//
// It prepares Q of a tile and every block of K, and V, in shared memory, between their arrival and the products, for all consumers,
// which wait for it instead of the copies: in place, but for what it widens. That takes less than the products with a block, so
// that it stays ahead: by as many blocks as there are stages.
// A thread has the same pairs of every block, in rows of an equal distance, so that it can walk from angle to angle (RotaryWalk): the
// unit that makes sines is busy with exponentials. It starts anew every few blocks, before errors add up to 2^-14.
#pragma once

#include "attention/prefill_layout.cuh"
#include "attention/rotary.cuh"
#include "core/float8.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillPreparer {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;
  using Hooks = typename Shape::Hooks;
  using Element = typename Shape::Element;
  using KvElement = typename Shape::KvElement;
  using MathElement = typename Shape::MathElement;
  using Variant = typename Shape::Variant;

  static constexpr int kThreads = 128;
  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kHeadDim = Shape::kHeadDim;
  static constexpr bool kRotates = Hooks::kRotates;
  static constexpr bool kWidens = Layout::kWidens;

  // Elements of a vector: of a chunk of 8, or half of one where pairs are no whole chunks apart or registers are short.
  static constexpr bool kWholeChunks =
      !Layout::kFewPairs && (Variant::kTurnsNeighbours || Variant::kRotaryDim % 16 == 0);
  static constexpr int kVector = kWholeChunks ? 8 : 4;
  static constexpr int kWords = kVector / 2;
  using Pairs = RotaryPairs<Variant, kHeadDim, kVector>;

  // In whole rounds; of the lanes that share a row some may have no part of it.
  static constexpr int kRowsAtOnce = greatest_divisor(kBlockTokens, kThreads / power_of_two(Pairs::kParts));
  static constexpr int kLanes = kThreads / kRowsAtOnce;
  static constexpr int kRounds = kBlockTokens / kRowsAtOnce;
  // Rows 4 apart are swizzled differently: then rounds go by two. Else for latencies to overlap.
  static constexpr int kTogether = kRounds % 2 == 0 ? 2 : 1;
  static constexpr int kExactBlocks = 4;
  static_assert(kTogether * kRowsAtOnce % 8 == 0, "a thread's vectors lie alike in every step");

  const PrefillParams& params;
  u32 base;
  RingPlace<Layout::kKeyStages> keys;
  RingPlace<Layout::kValueStages> values;

  __device__ __forceinline__ PrefillPreparer(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base) {}

  __device__ __forceinline__ void run() {
    wait_for_dependency();
    RotaryWalk<Pairs> walk;
    if constexpr (kRotates) walk.turn_by(part(), kRowsAtOnce, arguments());
    for (u32 number = 0;; number++) {
      mbarrier_wait(Layout::item_full(base, number % Layout::kItems), (number / Layout::kItems) & 1);
      const int blocks = Layout::blocks_of(Layout::tile(base, number));
      if (blocks == 0) break;
      if constexpr (Layout::kPreparesQuery) prepare_query(number, walk.now);
#pragma unroll 1
      for (int n = blocks - 1; n >= 0; n--) {
        if constexpr (kRotates) {
          const Tile tile = Layout::tile(base, number);
          const bool jumps = Hooks::kSkips && n == tile.skipped.first - 1;
          if (n == blocks - 1 || n % kExactBlocks == kExactBlocks - 1 || jumps) {
            const int begin = tile.item.begin + tile.start_of(n);
            walk.start(part(), begin + (kRounds - 1) * kRowsAtOnce + slot(), kRowsAtOnce, arguments());
          }
        }
        mbarrier_wait(Layout::key_full(base, keys.slot), keys.phase);
        if constexpr (kWidens) mbarrier_wait(Layout::key_free(base, keys.slot), keys.phase ^ 1);
        if constexpr (kRotates) {
          if (turns()) turn_keys(walk);
        }
        if constexpr (kWidens) widen<false, kRotates ? Pairs::kDim : 0>(keys.slot);
        finish(Layout::key_prepared(base, keys.slot));
        if constexpr (kWidens) mbarrier_arrive(Layout::key_empty(base, keys.slot));
        keys.next();
        if constexpr (kWidens) {
          mbarrier_wait(Layout::value_full(base, values.slot), values.phase);
          mbarrier_wait(Layout::value_free(base, values.slot), values.phase ^ 1);
          widen<true, 0>(values.slot);
          finish(Layout::value_prepared(base, values.slot));
          mbarrier_arrive(Layout::value_empty(base, values.slot));
          values.next();
        }
      }
      mbarrier_arrive(Layout::item_empty(base, number % Layout::kItems));
    }
  }

 private:
  // A tile's rows in shared memory, as this warpgroup walks over them: vectors of a thread, all in rows that are swizzled alike, but for
  // rows 4 apart.
  template <int kRow, int kColumnBytes, int kGroupBytes, int kElementBytes>
  struct Rows {
    static constexpr int kColumn = kRow / kElementBytes;  // elements
    static constexpr bool kColumnsApart = Pairs::kApart % kColumn == 0;
    static constexpr int kStepBytes = kTogether * kRowsAtOnce / 8 * kGroupBytes;
    static constexpr int kBytes = kRounds / kTogether * kStepBytes;

    // The vector from an element on, of a row.
    static __device__ __forceinline__ u32 vector(u32 tile, u32 row, u32 element) {
      const u32 byte = element * kElementBytes;
      return tile + row / 8 * kGroupBytes + row % 8 * kRow + byte / kRow * kColumnBytes +
             swizzled_chunk<kRow>(byte % kRow / 16, row) * 16 + byte % 16;
    }
    // From the first vector of a part, which begins at this element, to the second: alike in rows that are swizzled alike.
    static __device__ __forceinline__ u32 distance(u32 row, u32 element) {
      if constexpr (kColumnsApart) return Pairs::kApart / kColumn * kColumnBytes;
      return vector(0, row, element + Pairs::kApart) - vector(0, row, element);
    }
    // A vector's place in round i of those together.
    static __device__ __forceinline__ u32 in_round(u32 first, int i) {
      if constexpr (kRowsAtOnce == 4) return i == 0 ? first : (first ^ kRow / 2) + 4 * kRow;
      return first + i * (kStepBytes / kTogether);
    }
  };
  using Query = Rows<Shape::kRowBytes, Layout::kQueryColumnBytes, Layout::kGroupBytes, 2>;
  template <bool kValues>
  using Wide =
      Rows<Shape::kRowBytes, Layout::kColumnStride, kValues ? Layout::kValueGroupStride : Layout::kKeyGroupStride, 2>;
  using Keys = Wide<false>;
  template <bool kValues>
  using Copied = typename Layout::template Copied<kValues>;
  template <bool kValues>
  using CopiedRows = Rows<Copied<kValues>::kRowBytes, Copied<kValues>::kColumnStride, Copied<kValues>::kGroupStride,
                          Copied<kValues>::kElementBytes>;

  __device__ __forceinline__ typename Hooks::Arguments arguments() const { return Hooks::arguments(params.variant); }

  // Which part of a row this thread turns, if any, and of which of the rows at once. Computed anew wherever it is wanted: registers
  // are scarce.
  static __device__ __forceinline__ int part() { return thread_now() % kLanes; }
  static __device__ __forceinline__ int slot() { return thread_now() % kThreads / kLanes; }
  static __device__ __forceinline__ bool turns() { return kLanes == Pairs::kParts || part() < Pairs::kParts; }

  // A block of K, from its last rows to its first.
  __device__ __forceinline__ void turn_keys(RotaryWalk<Pairs>& walk) const {
    using Narrow = CopiedRows<false>;
    const u32 element = part() * kVector, row = slot();
    u32 first = Keys::vector(base + Layout::kKeyOffset + keys.slot * Shape::kBlockBytes, row, element) + Keys::kBytes;
    const u32 apart = Keys::distance(row, element);
    u32 narrow, narrow_apart;
    if constexpr (kWidens) {
      narrow = Narrow::vector(copied<false>(keys.slot), row, element) + Narrow::kBytes;
      narrow_apart = Narrow::distance(row, element);
    }
#pragma unroll 1
    for (int round = kRounds; round > 0; round -= kTogether) {
      first -= Keys::kStepBytes;
      if constexpr (kWidens) narrow -= Narrow::kStepBytes;
      u32 x[kTogether][kWords], y[kTogether][kWords];
#pragma unroll
      for (int i = kTogether - 1; i >= 0; i--) {
        if constexpr (kWidens) {
          load_wide(x[i], Narrow::in_round(narrow, i));
          load_wide(y[i], Narrow::in_round(narrow + narrow_apart, i));
        } else {
          load_shared(x[i], Keys::in_round(first, i));
          load_shared(y[i], Keys::in_round(first + apart, i));
        }
      }
#pragma unroll
      for (int i = kTogether - 1; i >= 0; i--) {
        Pairs::template turn<MathElement>(x[i], y[i], walk.now);
        walk.step();
      }
#pragma unroll
      for (int i = kTogether - 1; i >= 0; i--) {
        store_shared(Keys::in_round(first, i), x[i]);
        store_shared(Keys::in_round(first + apart, i), y[i]);
      }
    }
  }

  // Of rows that share a query token, and so an angle, a thread has neighbours.
  __device__ __forceinline__ void prepare_query(u32 number, float2 (&angles)[Pairs::kPairs]) const {
    constexpr int kRows = (Layout::kQueryPartRows + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma unroll 1
    for (int query = 0; query < Layout::kQueryParts; query++) {
      mbarrier_wait(Layout::query_full(base, query), number & 1);
      if constexpr (kRotates) {
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
          const u32 x = Query::vector(base, row, part() * kVector);
          const u32 y = x + Query::distance(row, part() * kVector);
          u32 a[kWords], b[kWords];
          load_shared(a, x);
          load_shared(b, y);
          convert(a);
          convert(b);
          Pairs::template turn<MathElement>(a, b, angles);
          store_shared(x, a);
          store_shared(y, b);
        }
      }
      convert_query<kRotates ? Pairs::kDim : 0>(query);
      finish(Layout::query_prepared(base, query));
    }
  }

  // What does not turn of a part of Q: chunks from an element on.
  template <int kFrom>
  __device__ __forceinline__ void convert_query(int query) const {
    constexpr int kChunks = (kHeadDim - kFrom) / 8;
    if constexpr (kChunks > 0 && !IsSame<Element, MathElement>::value) {
#pragma unroll 1
      for (int i = thread_now() % kThreads; i < Layout::kQueryPartRows * kChunks; i += kThreads) {
        const u32 at = Query::vector(base, query * Layout::kQueryPartRows + i / kChunks, kFrom + i % kChunks * 8);
        u32 x[4];
        load_shared(x, at);
        convert(x);
        store_shared(at, x);
      }
    }
  }

  // What does not turn of a block: elements from one on become halves.
  template <bool kValues, int kFrom>
  __device__ __forceinline__ void widen(u32 stage) const {
    constexpr int kDim = kValues ? Shape::kValueDim : kHeadDim;
    constexpr int kPiece = (kDim - kFrom) % 16 == 0 && kFrom % 16 == 0 ? 16 : 8;
    constexpr int kPieces = (kDim - kFrom) / kPiece;
    if constexpr (kPieces > 0) {
      using Narrow = CopiedRows<kValues>;
      constexpr int kAtOnce = greatest_divisor(kBlockTokens, kThreads / power_of_two(kPieces));
      constexpr int kLanesOfRow = kThreads / kAtOnce;
      static_assert(kAtOnce % 8 == 0, "a thread's pieces lie alike in every round");
      const int piece = thread_now() % kLanesOfRow, row = thread_now() % kThreads / kLanesOfRow;
      if (kLanesOfRow > kPieces && piece >= kPieces) return;
      u32 narrow = Narrow::vector(copied<kValues>(stage), row, kFrom + piece * kPiece);
      u32 wide = Wide<kValues>::vector(base + (kValues ? Layout::kValueOffset + stage * Shape::kValueBlockBytes
                                                       : Layout::kKeyOffset + stage * Shape::kBlockBytes),
                                       row, kFrom + piece * kPiece);
      constexpr int kSteps = kBlockTokens / kAtOnce;
      constexpr int kLoads = kSteps % 4 == 0   ? 4
                             : kSteps % 3 == 0 ? 3
                             : kSteps % 2 == 0 ? 2
                                               : 1;  // so that latencies overlap
#pragma unroll 1
      for (int step = 0; step < kSteps; step += kLoads) {
        u32 four[kLoads][kPiece / 4];
#pragma unroll
        for (int i = 0; i < kLoads; i++) {
          load_shared(four[i], narrow);
          narrow += kAtOnce / 8 * Copied<kValues>::kGroupStride;
        }
#pragma unroll
        for (int i = 0; i < kLoads; i++) {
#pragma unroll
          for (int chunk = 0; chunk < kPiece / 8; chunk++) {  // two are neighbours, also when they are swizzled
            const u32 low = four[i][2 * chunk], high = four[i][2 * chunk + 1];
            const u32 x[4] = {KvElement::widen_low(low), KvElement::widen_high(low), KvElement::widen_low(high),
                              KvElement::widen_high(high)};
            store_shared(wide ^ chunk * 16, x);
          }
          wide += kAtOnce / 8 * (kValues ? Layout::kValueGroupStride : Layout::kKeyGroupStride);
        }
      }
    }
  }

  template <bool kValues>
  __device__ __forceinline__ u32 copied(u32 stage) const {
    return base + Layout::template kCopiedOffset<kValues> + stage * Copied<kValues>::kBytes;
  }

  // A vector of 8-bit elements.
  static __device__ __forceinline__ void load_wide(u32 (&x)[kWords], u32 address) {
    u32 four[kWords / 2];
    load_shared(four, address);
#pragma unroll
    for (int i = 0; i < kWords / 2; i++) {
      x[2 * i] = KvElement::widen_low(four[i]);
      x[2 * i + 1] = KvElement::widen_high(four[i]);
    }
  }

  template <int N>
  static __device__ __forceinline__ void convert(u32 (&x)[N]) {
    if constexpr (!IsSame<Element, MathElement>::value) {
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float2 v = Element::unpack(x[i]);
        x[i] = MathElement::pack(v.x, v.y);
      }
    }
  }

  // What this thread has prepared is there for products.
  static __device__ __forceinline__ void finish(u32 barrier) {
    async_proxy_fence();
    mbarrier_arrive(barrier);
  }
};

#endif

}  // namespace flashinfer
