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
    return a.cap * tanh_fast(logit * reciprocal(a.cap));
  }

 private:
  // 1 - 2 / (e^2x + 1), which saturates at both ends.
  static __device__ __forceinline__ float tanh_fast(float x) {
    return 1.f - 2.f * reciprocal(exp2_fast(x * 2.88539008f) + 1.f);
  }
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
    return logit + a.slopes[at.head] * static_cast<float>(at.kv_position - at.qo_index);
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
    const i64 bit = static_cast<i64>(at.qo_index) * at.kv_len + at.kv_position;
    return a.bits[a.starts[at.sequence] + static_cast<i32>(bit >> 3)] >> (bit & 7) & 1;
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
    return a.values[a.starts[at.sequence] + at.qo_index * at.kv_len + at.kv_position];
  }
};

// Several variants as one: logits go through them in order, all must keep a key, the latest first key counts, one at most has a
// sink. In memory the arguments of each begin at a multiple of 16 bytes.
template <typename First, typename... Others>
struct Compose {
  using Rest = Compose<Others...>;

  struct Arguments {
    alignas(16) typename First::Arguments first;
    alignas(16) typename Rest::Arguments rest;
  };

  static constexpr bool kTransformsLogits = First::kTransformsLogits || Rest::kTransformsLogits;
  static constexpr bool kMasksLogits = First::kMasksLogits || Rest::kMasksLogits;
  static constexpr bool kBoundsKeys = First::kBoundsKeys || Rest::kBoundsKeys;
  static constexpr bool kHasSink = First::kHasSink || Rest::kHasSink;
  static_assert(!First::kHasSink || !Rest::kHasSink, "a softmax has one sink");

  static __device__ __forceinline__ float transform(float logit, const LogitsContext& at, const Arguments& a) {
    return Rest::transform(First::transform(logit, at, a.first), at, a.rest);
  }
  static __device__ __forceinline__ bool keep(const LogitsContext& at, const Arguments& a) {
    return First::keep(at, a.first) && Rest::keep(at, a.rest);
  }
  static __device__ __forceinline__ i32 first_key(const LogitsContext& at, const Arguments& a) {
    return max(First::first_key(at, a.first), Rest::first_key(at, a.rest));
  }
  static __device__ __forceinline__ float sink(i32 head, const Arguments& a) {
    return First::kHasSink ? First::sink(head, a.first) : Rest::sink(head, a.rest);
  }
};
template <typename Last>
struct Compose<Last> : Last {};

}  // namespace flashinfer
