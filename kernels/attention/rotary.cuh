// Rotary position embedding inside the kernels: pairs of elements of Q and K turn by an angle that grows with the token's
// position, before the product.
//
// How far a pair turns from a token to the next comes as a fraction of a turn, in 2^-32 turns: 32 bits of position * angle
// forget whole turns by themselves, and at a position of a million the angle is still right to 2^-10. In single precision it
// would be 2^-8 off at a position of 100,000.
#pragma once

#include "core/ptx.cuh"

namespace flashinfer {

// Cosine and sine of a phase in 2^-32 turns.
__device__ __forceinline__ float2 cosine_sine(u32 phase) {
  // 1.5 and the fraction from -0.5 to 0.5, by its bits: a conversion would take a slot of the unit that makes sine and cosine.
  const float turns = __uint_as_float(__funnelshift_r(phase + 0x80000000u, 127u, 9));
  const float angle = __fmaf_rn(turns, 6.28318531f, -9.42477796f);
  return make_float2(__cosf(angle), __sinf(angle));
}

// For Q and K as operands of the matrix product: steps of 16 elements of headDim, of which a register has two, in the first or
// the second half of the step. Of a pair the second element is the neighbour (kNeighbours), or stands kHalf steps behind, or, if that
// is not a whole number (kApart), anywhere in the row, most likely in another lane.
// 8-bit elements come four neighbours to a register, so that their order in a step is another one.
template <typename Variant, int kHeadDim, bool kQuantised>
struct Rotary {
  using Arguments = typename Variant::Arguments;

  static constexpr bool kNeighbours = Variant::kTurnsNeighbours;
  static constexpr int kGiven = Variant::kRotaryDim > 0 ? Variant::kRotaryDim : kHeadDim;
  // Pairs of neighbours behind the last do not turn: their angles are zeros.
  static constexpr int kDim = kNeighbours ? round_up(kGiven, 32) : kGiven;
  static constexpr bool kApart = kDim % 32 != 0;
  static constexpr int kSteps = (kDim + 15) / 16;  // that turn
  static constexpr int kHalf = kSteps / 2;
  static_assert(kDim % 8 == 0 && kDim <= kHeadDim, "pairs of whole registers turn");

  // Whether a step turns with one before it.
  static __device__ __forceinline__ bool is_second(int step) { return !kNeighbours && step >= kHalf && step < kSteps; }
  // The step that turns with this one, which is not such a one; itself where none does.
  static __device__ __forceinline__ int second_of(int step) {
    return !kNeighbours && step < kHalf ? step + kHalf : step;
  }

  // Steps that turn together: a step and its second, or all that turn where pairs are no whole steps apart. Of them step_of is the n-th.
  static __device__ __forceinline__ bool turns_with_earlier(int step) {
    return kApart ? step > 0 && step < kSteps : is_second(step);
  }
  static __device__ __forceinline__ int together(int step) {
    return !kApart ? (second_of(step) == step ? 1 : 2) : step == 0 ? kSteps : 1;
  }
  static __device__ __forceinline__ int step_of(int step, int n) {
    return kApart ? step + n : n == 0 ? step : second_of(step);
  }

  // Turns the register of lane `quad` of a quad in half `half` of step `step`, and that of the step that turns with it.
  template <typename Element>
  static __device__ __forceinline__ void turn(u32& first, u32& second, int step, int half, int quad, u32 position,
                                              const Arguments& arguments) {
    const int element = element_of(step, half, quad);
    const float2 x = Element::unpack(first);
    if constexpr (kNeighbours) {
      const float2 a = cosine_sine(position * Variant::angle(element / 2, arguments));
      first = Element::pack(x.x * a.x - x.y * a.y, x.y * a.x + x.x * a.y);
    } else {
      const float2 y = Element::unpack(second);
      const float2 a = cosine_sine(position * Variant::angle(element, arguments));
      const float2 b = cosine_sine(position * Variant::angle(element + 1, arguments));
      first = Element::pack(x.x * a.x - y.x * a.y, x.y * b.x - y.y * b.y);
      second = Element::pack(y.x * a.x + x.x * a.y, y.y * b.x + x.y * b.y);
    }
  }

