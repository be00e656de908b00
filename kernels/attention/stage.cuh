// Stages keys and values for prefill: gathers a cache's tokens from their pages, widens them to the query's type, turns the keys with their
// positions (rotary.cuh) and writes all of it as ragged rows, once, where every tile of queries that walks them would do it anew.
//
// Grid: as many blocks as run at once, or fewer. An item is cut into slices of a few tokens; a block takes slices blockIdx.x, blockIdx.x +
//   gridDim.x, ...
// Block: kThreads threads, each moving two vectors of K and two of V at a time: of K those that turn together. No shared memory, no barrier.
// Memory bound: what is read is read once and leaves the L2 first; what is written stays until prefill reads it, and is whole lines by then.
#pragma once

#include "attention/rotary.cuh"
#include "attention/variant.cuh"
#include "core/fault.cuh"
#include "core/float8.cuh"
#include "core/hopper.cuh"
#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

template <typename Config>
struct Stage {
  using Element = typename Config::Element;
  using KvElement = typename Config::KvElement;
  using Variant = typename Config::Variant;
  using Hooks = VariantHooks<Variant>;

  static constexpr int kKvHeads = Config::kKvHeads;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kPageSize = Config::kPageSize;
  // Of ragged keys and values, only keys that turn are staged: prefill takes the values where they are.
  static constexpr bool kPaged = kPageSize > 0;
  static_assert(!kPaged || Config::kValueDim == kHeadDim, "a cache has keys and values of one headDim");

  // Vectors of 8 elements, or of 4 where pairs are no whole ones apart. Vectors are paired alike where nothing turns.
  static constexpr int kVector = Variant::kTurnsNeighbours || Variant::kRotaryDim % 16 == 0 ? 8 : 4;
  static constexpr int kWords = kVector * KvElement::kBytes / 4;  // of a vector in the cache
  using Pairs = RotaryPairs<Variant, kHeadDim, kVector>;
  static constexpr int kPieces = kHeadDim / (2 * kVector);  // pairs of vectors of a head

  static constexpr int kThreads = 128;
  // Copies of a thread whose loads overlap: of wide vectors with angles there are registers for one.
  static constexpr int kAtOnce = Hooks::kRotates && KvElement::kBytes == 2 ? 1 : 2;
  static constexpr int kBlocksPerSm = 8;
  static constexpr int kMostTokens = 64;  // of an item
  // About as many tokens as a block copies at once.
  static constexpr int kSlice = power_of_two((kThreads * kAtOnce + kKvHeads * kPieces - 1) / (kKvHeads * kPieces));
  static constexpr int kSliceTokens = kSlice < kMostTokens ? kSlice : kMostTokens;
  static constexpr int kSlices = kMostTokens / kSliceTokens;

  static constexpr __host__ __device__ KernelInfo info() {
    return {kAbiVersion, sizeof(StageParams), kThreads, 0, kBlocksPerSm, kSlices, 0, 0, 1, 1};
  }

  static __device__ __forceinline__ void run(const StageParams& params) {
    launch_dependents();
    const StageItem* items = items_of<StageItem>(params.plan);
    const int slices = load_ahead(&params.plan->count) * kSlices;
    const typename Hooks::Arguments arguments = Hooks::arguments(params.variant);
    // Also without an item: the next kernel counts on the one before this to be done. It may have written the cache, or read the rows.
    wait_for_dependency();
    for (int i = blockIdx.x; i < slices; i += gridDim.x) {
      const int4 words = load_ahead(reinterpret_cast<const int4*>(items + i / kSlices));
      const int skipped = i % kSlices * kSliceTokens;
      const StageItem slice = {words.x + skipped, min(words.y - skipped, kSliceTokens), words.z + skipped, words.w};
      const int copies = slice.count * (kKvHeads * kPieces);
      for (int first = threadIdx.x; first < copies; first += kAtOnce * kThreads) {
        copy(params, arguments, slice, first, copies);
      }
    }
  }

