// Variants of attention: what a unit does to logits besides scaling them, and which it hides. A unit's Config names one; a
// kernel leaves out what its variant does not do. Lowered from C# by the generator, or one of the library's own.
#pragma once

#include "core/params.cuh"
#include "core/ptx.cuh"

namespace flashinfer {

// Elements that a plan gave to a variant, at an address that can be read even if there are none. Outside of them there is
// nothing but zeros: on the CPU it throws, here a stray index must not end the process.
template <typename T>
struct Span {
  const T* data;
  i32 length;
  i32 reserved0;

  __device__ __forceinline__ T operator[](i32 at) const {
    // No branch: behind one the compiler would load the same element again and again.
    const bool exists = static_cast<u32>(at) < static_cast<u32>(length);
    at = exists ? at : 0;
    if constexpr (IsSame<T, bool>::value) {
      return exists & (__ldg(reinterpret_cast<const u8*>(data) + at) != 0);
    } else {
      const T value = __ldg(data + at);
      return exists ? value : T();
    }
  }
};
static_assert(sizeof(Span<float>) == 16, "a span is 16 bytes on the host");

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

// Where an element of a query or an output stands.
struct ElementContext {
  i32 head, kv_head, sequence, qo_index, qo_position, qo_len, kv_len;  // as of a logit
  i32 element;                                                         // of the head
};

// Keys from `first` on, before `end`.
struct KeyRange {
  i32 first;
  i32 end;
};

// slope * (kv_position - zero): the slope is the head's, zero moves with the query token.
struct Line {
  float slope;
  i32 zero;
};

// A transform of scores that bends them: as x (first + third x^2) where |x| <= most, nowhere to more than |x|, and to between -1 and 1.
struct Cubic {
  float most;
  float first;
  float third;
};

// Of tanh. Logits that are alike have one error, which shows in the log-sum-exp: with a cap of 50, by up to 5e-5 of 1 + lse2 for
// logits up to there, the least that a cubic can; up to 0.3 by 1.1e-4. The instruction, by up to 1e-5.
constexpr Cubic kTanhCubic = {0.25f, 0.9999133f, -0.324684f};

// Attention without a variant, and the base of all: a variant hides what it does by members of its own, the arguments among them.
// Logits are smScale * q . k with all scales of keys, in natural units (not times log2 e), before and after transform.
struct NoVariant {
  struct Arguments {};

  static constexpr bool kTransformsLogits = false;
  static constexpr bool kTransformsScores = false;
  static constexpr bool kHasCubic = false;
  static constexpr Cubic kCubic = {};
  static constexpr bool kAddsLine = false;
  static constexpr bool kScalesLine = false;  // what a line is added to is only multiplied
  static constexpr bool kMasksLogits = false;
  static constexpr bool kMasksBits = false;
  static constexpr bool kMasksBytes = false;  // which are made of bytes
  static constexpr bool kBoundsKeys = false;
  static constexpr bool kSkipsKeys = false;
  static constexpr bool kHasSink = false;
  static constexpr bool kRotates = false;
  static constexpr bool kTransformsQuery = false;
  static constexpr bool kTransformsOutput = false;
  static constexpr bool kHasLoops = false;  // any hook: warpgroup products cannot be under way around a loop