  // With kApart: what becomes of the register, where at(step, half) is what was in one. By whole warps.
  template <typename Element, typename At>
  static __device__ __forceinline__ u32 turned(const At& at, int step, int half, int quad, u32 position,
                                               const Arguments& arguments) {
    const int element = element_of(step, half, quad);
    const u32 ahead = moved(at, step, half, quad, kShift), behind = moved(at, step, half, quad, -kShift);
    const bool is_first = element < kDim / 2;
    const float2 x = Element::unpack(at(step, half)), y = Element::unpack(is_first ? ahead : behind);
    const int pair = is_first ? element : element - kDim / 2;
    const float2 a = cosine_sine(position * Variant::angle(pair, arguments));
    const float2 b = cosine_sine(position * Variant::angle(pair + 1, arguments));
    const float sign = is_first ? -1.f : 1.f;
    const u32 made = Element::pack(x.x * a.x + sign * (y.x * a.y), x.y * b.x + sign * (y.y * b.y));
    return element < kDim ? made : at(step, half);
  }

  // The registers of steps that turn together, the first of them `step`.
  template <typename Element, int N>
  static __device__ __forceinline__ void turn_together(u32 (&x)[N], int step, int half, int quad, u32 position,
                                                       const Arguments& arguments) {
    if constexpr (kApart) {
      u32 made[N];
#pragma unroll
      for (int n = 0; n < N; n++) {
        made[n] = turned<Element>([&](int at, int) { return x[at]; }, n, half, quad, position, arguments);
      }
#pragma unroll
      for (int n = 0; n < N; n++) x[n] = made[n];
    } else {
      turn<Element>(x[0], x[N - 1], step, half, quad, position, arguments);
    }
  }

 private:
  static __device__ __forceinline__ int element_of(int step, int half, int quad) {
    return step * 16 + (kQuantised ? quad * 4 + half * 2 : half * 8 + quad * 2);
  }

  // The second element of a pair is so many lanes of a quad behind the first, counted over its registers.
  static constexpr int kShift = kDim / 2 / (kQuantised ? 4 : 2);

  // The register that lies so many lanes further on: that of another lane, which sends it to this one.
  template <typename At>
  static __device__ __forceinline__ u32 moved(const At& at, int step, int half, int quad, int shift) {
    const int group = kQuantised ? step : 2 * step + half, groups = kQuantised ? kSteps : 2 * kSteps;
    const int low = group + (shift >> 2);
    const auto sent = [&](int from) {
      if (from < 0 || from >= groups) return 0u;
      return kQuantised ? at(from, half) : at(from / 2, from % 2);
    };
    const int receiver = (quad - shift) & 3;
    const u32 mine = receiver + (shift & 3) < 4 ? sent(low) : sent(low + 1);
    return __shfl_sync(~0u, mine, (lane_now() & ~3) | ((quad + shift) & 3));
  }
};

// For rows in shared memory: a thread's part of one is two vectors of kVector elements, half of what turns apart, and as many pairs
// in them: the two elements of a pair at one place of the two vectors, or pairs of neighbours in each.
template <typename Variant, int kHeadDim, int kVector>
struct RotaryPairs {
  using Arguments = typename Variant::Arguments;

  static constexpr bool kNeighbours = Variant::kTurnsNeighbours;
  static constexpr int kGiven = Variant::kRotaryDim > 0 ? Variant::kRotaryDim : kHeadDim;
  static constexpr int kDim = kNeighbours ? round_up(kGiven, 16) : kGiven;  // as above
  static constexpr int kApart = kDim / 2;                                   // elements
  static constexpr int kParts = kApart / kVector;
  static constexpr int kPairs = kVector;
  static_assert(kApart % kVector == 0, "vectors turn as a whole");

  static __device__ __forceinline__ u32 angle(int part, int i, const Arguments& arguments) {
    const int first = part * kVector, second = first + kApart;
    const int neighbours = i < kPairs / 2 ? first / 2 + i : second / 2 + i - kPairs / 2;
    return Variant::angle(kNeighbours ? neighbours : first + i, arguments);
  }

  // Cosines and sines at a position.
  static __device__ __forceinline__ void set(float2 (&angles)[kPairs], int part, u32 position,
                                             const Arguments& arguments) {
#pragma unroll
    for (int i = 0; i < kPairs; i++) angles[i] = cosine_sine(position * angle(part, i, arguments));
  }

