// Fixed-width names and element types. NVRTC brings no header of its own, so this is where they
// come from.
#pragma once

namespace flashinfer {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

// The version of the contract between units, headers and runtime (CudaUnits.AbiVersion in C#).
enum { kAbiVersion = 7 };

// The smallest power of two that is enough, and the exponent of a power of two.
constexpr __host__ __device__ int power_of_two(int wanted) {
  int power = 1;
  while (power < wanted) power *= 2;
  return power;
}
constexpr __host__ __device__ int exponent_of(int power) { return power > 1 ? 1 + exponent_of(power / 2) : 0; }

constexpr __host__ __device__ int round_up(int value, int step) { return (value + step - 1) / step * step; }

template <typename A, typename B>
struct IsSame {
  static constexpr bool value = false;
};
template <typename A>
struct IsSame<A, A> {
  static constexpr bool value = true;
};

template <bool kFirst, typename A, typename B>
struct Choice {
  using Type = A;
};
template <typename A, typename B>
struct Choice<false, A, B> {
  using Type = B;
};

template <int N>
struct alignas(N * sizeof(float) > 16 ? 16 : N * sizeof(float)) FloatVector {
  float at[N];
};

// IEEE half precision: how two floats become a register of two elements and back, and the tensor-core
// instruction.
struct Half {
  using MathElement = Half;
  static constexpr int kBytes = 2;

  static __device__ __forceinline__ float2 unpack(u32 packed) {
    float2 v;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %2;\n cvt.f32.f16 %0, l;\n cvt.f32.f16 %1, h;\n}"
        : "=f"(v.x), "=f"(v.y)
        : "r"(packed));
    return v;
  }
  static __device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
  }
  // d[16 x 8] += a[16 x 16] * b[16 x 8], fp32 accumulation.
  static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// bfloat16, as Half.
struct BFloat16 {
  using MathElement = BFloat16;
  static constexpr int kBytes = 2;

  static __device__ __forceinline__ float2 unpack(u32 packed) {
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000));
  }
  static __device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
  }
  static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// IEEE single precision: only merged states have it.
struct Float32 {
  static constexpr int kBytes = 4;
};

}  // namespace flashinfer