  // The logit that takes this one's place.
  template <typename A>
  static __device__ __forceinline__ float transform(float logit, const LogitsContext&, const A&) {
    return logit;
  }
  // Prefill asks for the same in parts where it can, for all of a thread's scores with a block at once.
  // With kAddsLine, a line over positions of keys is added before all else, to scores, of which line_scale makes logits.
  template <typename A>
  static __device__ __forceinline__ Line line(const LogitsContext&, const A&) {
    return {0.f, 0};
  }
  template <typename A>
  static __device__ __forceinline__ float line_scale(float scale, const A&) {
    return scale;
  }
  // With kTransformsScores, what scores become, where score * scale is the logit; and what turns that into a logit, the same for
  // all, above 0. s[4 j + 2 r + e] is row r's with the key 8 j + e behind that of at[r].
  template <int N, typename A>
  static __device__ __forceinline__ void transform_scores(float (&)[N], float, const LogitsContext (&)[2], const A&) {}
  template <typename A>
  static __device__ __forceinline__ float score_scale(float scale, const A&) {
    return scale;
  }
  // With kHasCubic, transform_scores makes of a score what Cubic says, x being score * unit.
  template <typename A>
  static __device__ __forceinline__ float unit(float, const A&) {
    return 1.f;
  }
  // Whether the query token sees the key; asked beside causality, not instead of it.
  template <typename A>
  static __device__ __forceinline__ bool keep(const LogitsContext&, const A&) {
    return true;
  }
  // For a mask that lies as bits: those of 32 N keys from kv_position on, the first one lowest. Prefill asks for them instead of
  // keep, and asks keep_rest for what else the variant hides.
  template <int N, typename A>
  static __device__ __forceinline__ void keep_bits(u32 (&bits)[N], const LogitsContext&, const A&) {
#pragma unroll
    for (int i = 0; i < N; i++) bits[i] = ~0u;
  }
  template <typename A>
  static __device__ __forceinline__ bool keep_rest(const LogitsContext&, const A&) {
    return true;
  }
  // The first key that the query token may see; kv_position is not set. Never falls from a query token to the next.
  // Planners leave whole tiles of keys before it out.
  template <typename A>
  static __device__ __forceinline__ i32 first_key(const LogitsContext&, const A&) {
    return 0;
  }
  // With kSkipsKeys, keys between others that the query token does not see, nor any later one; kv_position is not set. Prefill asks for
  // them instead of keep, and keep_rest for what else the variant hides, and leaves out whole blocks of them.
  template <typename A>
  static __device__ __forceinline__ KeyRange skipped(const LogitsContext&, const A&) {
    return {0, 0};
  }
  // A logit without a value that joins the head's softmax.
  template <typename A>
  static __device__ __forceinline__ float sink(i32, const A&) {
    return 0.f;
  }
  // With kRotates, the first kRotaryDim elements (0: all) of queries and keys turn with the position, see rotary.cuh: pairs of
  // neighbours, or of one in the first half and one in the second.
  static constexpr int kRotaryDim = 0;
  static constexpr bool kTurnsNeighbours = false;
  // How far a pair turns from a position to the next, in 2^-32 turns.
  template <typename A>
  static __device__ __forceinline__ u32 angle(i32, const A&) {
    return 0;
  }
  // What takes an element's place: of the query before its products, as they take it; of the output when all parts are merged, before it
  // is rounded, with the base-2 log-sum-exp of its row.
  template <typename A>
  static __device__ __forceinline__ float transform_query(float element, const ElementContext&, const A&) {
    return element;
  }
  template <typename A>
  static __device__ __forceinline__ float transform_output(float element, float, const ElementContext&, const A&) {
    return element;
  }
};

// Of a factor of all scores, what the softmax can multiply by: by 0 or less the largest score would not be the largest logit.
__device__ __forceinline__ float softmax_share(float factor) {
  return factor > 0x1p-64f && factor < 0x1p64f ? factor : 1.f;
}

// And the rest of it.
__device__ __forceinline__ float score_share(float factor) { return softmax_share(factor) == factor ? 1.f : factor; }
template <int N>
__device__ __forceinline__ void multiply_scores(float (&s)[N], float factor) {
  if (softmax_share(factor) != factor) {
#pragma unroll
    for (int i = 0; i < N; i++) s[i] *= factor;
  }
}

// A variant whose transform is after(a) * bend(before(at, a) * logit), its base: of these the softmax takes after for nothing, and one
// multiplication before is needed anyway. What it leaves out is 1 or does nothing.
template <typename Variant>
struct TransformInParts : NoVariant {
  static constexpr bool kTransformsLogits = true;
  static constexpr bool kTransformsScores = true;
  static constexpr bool kBends = false;  // whether there is anything but after

  // kv_position is not set.
  template <typename A>
  static __device__ __forceinline__ float before(const LogitsContext&, const A&) {
    return 1.f;
  }
  template <typename A>
  static __device__ __forceinline__ float bend(float logit, const LogitsContext&, const A&) {
    return logit;
  }
  template <typename A>
  static __device__ __forceinline__ float after(const A&) {
    return 1.f;
  }

  template <typename A>
  static __device__ __forceinline__ float transform(float logit, const LogitsContext& at, const A& a) {
    return Variant::after(a) * (Variant::kBends ? Variant::bend(Variant::before(at, a) * logit, at, a) : logit);
  }
  template <int N, typename A>
  static __device__ __forceinline__ void transform_scores(float (&s)[N], float scale, const LogitsContext (&at)[2],
                                                          const A& a) {
    if constexpr (Variant::kBends) {
      const float factors[2] = {scale * Variant::before(at[0], a), scale * Variant::before(at[1], a)};
#pragma unroll
      for (int i = 0; i < N; i++) {
        const int r = i / 2 % 2;
        LogitsContext here = at[r];
        here.kv_position += i / 4 * 8 + i % 2;
        s[i] = Variant::bend(s[i] * factors[r], here, a);
      }
    }
    multiply_scores(s, left(scale, a));
  }
  template <typename A>
  static __device__ __forceinline__ float score_scale(float scale, const A& a) {
    return softmax_share(left(scale, a));
  }