  template <typename Element>
  static __device__ __forceinline__ void turn(u32 (&x)[kVector / 2], u32 (&y)[kVector / 2],
                                              const float2 (&angles)[kPairs]) {
#pragma unroll
    for (int i = 0; i < kVector / 2; i++) {
      const float2 a = Element::unpack(x[i]), b = Element::unpack(y[i]);
      if constexpr (kNeighbours) {
        const float2 turned_a = times(a, angles[i]), turned_b = times(b, angles[kPairs / 2 + i]);
        x[i] = Element::pack(turned_a.x, turned_a.y);
        y[i] = Element::pack(turned_b.x, turned_b.y);
      } else {
        const float2 low = times(make_float2(a.x, b.x), angles[2 * i]);
        const float2 high = times(make_float2(a.y, b.y), angles[2 * i + 1]);
        x[i] = Element::pack(low.x, high.x);
        y[i] = Element::pack(low.y, high.y);
      }
    }
  }

 private:
  // Of complex numbers.
  static __device__ __forceinline__ float2 times(float2 a, float2 b) {
    return make_float2(__fmaf_rn(a.x, b.x, -a.y * b.y), __fmaf_rn(a.x, b.y, a.y * b.x));
  }
};

// Turns parts of rows in shared memory, wherever their chunks of 8 elements are. Q beside quantised keys has their order of headDim, in
// which only two neighbours lie side by side.
template <typename Variant, int kHeadDim, bool kQuantised>
struct RotaryRow {
  static constexpr int kVector = kQuantised ? 2 : Variant::kTurnsNeighbours || Variant::kRotaryDim % 16 == 0 ? 8 : 4;
  using Pairs = RotaryPairs<Variant, kHeadDim, kVector>;
  static constexpr int kParts = Pairs::kParts;

  // chunk_at(i): where chunk i of the row is.
  template <typename Element, typename ChunkAt>
  static __device__ __forceinline__ void turn(int part, const ChunkAt& chunk_at, u32 position,
                                              const typename Pairs::Arguments& arguments) {
    float2 angles[Pairs::kPairs];
    Pairs::set(angles, part, position, arguments);
    turn<Element>(part, chunk_at, angles);
  }
  template <typename Element, typename ChunkAt>
  static __device__ __forceinline__ void turn(int part, const ChunkAt& chunk_at,
                                              const float2 (&angles)[Pairs::kPairs]) {
    const u32 first = address(chunk_at, part * kVector), second = address(chunk_at, part * kVector + Pairs::kApart);
    u32 x[kVector / 2], y[kVector / 2];
    load_shared(x, first);
    load_shared(y, second);
    Pairs::template turn<Element>(x, y, angles);
    store_shared(first, x);
    store_shared(second, y);
  }

 private:
  template <typename ChunkAt>
  static __device__ __forceinline__ u32 address(const ChunkAt& chunk_at, int element) {
    return kQuantised ? chunk_at(element / 16 * 2 + element % 4 / 2) + element % 16 / 4 * 4
                      : chunk_at(element / 8) + element % 8 / 2 * 4;
  }
};

// Angles of a part's pairs from row to row, towards the sequence's begin, without sines and cosines: what comes next is 2 cos(step)
// times what is now, less what was before. Errors grow with the square of the steps.
template <typename Pairs>
struct RotaryWalk {
  float2 now[Pairs::kPairs], before[Pairs::kPairs];
  float twice[Pairs::kPairs];  // 2 cos(step)

  // The step, in positions.
  __device__ __forceinline__ void turn_by(int part, int positions, const typename Pairs::Arguments& arguments) {
#pragma unroll
    for (int i = 0; i < Pairs::kPairs; i++) {
      const i32 phase = positions * Pairs::angle(part, i, arguments);
      twice[i] = 2.f * cospif(static_cast<float>(phase) * 4.65661287e-10f);  // in half turns
    }
  }

  __device__ __forceinline__ void start(int part, u32 position, int step, const typename Pairs::Arguments& arguments) {
    Pairs::set(now, part, position, arguments);
    Pairs::set(before, part, position + step, arguments);
  }

  __device__ __forceinline__ void step() {
#pragma unroll
    for (int i = 0; i < Pairs::kPairs; i++) {
      const float2 next =
          make_float2(__fmaf_rn(twice[i], now[i].x, -before[i].x), __fmaf_rn(twice[i], now[i].y, -before[i].y));
      before[i] = now[i];
      now[i] = next;
    }
  }
};

}  // namespace flashinfer
