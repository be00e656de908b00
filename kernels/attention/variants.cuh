// The library's own variants of attention, and several as one.
#pragma once

#include "attention/variant.cuh"

namespace flashinfer {

// Logits stay between -cap and cap: cap * tanh(logit / cap).
struct SoftCap : NoVariant {
  struct Arguments {
    float cap;  // above 0
  };

  static constexpr bool kTransformsLogits = true;
  static __device__ __forceinline__ float transform(float logit, const LogitsContext&, const Arguments& a) {
    // tanh x is 1 - 2 / (e^2x + 1), which saturates at both ends.
    const float grown = exp2_fast(logit * (2.88539008f * reciprocal(a.cap)));
    return a.cap * __fmaf_rn(-2.f, reciprocal(grown + 1.f), 1.f);
  }

  // By an instruction that is right to 2^-11 of tanh, as FlashInfer's. Exponentials come from the same unit, but a polynomial that is
  // right everywhere takes more instructions than there is time for.
  static constexpr bool kTransformsScores = true;
  template <int N>
  static __device__ __forceinline__ void transform_scores(float (&s)[N], float scale, const LogitsContext (&)[2],
                                                          const Arguments& a) {
    const float inverse = unit(scale, a);
#pragma unroll
    for (int i = 0; i < N; i++) s[i] = tanh_fast(s[i] * inverse);
  }
  static __device__ __forceinline__ float score_scale(float, const Arguments& a) { return a.cap; }

  static constexpr bool kHasCubic = true;
  static constexpr Cubic kCubic = kTanhCubic;
  static __device__ __forceinline__ float unit(float scale, const Arguments& a) { return scale * reciprocal(a.cap); }
};

// A query token sees its own position and so many before it.
struct SlidingWindow : NoVariant {
  struct Arguments {
    i32 left;  // below 0: no window
  };

  static constexpr bool kBoundsKeys = true;
  static __device__ __forceinline__ i32 first_key(const LogitsContext& at, const Arguments& a) {
    return a.left < 0 ? 0 : max(0, at.qo_position - a.left);
  }
};

// A bias that falls with the distance. FlashInfer measures it from the query token's place in the call, not from its position: the same
// output, since a row's logits all move by as much, and this log-sum-exp.
struct Alibi : NoVariant {
  struct Arguments {
    Span<float> slopes;  // [heads]
  };

  static constexpr bool kTransformsLogits = true;
  static __device__ __forceinline__ float transform(float logit, const LogitsContext& at, const Arguments& a) {
    return __fmaf_rn(a.slopes[at.head], static_cast<float>(at.kv_position - at.qo_index), logit);
  }

  static constexpr bool kAddsLine = true;
  static __device__ __forceinline__ Line line(const LogitsContext& at, const Arguments& a) {
    return {a.slopes[at.head], at.qo_index};
  }
};

// A logit without a value for every head.
struct Sinks : NoVariant {
  struct Arguments {
    Span<float> logits;  // [heads]
  };

  static constexpr bool kHasSink = true;
  static __device__ __forceinline__ float sink(i32 head, const Arguments& a) { return a.logits[head]; }
};

// For every sequence a matrix [qo_len, kv_len] of bits, the lowest of a byte first: 1 where the query token sees the key.
struct PackedMask : NoVariant {
  struct Arguments {
    Span<i32> starts;  // [sequences]: first byte of each
    Span<u8> bits;
  };

  static constexpr bool kMasksLogits = true;
  static __device__ __forceinline__ bool keep(const LogitsContext& at, const Arguments& a) {
    const i64 bit = place(at, a);
    return a.bits[static_cast<i32>(bit >> 3)] >> (bit & 7) & 1;
  }

  // By aligned words of 32 bits, which may stand a little over the end of the span: the host keeps spans 16 bytes apart.
  static constexpr bool kMasksBits = true;
  template <int N>
  static __device__ __forceinline__ void keep_bits(u32 (&bits)[N], const LogitsContext& at, const Arguments& a) {
    const i64 bit = place(at, a);
    const Span<u32> words = {reinterpret_cast<const u32*>(a.bits.data), (a.bits.length + 3) / 4, 0};
    const i32 first = static_cast<i32>(bit >> 5);
    u32 low = words[first];
#pragma unroll
    for (int i = 0; i < N; i++) {
      const u32 high = words[first + i + 1];
      bits[i] = __funnelshift_r(low, high, static_cast<u32>(bit));
      low = high;
    }
  }