 private:
  // Copies first, first + kThreads, ...: all loads before the first store, which the compiler may not move them over.
  static __device__ __forceinline__ void copy(const StageParams& params, const typename Hooks::Arguments& arguments,
                                              const StageItem& slice, int first, int copies) {
    i64 tokens[kAtOnce];
    find(tokens, params, slice, first, copies);
    u32 key[kAtOnce][2][kWords], value[kAtOnce][2][kWords];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int at = first + i * kThreads;
      if (at < copies) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const i64 element = tokens[i] + head_of(at) * params.head_stride + element_of(at, k);
          load_once(key[i][k], params.key + element * KvElement::kBytes);
          if (kPaged) load_once(value[i][k], params.value + element * KvElement::kBytes);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int at = first + i * kThreads;
      if (at < copies) {
        const i64 head = (static_cast<i64>(slice.row + token_of(at)) * kKvHeads + head_of(at)) * kHeadDim;
        u32 x[2][kVector / 2];
#pragma unroll
        for (int k = 0; k < 2; k++) widen(x[k], key[i][k]);
        if constexpr (Hooks::kRotates) {
          if (at % kPieces < Pairs::kParts) turn(x, at, slice.position + token_of(at), arguments);
        }
#pragma unroll
        for (int k = 0; k < 2; k++) store_kept(params.staged_key + head + element_of(at, k), x[k]);
#pragma unroll
        for (int k = 0; kPaged && k < 2; k++) {
          widen(x[k], value[i][k]);
          store_kept(params.staged_value + head + element_of(at, k), x[k]);
        }
      }
    }
  }

  // The elements at which the copies' tokens begin.
  static __device__ __forceinline__ void find(i64 (&tokens)[kAtOnce], const StageParams& params, const StageItem& slice,
                                              int first, int copies) {
    if constexpr (kPaged) {
      i32 page[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const int at = first + i * kThreads, position = slice.position + token_of(at);
        if (at < copies) page[i] = load_ahead(params.pages + slice.page_offset + position / kPageSize);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const int at = first + i * kThreads, position = slice.position + token_of(at);
        if (at < copies) {
          const i64 from = checked_page<Config::kChecked>(params, page[i], slice.row + token_of(at), position);
          tokens[i] = from * params.page_stride + position % kPageSize * params.token_stride;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const i64 row = slice.page_offset + slice.position + token_of(first + i * kThreads);
        tokens[i] = row * params.token_stride;
      }
    }
  }

  static __device__ __forceinline__ int head_of(int at) { return at / kPieces % kKvHeads; }
  static __device__ __forceinline__ int token_of(int at) { return at / (kPieces * kKvHeads); }

  // Where a copy's first or second vector begins: those that turn together are apart, behind them all follow one another.
  static __device__ __forceinline__ int element_of(int at, int second) {
    const int piece = at % kPieces;
    return piece < Pairs::kParts ? piece * kVector + second * Pairs::kApart : (2 * piece + second) * kVector;
  }

  static __device__ __forceinline__ void turn(u32 (&x)[2][kVector / 2], int at, u32 position,
                                              const typename Hooks::Arguments& arguments) {
    float2 angles[Pairs::kPairs];
    Pairs::set(angles, at % kPieces, position, arguments);
    Pairs::template turn<Element>(x[0], x[1], angles);
  }

  // Quantised elements are exact in both types of 16 bits.
  static __device__ __forceinline__ void widen(u32 (&x)[kVector / 2], const u32 (&stored)[kWords]) {
#pragma unroll
    for (int w = 0; w < kWords; w++) {
      if constexpr (KvElement::kBytes == 2) {
        x[w] = stored[w];
      } else {
        x[2 * w] = element_pair(KvElement::widen_low(stored[w]));
        x[2 * w + 1] = element_pair(KvElement::widen_high(stored[w]));
      }
    }
  }
  static __device__ __forceinline__ u32 element_pair(u32 halves) {
    if constexpr (IsSame<Element, Half>::value) return halves;
    const float2 two = Half::unpack(halves);
    return Element::pack(two.x, two.y);
  }

  template <int N>
  static __device__ __forceinline__ void load_once(u32 (&x)[N], const u8* from) {
    if constexpr (N == 4) {
      asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                   : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                   : "l"(from), "l"(kEvictFirst)
                   : "memory");
    } else if constexpr (N == 2) {
      asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v2.u32 {%0,%1}, [%2], %3;"
                   : "=r"(x[0]), "=r"(x[1])
                   : "l"(from), "l"(kEvictFirst)
                   : "memory");
    } else {
      asm volatile("ld.global.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;"
                   : "=r"(x[0])
                   : "l"(from), "l"(kEvictFirst)
                   : "memory");
    }
  }

  template <int N>
  static __device__ __forceinline__ void store_kept(u16* to, const u32 (&x)[N]) {
    if constexpr (N == 4) {
      asm volatile("st.global.L2::cache_hint.v4.u32 [%0], {%1,%2,%3,%4}, %5;" ::"l"(to), "r"(x[0]), "r"(x[1]),
                   "r"(x[2]), "r"(x[3]), "l"(kEvictLast)
                   : "memory");
    } else {
      asm volatile("st.global.L2::cache_hint.v2.u32 [%0], {%1,%2}, %3;" ::"l"(to), "r"(x[0]), "r"(x[1]), "l"(kEvictLast)
                   : "memory");
    }
  }
};

}  // namespace flashinfer
