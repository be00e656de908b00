// 8-bit floats, each of which a half holds exactly: how four of them become halves, and how floats become two of them.
#pragma once

#include "core/types.cuh"

namespace flashinfer {

// Rounds to nearest even, and finite values beyond the largest to the largest. For chips without the instruction.
template <int kMantissa, int kMinExponent, u32 kLargest>
__device__ __forceinline__ u32 narrow_to_8_bits(float x) {
  constexpr int kShift = 23 - kMantissa;
  const u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80;
  u32 magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7f;  // NaN
  magnitude = min(magnitude, kLargest);
  if (magnitude < (127 + kMinExponent) << 23) {  // subnormal: a multiple of the smallest
    return sign | __float2int_rn(__uint_as_float(magnitude) * __uint_as_float((127 + kMantissa - kMinExponent) << 23));
  }
  magnitude += (1 << (kShift - 1)) - 1 + (magnitude >> kShift & 1);
  return sign | ((magnitude >> kShift) - ((126 + kMinExponent) << kMantissa));
}

// 4 exponent and 3 mantissa bits, no infinity, 448 at most, NaN 0x7f.
struct Float8E4M3 {
  using MathElement = Half;
  static constexpr int kBytes = 1;

  // Elements 0 and 1, or 2 and 3, of four.
  static __device__ __forceinline__ u32 widen_low(u32 four) {
#if __CUDA_ARCH__ >= 890
    u32 two;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, l;\n}" : "=r"(two) : "r"(four));
    return two;
#else
    return widen(__byte_perm(four, 0, 0x1404));
#endif
  }
  static __device__ __forceinline__ u32 widen_high(u32 four) {
#if __CUDA_ARCH__ >= 890
    u32 two;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, h;\n}" : "=r"(two) : "r"(four));
    return two;
#else
    return widen(__byte_perm(four, 0, 0x3424));
#endif
  }

  // Two elements, the low one in the low byte.
  static __device__ __forceinline__ u16 narrow(float low, float high) {
#if __CUDA_ARCH__ >= 890
    u16 two;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
    return two;
#else
    return narrow_to_8_bits<3, -6, 0x43e00000>(low) | narrow_to_8_bits<3, -6, 0x43e00000>(high) << 8;
#endif
  }

 private:
  // From the high byte of each half: moved to a half's place the exponent is 8 too small, and NaN has become 480.
  static __device__ __forceinline__ u32 widen(u32 bytes) {
    const u32 magnitude = (bytes & 0x7f007f00) >> 1;
    const u32 nan = (magnitude + 0x00800080 & 0x40004000) >> 1;
    u32 two;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(two) : "r"(bytes & 0x80008000 | magnitude), "r"(0x5c005c00));
    return two | nan;
  }
};

// 5 exponent and 2 mantissa bits, 57344 at most: the upper half of a half.
struct Float8E5M2 {
  using MathElement = Half;
  static constexpr int kBytes = 1;

  static __device__ __forceinline__ u32 widen_low(u32 four) { return __byte_perm(four, 0, 0x1404); }
  static __device__ __forceinline__ u32 widen_high(u32 four) { return __byte_perm(four, 0, 0x3424); }

  static __device__ __forceinline__ u16 narrow(float low, float high) {
#if __CUDA_ARCH__ >= 890
    u16 two;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
    return two;
#else
    return narrow_to_8_bits<2, -14, 0x47600000>(low) | narrow_to_8_bits<2, -14, 0x47600000>(high) << 8;
#endif
  }
};

}  // namespace flashinfer
