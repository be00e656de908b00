// Variants of attention: what a unit does to logits besides scaling them, and which it hides. A unit's Config names one; a
// kernel leaves out what its variant does not do. Lowered from C# by the generator, or one of the library's own.
#pragma once

#include "core/params.cuh"

namespace flashinfer {

// Where a logit stands.
struct LogitsContext {
  i32 head;         // query head
  i32 kv_head;      // the KV head that it reads
  i32 sequence;     // place of the sequence in the batch
  i32 qo_index;     // query token among the sequence's of this call
  i32 qo_position;  // its position in the sequence: kv_len - qo_len + qo_index
  i32 kv_position;  // position of the key
  i32 qo_len;       // query tokens of the sequence in this call
  i32 kv_len;       // tokens of the sequence, the query tokens' own included
};

// Attention without a variant, and the base of all: a variant hides what it does by members of its own.
// Logits are smScale * q . k with all scales of keys, in natural units (not times log2 e), before and after transform.
struct NoVariant {
  struct Arguments {};

  static constexpr bool kTransformsLogits = false;
  static constexpr bool kMasksLogits = false;
  static constexpr bool kBoundsKeys = false;
  static constexpr bool kHasSink = false;

  // The logit that takes this one's place.
  static __device__ __forceinline__ float transform(float logit, const LogitsContext&, const Arguments&) {
    return logit;
  }
  // Whether the query token sees the key; asked beside causality, not instead of it.
  static __device__ __forceinline__ bool keep(const LogitsContext&, const Arguments&) { return true; }
  // The first key that the query token may see; kv_position is not set. Never falls from a query token to the next.
  // Planners leave whole tiles of keys before it out.
  static __device__ __forceinline__ i32 first_key(const LogitsContext&, const Arguments&) { return 0; }
  // A logit without a value that joins the head's softmax.
  static __device__ __forceinline__ float sink(i32, const Arguments&) { return 0.f; }
};

}  // namespace flashinfer