 private:
  static __device__ __forceinline__ i64 place(const LogitsContext& at, const Arguments& a) {
    return static_cast<i64>(a.starts[at.sequence]) * 8 + static_cast<i64>(at.qo_index) * at.kv_len + at.kv_position;
  }
};

// As PackedMask, a byte for each key.
struct BoolMask : NoVariant {
  struct Arguments {
    Span<i32> starts;  // [sequences]: first element of each
    Span<bool> values;
  };

  static constexpr bool kMasksLogits = true;
  static __device__ __forceinline__ bool keep(const LogitsContext& at, const Arguments& a) {
    return a.values[place(at, a)];
  }

  // By aligned words of 4 bytes, as PackedMask.
  static constexpr bool kMasksBits = true;
  static constexpr bool kMasksBytes = true;
  template <int N>
  static __device__ __forceinline__ void keep_bits(u32 (&bits)[N], const LogitsContext& at, const Arguments& a) {
    const Span<u32> words = {reinterpret_cast<const u32*>(a.values.data), (a.values.length + 3) / 4, 0};
    const i32 byte = place(at, a), first = byte >> 2;
    u32 low = words[first];
#pragma unroll
    for (int i = 0; i < 8 * N; i++) {
      const u32 high = words[first + i + 1];
      const u32 bytes = __funnelshift_r(low, high, static_cast<u32>(byte) * 8);
      const u32 tops = (((bytes & 0x7f7f7f7f) + 0x7f7f7f7f) | bytes) & 0x80808080;  // of bytes that are not 0
      const u32 four = (tops >> 7) * 0x10204080 >> 28;                              // side by side
      bits[i / 8] = i % 8 == 0 ? four : bits[i / 8] | four << i % 8 * 4;
      low = high;
    }
  }

 private:
  static __device__ __forceinline__ i32 place(const LogitsContext& at, const Arguments& a) {
    return a.starts[at.sequence] + at.qo_index * at.kv_len + at.kv_position;
  }
};

// Items one behind the other after a prefix: a token sees the prefix and what is before it in its own item. A delimiter, before
// each item, sees the prefix only; nothing sees it.
struct MultiItem : NoVariant {
  struct Arguments {
    Span<i32> prefixes;  // [sequences]: tokens of the prefix
    Span<i32> starts;    // [sequences]: where its places begin
    Span<i32> places;    // of the tokens behind the prefix: place in the item, from 1; 0 for a delimiter
  };

  static constexpr bool kMasksLogits = true;
  static __device__ __forceinline__ bool keep(const LogitsContext& at, const Arguments& a) {
    const KeyRange keys = skipped(at, a);
    return at.kv_position < keys.first || at.kv_position >= keys.end;
  }

  // Between the prefix and the item. A place is at most one more than that before it: delimiters never go back.
  static constexpr bool kSkipsKeys = true;
  static __device__ __forceinline__ KeyRange skipped(const LogitsContext& at, const Arguments& a) {
    const i32 prefix = a.prefixes[at.sequence], behind = at.qo_position - prefix;
    const i32 place = a.places[a.starts[at.sequence] + max(behind, 0)];
    return {prefix, behind < 0 ? 0 : at.qo_position + 1 - place};
  }
};

// Pairs of elements of queries and keys turn with the position; see rotary.cuh.
template <int kDim, bool kNeighbours>
struct Rope : NoVariant {
  struct Arguments {
    Span<u32> angles;  // of each pair
  };

  static constexpr bool kRotates = true;
  static constexpr int kRotaryDim = kDim;
  static constexpr bool kTurnsNeighbours = kNeighbours;
  static __device__ __forceinline__ u32 angle(i32 pair, const Arguments& a) { return a.angles[pair]; }
};

// Several variants as one: logits go through them in order, all must keep a key, the latest first key counts, one at most has a
// sink, one at most turns queries and keys, one at most skips keys. In memory the arguments of each begin at a multiple of 16 bytes.
template <typename First, typename... Others>
struct Compose : NoVariant {
  using Rest = Compose<Others...>;

  struct Arguments {
    alignas(16) typename First::Arguments first;
    alignas(16) typename Rest::Arguments rest;
  };

