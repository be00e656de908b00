// What C# says about numbers where C++ or the GPU says something else. The text that a variant of attention is lowered to
// calls these. Where C# throws, there is a value instead: kernels cannot throw. Compiles for the host as well, so that the
// tests compare it with C# without a GPU.
#pragma once

#ifdef __CUDACC__
#include "core/ptx.cuh"
#else
#include <cmath>
#include <cstring>
#define __device__
#define __forceinline__ inline
#endif

namespace flashinfer {
namespace csharp {

__device__ __forceinline__ unsigned bits(float value) {
#ifdef __CUDACC__
  return __float_as_uint(value);
#else
  unsigned result;
  memcpy(&result, &value, sizeof(result));
  return result;
#endif
}

__device__ __forceinline__ float from_bits(unsigned bits) {
#ifdef __CUDACC__
  return __uint_as_float(bits);
#else
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
#endif
}

__device__ __forceinline__ float infinity() { return from_bits(0x7f800000u); }
__device__ __forceinline__ float nan() { return from_bits(0x7fc00000u); }

// By bits: a compiler may take comparisons of NaN away.
__device__ __forceinline__ bool is_nan(float value) { return (bits(value) & 0x7fffffffu) > 0x7f800000u; }
__device__ __forceinline__ bool is_infinity(float value) { return (bits(value) & 0x7fffffffu) == 0x7f800000u; }
__device__ __forceinline__ bool is_finite(float value) { return (bits(value) & 0x7fffffffu) < 0x7f800000u; }
__device__ __forceinline__ bool is_positive_infinity(float value) { return bits(value) == 0x7f800000u; }
__device__ __forceinline__ bool is_negative_infinity(float value) { return bits(value) == 0xff800000u; }

// An int wraps around; C++ leaves its overflow undefined.
__device__ __forceinline__ int add(int a, int b) { return int(unsigned(a) + unsigned(b)); }
__device__ __forceinline__ int subtract(int a, int b) { return int(unsigned(a) - unsigned(b)); }
__device__ __forceinline__ int multiply(int a, int b) { return int(unsigned(a) * unsigned(b)); }
__device__ __forceinline__ int negate(int a) { return int(0u - unsigned(a)); }

// A loop's step, and whether the variable has not wrapped around. In C# such a loop goes on for ever.
template <typename T>
__device__ __forceinline__ bool step(T& variable, long long by) {
  const T before = variable;
  variable = T(unsigned(before) + unsigned(by));
  return by > 0 ? variable > before : variable < before;
}

// C# throws for int.MinValue, which has no absolute value.
__device__ __forceinline__ int abs(int a) { return a < 0 ? negate(a) : a; }

// C# throws for b = 0, here the quotient is 0 and the remainder a; and for int.MinValue / -1, which wraps around here.
__device__ __forceinline__ int divide(int a, int b) { return b == 0 ? 0 : b == -1 ? negate(a) : a / b; }
__device__ __forceinline__ int remainder(int a, int b) { return b == 0 ? a : b == -1 ? 0 : a % b; }
__device__ __forceinline__ unsigned divide(unsigned a, unsigned b) { return b == 0 ? 0 : a / b; }
__device__ __forceinline__ unsigned remainder(unsigned a, unsigned b) { return b == 0 ? a : a % b; }

// The last five bits of a count; C++ leaves larger ones undefined, and the GPU shifts everything out.
__device__ __forceinline__ int shift_left(int a, int count) { return int(unsigned(a) << (count & 31)); }
__device__ __forceinline__ int shift_right_unsigned(int a, int count) { return int(unsigned(a) >> (count & 31)); }

#ifdef __CUDACC__
// CUDA's own division and square root call a function for rare operands, and a call between asynchronous tensor products makes
// the compiler wait for each of these. Here a quotient or root that no operand makes subnormal is correctly rounded: one step of
// Newton's method with a fused multiply-add, whose own result is not a number where operands are 0 or infinite, and is not used then.
// What depends on the divisor alone leaves a loop over keys.
__device__ __forceinline__ float divide(float a, float b) {
  float inverse;
  asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  const float better = fmaf(fmaf(-b, inverse, 1.f), inverse, inverse);
  inverse = is_nan(better) ? inverse : better;
  const float quotient = a * inverse;
  const float rounded = fmaf(fmaf(-b, quotient, a), inverse, quotient);
  return is_nan(rounded) ? quotient : copysignf(rounded, quotient);
}
__device__ __forceinline__ float sqrt(float value) {
  float inverse;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(inverse) : "f"(value));
  const float root = value * inverse;
  const float rounded = fmaf(fmaf(-root, root, value), 0.5f * inverse, root);
  return value == 0.f || is_positive_infinity(value) ? value : rounded;
}
#else
__device__ __forceinline__ float divide(float a, float b) { return a / b; }
__device__ __forceinline__ float sqrt(float value) { return sqrtf(value); }
#endif

// What an int has no place for becomes the nearest int, and NaN becomes 0; C++ leaves both undefined.
__device__ __forceinline__ int to_int(float value) {
#ifdef __CUDACC__
  return __float2int_rz(value);
#else
  return is_nan(value) ? 0 : value >= 2147483648.f ? 2147483647 : value <= -2147483648.f ? -2147483647 - 1 : int(value);
#endif
}
__device__ __forceinline__ unsigned to_uint(float value) {
#ifdef __CUDACC__
  return __float2uint_rz(value);
#else
  return is_nan(value) || value <= 0.f ? 0u : value >= 4294967296.f ? 0xffffffffu : unsigned(value);
#endif
}
__device__ __forceinline__ unsigned char to_byte(unsigned value) { return static_cast<unsigned char>(value); }
__device__ __forceinline__ unsigned char to_byte(int value) { return static_cast<unsigned char>(value); }

__device__ __forceinline__ int min(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
__device__ __forceinline__ unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

// NaN when either is, where fminf takes the other; and -0 is less than 0.
__device__ __forceinline__ float min(float a, float b) {
#ifdef __CUDACC__
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return is_nan(a) ? a : is_nan(b) ? b : a == b ? from_bits(bits(a) | bits(b)) : a < b ? a : b;
#endif
}
__device__ __forceinline__ float max(float a, float b) {
#ifdef __CUDACC__
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return is_nan(a) ? a : is_nan(b) ? b : a == b ? from_bits(bits(a) & bits(b)) : a > b ? a : b;
#endif
}

// C# throws where least is above most.
template <typename T>
__device__ __forceinline__ T clamp(T value, T least, T most) {
  return value < least ? least : value > most ? most : value;
}

__device__ __forceinline__ int sign(int value) { return value > 0 ? 1 : value < 0 ? -1 : 0; }
// C# throws for NaN.
__device__ __forceinline__ int sign(float value) { return value > 0.f ? 1 : value < 0.f ? -1 : 0; }

__device__ __forceinline__ int pop_count(unsigned value) {
#ifdef __CUDACC__
  return __popc(value);
#else
  return __builtin_popcount(value);
#endif
}
__device__ __forceinline__ int leading_zero_count(unsigned value) {
#ifdef __CUDACC__
  return __clz(int(value));
#else
  return value == 0 ? 32 : __builtin_clz(value);
#endif
}
__device__ __forceinline__ int trailing_zero_count(unsigned value) {
  return value == 0 ? 32 : 31 - leading_zero_count(value & (0u - value));
}
__device__ __forceinline__ int trailing_zero_count(int value) { return trailing_zero_count(unsigned(value)); }
__device__ __forceinline__ bool is_pow2(unsigned value) { return value != 0 && (value & (value - 1)) == 0; }
__device__ __forceinline__ bool is_pow2(int value) { return value > 0 && is_pow2(unsigned(value)); }
__device__ __forceinline__ unsigned rotate_left(unsigned value, int count) {
  return value << (count & 31) | value >> (-(count & 31) & 31);
}
__device__ __forceinline__ unsigned rotate_right(unsigned value, int count) {
  return value >> (count & 31) | value << (-(count & 31) & 31);
}

// Error 2^-22, absolute between 1/2 and 2 and relative elsewhere. CUDA's own are some thirty instructions, of which a kernel that
// has 64 logits in registers has no place for 64 copies.
__device__ __forceinline__ float log2(float value) {
#ifdef __CUDACC__
  float result;
  asm("lg2.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
#else
  return log2f(value);
#endif
}
__device__ __forceinline__ float log(float value) {
#ifdef __CUDACC__
  return log2(value) * 0.693147181f;
#else
  return logf(value);
#endif
}

// 1 - 2 / (e^2x + 1), which is 1 and -1 at the ends: absolute error 2^-22.
__device__ __forceinline__ float tanh(float value) {
#ifdef __CUDACC__
  float power, inverse;
  asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(value * 2.88539008f));
  asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(power + 1.f));
  return fmaf(-2.f, inverse, 1.f);
#else
  return tanhf(value);
#endif
}

// FastMath's, and .NET's estimates: an instruction or two.
__device__ __forceinline__ float fast_exp2(float value) {
#ifdef __CUDACC__
  return exp2_fast(value);
#else
  return exp2f(value);
#endif
}
__device__ __forceinline__ float fast_exp(float value) {
#ifdef __CUDACC__
  return fast_exp2(value * 1.44269504f);
#else
  return expf(value);
#endif
}
__device__ __forceinline__ float fast_tanh(float value) {
#ifdef __CUDACC__
  return tanh_fast(value);
#else
  return tanhf(value);
#endif
}
__device__ __forceinline__ float fast_sigmoid(float value) {
#ifdef __CUDACC__
  return fmaf(0.5f, fast_tanh(0.5f * value), 0.5f);
#else
  return 1.f / (1.f + expf(-value));
#endif
}
__device__ __forceinline__ float reciprocal_estimate(float value) {
#ifdef __CUDACC__
  return reciprocal(value);
#else
  return 1.f / value;
#endif
}
__device__ __forceinline__ float reciprocal_sqrt_estimate(float value) {
#ifdef __CUDACC__
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
#else
  return 1.f / sqrtf(value);
#endif
}

#ifdef __CUDACC__
// value - k * pi / 2 in [-pi / 4, pi / 4]. The constants are pi / 2 in three parts, so that k times the first two is exact for
// |k| < 2^12 or so. CUDA's own sinf keeps a table for huge arguments in local memory, which slows the whole kernel down.
__device__ __forceinline__ float reduce(float value, int& quadrant) {
  float k = rintf(value * 0.636619772f);
  quadrant = __float2int_rz(k);
  return fmaf(k, -7.549789415861596e-08f, fmaf(k, -1.5707962513f, value));
}
__device__ __forceinline__ float sine(float value, int turn) {
  int quadrant;
  float x = reduce(value, quadrant);
  quadrant += turn;
  float square = x * x;
  // Taylor polynomials, a little bent towards the ends of the interval.
  float odd = fmaf(fmaf(fmaf(-1.9515296e-4f, square, 8.3321609e-3f), square, -1.6666655e-1f), square * x, x);
  float even = fmaf(fmaf(fmaf(fmaf(2.44331571e-5f, square, -1.38873163e-3f), square, 4.16666456e-2f), square, -0.5f),
                    square, 1.f);
  float result = quadrant & 1 ? even : odd;
  return quadrant & 2 ? -result : result;
}
// Absolute error below 2^-23 for arguments up to 100,000, growing with larger ones.
__device__ __forceinline__ float sin(float value) { return sine(value, 0); }
__device__ __forceinline__ float cos(float value) { return sine(value, 1); }
#else
__device__ __forceinline__ float sin(float value) { return sinf(value); }
__device__ __forceinline__ float cos(float value) { return cosf(value); }
#endif

}  // namespace csharp
}  // namespace flashinfer