 private:
  // What turns scores into logits now.
  template <typename A>
  static __device__ __forceinline__ float left(float scale, const A& a) {
    return Variant::kBends ? Variant::after(a) : scale * Variant::after(a);
  }
};

// A variant whose transform is after(a) * tanh(before(at, a) * logit), by the instruction, its base; before does not look where. tanh is odd,
// so that the sign of after may be its argument's: then the largest score is the largest logit.
template <typename Variant>
struct TransformByCap : TransformInParts<Variant> {
  static constexpr bool kBends = true;
  template <typename A>
  static __device__ __forceinline__ float bend(float logit, const LogitsContext&, const A&) {
    return tanh_fast(logit);
  }
  template <int N, typename A>
  static __device__ __forceinline__ void transform_scores(float (&s)[N], float scale, const LogitsContext (&)[2],
                                                          const A& a) {
    const float factor = argument(scale, a);
#pragma unroll
    for (int i = 0; i < N; i++) s[i] = tanh_fast(s[i] * factor);
  }
  template <typename A>
  static __device__ __forceinline__ float score_scale(float, const A& a) {
    return fmaxf(fabsf(Variant::after(a)), 0x1p-64f);
  }

  static constexpr bool kHasCubic = true;
  static constexpr Cubic kCubic = kTanhCubic;
  // No number where it is not above 0: nothing is small then.
  template <typename A>
  static __device__ __forceinline__ float unit(float scale, const A& a) {
    const float factor = argument(scale, a);
    return factor > 0.f ? factor : __int_as_float(0x7fffffff);
  }

 private:
  template <typename A>
  static __device__ __forceinline__ float argument(float scale, const A& a) {
    return copysignf(scale, Variant::after(a)) * Variant::before(LogitsContext(), a);
  }
};

// A variant that adds a line, its base.
template <typename Variant>
struct TransformByLine : NoVariant {
  static constexpr bool kTransformsLogits = true;
  static constexpr bool kAddsLine = true;

  template <typename A>
  static __device__ __forceinline__ float transform(float logit, const LogitsContext& at, const A& a) {
    const Line line = Variant::line(at, a);
    return __fmaf_rn(line.slope, static_cast<float>(at.kv_position - line.zero), logit);
  }
};

// A variant that adds a line to after(a) * logit, its base.
template <typename Variant>
struct TransformByScaledLine : TransformByLine<Variant> {
  static constexpr bool kTransformsScores = true;
  static constexpr bool kScalesLine = true;

  template <typename A>
  static __device__ __forceinline__ float transform(float logit, const LogitsContext& at, const A& a) {
    return TransformByLine<Variant>::transform(Variant::after(a) * logit, at, a);
  }
  template <int N, typename A>
  static __device__ __forceinline__ void transform_scores(float (&s)[N], float scale, const LogitsContext (&)[2],
                                                          const A& a) {
    multiply_scores(s, line_scale(scale, a));
  }
  template <typename A>
  static __device__ __forceinline__ float score_scale(float scale, const A& a) {
    return softmax_share(line_scale(scale, a));
  }
  // Lines are divided by it.
  template <typename A>
  static __device__ __forceinline__ float line_scale(float scale, const A& a) {
    const float factor = scale * Variant::after(a);
    return fabsf(factor) > 0x1p-64f ? factor : 0x1p-64f;
  }
};

// How kernels call a variant. Decode asks only about keys that the query token sees; prefill also about others in the blocks at the
// border, even past the sequence's end, and drops what it is told.
template <typename Variant>
struct VariantHooks {
  using Arguments = typename Variant::Arguments;

  static constexpr bool kTransforms = Variant::kTransformsLogits;
  static constexpr bool kAddsLine = Variant::kAddsLine;
  static constexpr bool kScalesLine = Variant::kScalesLine;
  static constexpr bool kTransformsEach = kTransforms && !kAddsLine && !Variant::kTransformsScores;
  static constexpr bool kRescales = kTransformsEach || Variant::kTransformsScores;
  static constexpr bool kHasCubic = Variant::kHasCubic;
  static constexpr bool kBounds = Variant::kBoundsKeys;
  static constexpr bool kSkips = Variant::kSkipsKeys;
  static constexpr bool kHasSink = Variant::kHasSink;
  static constexpr bool kHasLoops = Variant::kHasLoops;
  // Whether scores are its business: then it wants an item's context, and a row may see none of its keys.
  static constexpr bool kShapes = kTransforms || Variant::kMasksLogits || kBounds;
  static constexpr bool kRotates = Variant::kRotates;
  static constexpr bool kTransformsQuery = Variant::kTransformsQuery;
  static constexpr bool kTransformsOutput = Variant::kTransformsOutput;
  static_assert(!kRotates || !kTransformsQuery, "queries turn as they come");
  static constexpr bool kWantsContext = kShapes || kRotates || kTransformsQuery || kTransformsOutput;
  static constexpr bool kVisits = kRescales || Variant::kMasksLogits;  // each block's scores, of which it may hide all
  // How much takes registers: what hides keys, and a sink beside it, a line, and what bends scores. Most do what skips keys, and a mask of bytes
  // until they are bits.
  static constexpr int kHides = kBounds + Variant::kMasksBits + kSkips;
  static constexpr int kTakes = kHides + (kHides > 0 && kHasSink) + kAddsLine + (kRescales && !kScalesLine);
  static constexpr bool kTakesMany = kSkips || Variant::kMasksBytes;
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2 = 0.693147181f;