  static constexpr bool kTransformsLogits = First::kTransformsLogits || Rest::kTransformsLogits;
  // In parts if each is: a line, if any, and then what the others make of scores.
  static constexpr bool kInParts =
      (!First::kTransformsLogits || First::kAddsLine || First::kTransformsScores) &&
      (!Rest::kTransformsLogits || (Rest::kAddsLine && !First::kTransformsLogits) || Rest::kTransformsScores);
  static constexpr bool kAddsLine = kInParts && (First::kAddsLine || Rest::kAddsLine);
  static constexpr bool kTransformsScores = kInParts && (First::kTransformsScores || Rest::kTransformsScores);
  static constexpr bool kHasCubic =
      (First::kHasCubic && !Rest::kTransformsLogits) || (Rest::kHasCubic && !First::kTransformsLogits);
  static constexpr bool kMasksLogits = First::kMasksLogits || Rest::kMasksLogits;
  static constexpr bool kMasksBits = First::kMasksBits || Rest::kMasksBits;
  static constexpr bool kMasksBytes = First::kMasksBytes || Rest::kMasksBytes;
  static constexpr bool kBoundsKeys = First::kBoundsKeys || Rest::kBoundsKeys;
  static constexpr bool kSkipsKeys = First::kSkipsKeys || Rest::kSkipsKeys;
  static_assert(!First::kSkipsKeys || !Rest::kSkipsKeys, "keys are skipped between two ranges");
  static constexpr bool kHasSink = First::kHasSink || Rest::kHasSink;
  static constexpr bool kHasLoops = First::kHasLoops || Rest::kHasLoops;
  static_assert(!First::kHasSink || !Rest::kHasSink, "a softmax has one sink");
  static constexpr bool kRotates = First::kRotates || Rest::kRotates;
  static_assert(!First::kRotates || !Rest::kRotates, "queries and keys turn once");
  static constexpr int kRotaryDim = First::kRotates ? First::kRotaryDim : Rest::kRotaryDim;
  static constexpr bool kTurnsNeighbours = First::kTurnsNeighbours || Rest::kTurnsNeighbours;

  static __device__ __forceinline__ float transform(float logit, const LogitsContext& at, const Arguments& a) {
    return Rest::transform(First::transform(logit, at, a.first), at, a.rest);
  }
  template <int N>
  static __device__ __forceinline__ void transform_scores(float (&s)[N], float scale, const LogitsContext (&at)[2],
                                                          const Arguments& a) {
    First::transform_scores(s, scale, at, a.first);
    Rest::transform_scores(s, First::score_scale(scale, a.first), at, a.rest);
  }
  static __device__ __forceinline__ float score_scale(float scale, const Arguments& a) {
    return Rest::score_scale(First::score_scale(scale, a.first), a.rest);
  }
  static constexpr Cubic kCubic = First::kHasCubic ? First::kCubic : Rest::kCubic;
  static __device__ __forceinline__ float unit(float scale, const Arguments& a) {
    return First::kHasCubic ? First::unit(scale, a.first) : Rest::unit(scale, a.rest);
  }
  static __device__ __forceinline__ Line line(const LogitsContext& at, const Arguments& a) {
    return First::kAddsLine ? First::line(at, a.first) : Rest::line(at, a.rest);
  }
  static __device__ __forceinline__ bool keep(const LogitsContext& at, const Arguments& a) {
    return First::keep(at, a.first) && Rest::keep(at, a.rest);
  }
  template <int N>
  static __device__ __forceinline__ void keep_bits(u32 (&bits)[N], const LogitsContext& at, const Arguments& a) {
    u32 others[N];
    First::keep_bits(bits, at, a.first);
    Rest::keep_bits(others, at, a.rest);
#pragma unroll
    for (int i = 0; i < N; i++) bits[i] &= others[i];
  }
  static __device__ __forceinline__ bool keep_rest(const LogitsContext& at, const Arguments& a) {
    return VariantHooks<First>::template keep<true>(at, a.first) && VariantHooks<Rest>::template keep<true>(at, a.rest);
  }
  static __device__ __forceinline__ i32 first_key(const LogitsContext& at, const Arguments& a) {
    return max(First::first_key(at, a.first), Rest::first_key(at, a.rest));
  }
  static __device__ __forceinline__ KeyRange skipped(const LogitsContext& at, const Arguments& a) {
    return First::kSkipsKeys ? First::skipped(at, a.first) : Rest::skipped(at, a.rest);
  }
  static __device__ __forceinline__ float sink(i32 head, const Arguments& a) {
    return First::kHasSink ? First::sink(head, a.first) : Rest::sink(head, a.rest);
  }
  static __device__ __forceinline__ u32 angle(i32 pair, const Arguments& a) {
    return First::kRotates ? First::angle(pair, a.first) : Rest::angle(pair, a.rest);
  }
};
template <typename Last>
struct Compose<Last> : Last {};

}  // namespace flashinfer