  static __device__ __forceinline__ Arguments arguments(const VariantData* data) {
    Arguments a;
    if constexpr (sizeof(Arguments) >= 4) {
      const u32* words = reinterpret_cast<const u32*>(data + 1);
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(Arguments) / 4); i++) {
        reinterpret_cast<u32*>(&a)[i] = __ldg(words + i);
      }
    }
    return a;
  }

  // The position of a query token, by its row of the query.
  static __device__ __forceinline__ i32 position(const ItemContext& item, i32 row) {
    return item.kv_len - item.qo_len + row - item.first_row;
  }

  // A query token, by its row of the query, and a head; kv_position is set for each key.
  static __device__ __forceinline__ LogitsContext place(const ItemContext& item, i32 row, i32 head, i32 kv_head) {
    const i32 index = row - item.first_row;
    return {head, kv_head, item.sequence, index, position(item, row), 0, item.qo_len, item.kv_len};
  }

  // The same for the elements of its query and its output.
  static __device__ __forceinline__ ElementContext element_place(const ItemContext& item, i32 row, i32 head,
                                                                 i32 kv_head) {
    const i32 index = row - item.first_row;
    return {head, kv_head, item.sequence, index, position(item, row), item.qo_len, item.kv_len, 0};
  }

  // Two neighbours of a query, from `element` on, of a type of 16 bits.
  template <typename Element>
  static __device__ __forceinline__ u32 transform_query(u32 two, ElementContext at, i32 element, const Arguments& a) {
    float2 v = Element::unpack(two);
    at.element = element;
    v.x = Variant::transform_query(v.x, at, a);
    at.element = element + 1;
    v.y = Variant::transform_query(v.y, at, a);
    return Element::pack(v.x, v.y);
  }

  // Elements of an output side by side, from `element` on.
  template <int N>
  static __device__ __forceinline__ void transform_output(FloatVector<N>& v, ElementContext at, i32 element, float lse2,
                                                          const Arguments& a) {
#pragma unroll
    for (int e = 0; e < N; e++) {
      at.element = element + e;
      v.at[e] = Variant::transform_output(v.at[e], lse2, at, a);
    }
  }

  // Decode: what becomes of a logit if kTransforms, else of a score; -inf if hidden.
  static __device__ __forceinline__ float shape(float logit, const LogitsContext& at, const Arguments& a) {
    if constexpr (kTransforms) logit = Variant::transform(logit, at, a);
    if constexpr (Variant::kMasksLogits) logit = Variant::keep(at, a) ? logit : negative_infinity();
    return logit;
  }

  // Prefill: what becomes of scores, which lie as transform_scores says, but for the bits of a mask; and what turns that into
  // a logit of base 2.
  template <int N>
  static __device__ __forceinline__ void shape(float (&s)[N], float scale, const LogitsContext (&at)[2],
                                               const Arguments& a) {
    if constexpr (Variant::kTransformsScores) Variant::transform_scores(s, scale, at, a);
    if constexpr (kTransformsEach || Variant::kMasksLogits) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
          float& score = s[i / 2 * 4 + 2 * r + i % 2];
          LogitsContext here = at[r];
          here.kv_position += i / 2 * 8 + i % 2;
          if constexpr (kTransformsEach) score = Variant::transform(score * scale, here, a);
          if constexpr (Variant::kMasksLogits) score = keep<true>(here, a) ? score : negative_infinity();
        }
      }
    }
  }
  static __device__ __forceinline__ float softmax_scale(float scale, const VariantData* data) {
    if constexpr (Variant::kTransformsScores) return Variant::score_scale(scale, arguments(data)) * kLog2E;
    return kTransformsEach ? kLog2E : scale * kLog2E;
  }

  template <bool kRest>
  static __device__ __forceinline__ bool keep(const LogitsContext& at, const Arguments& a) {
    return kRest && (Variant::kMasksBits || kSkips) ? Variant::keep_rest(at, a) : Variant::keep(at, a);
  }

  // The sink of a head, in base 2.
  static __device__ __forceinline__ float sink(const VariantData* data, i32 head) {
    return Variant::sink(head, arguments(data)) * kLog2E;
  }
};

}  // namespace flashinfer
