// Warpgroup matrix products of sm_90a, fp32 accumulation.
//
// Rules (PTX ISA, and what NVRTC 13 makes of it): all wgmma of one group stand in straight-line code, with a wgmma_fence
// before every batch, also where nothing seems to need one (without it all are serialised: notes C7519, C7520); between
// issue and wait nothing touches the registers involved, which keep() pins.
#pragma once

#include "core/types.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// How a matrix lies in shared memory: the row of 8x(16 bytes) core matrices is swizzled over 128 or 64 bytes.
//   K-major (Q, K): leading is ignored; stride = bytes between groups of 8 rows.
//   MN-major (V as loaded): leading = bytes between column groups, stride = bytes between groups of 8 rows.
// zero: a zero that the compiler takes for a variable, another one for each matrix of a product. Of a high word that it knew it would
// make a copy for every product.
template <int kSwizzleBytes>
__device__ __forceinline__ u64 matrix_descriptor(u32 address, u32 leading, u32 stride, u32 zero) {
  static_assert(kSwizzleBytes == 128 || kSwizzleBytes == 64, "tiles are swizzled over 128 or 64 bytes");
  constexpr u32 kMode = kSwizzleBytes == 128 ? 1 : 2;
  return static_cast<u64>((stride >> 4 | kMode << 30) + zero) << 32 | ((address >> 4) + (leading >> 4 << 16));
}

// A matrix whose rows are 8 elements, one behind the other, not swizzled: both halves of a product's 16.
__device__ __forceinline__ u64 repeated_descriptor(u32 address, u32 zero) {
  return static_cast<u64>((128u >> 4) + zero) << 32 | (address >> 4);
}

// The same matrix so many chunks of 16 bytes further on. Only the low word changes, and by less than it has room for.
__device__ __forceinline__ u64 advance(u64 descriptor, u32 chunks) {
  return descriptor >> 32 << 32 | (static_cast<u32>(descriptor) + chunks);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N of this warpgroup's groups are still under way.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Nothing moves the registers across.
template <int N>
__device__ __forceinline__ void keep(float (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i])::"memory");
}

// The registers of all warps of the block share one pool, of which a warpgroup takes more or less.
template <int N>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N>
__device__ __forceinline__ void yield_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// clang-format off
// The operands of d by width: their places in the text, and the registers.
#define FI_F8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FI_F16(i) FI_F8(i), FI_F8(i + 8)
#define FI_F32(i) FI_F16(i), FI_F16(i + 16)
#define FI_TEXT_48 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23"
#define FI_TEXT_64 FI_TEXT_48 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define FI_TEXT_80 FI_TEXT_64 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define FI_TEXT_96 FI_TEXT_64 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define FI_TEXT_112 FI_TEXT_96 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define FI_TEXT_128 FI_TEXT_64 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define FI_TEXT_192 FI_TEXT_128 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define FI_TEXT_256 FI_TEXT_192 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define FI_REGISTERS_48 FI_F16(0), FI_F8(16)
#define FI_REGISTERS_64 FI_F32(0)
#define FI_REGISTERS_80 FI_REGISTERS_64, FI_F8(32)
#define FI_REGISTERS_96 FI_REGISTERS_64, FI_F16(32)
#define FI_REGISTERS_112 FI_REGISTERS_96, FI_F8(48)
#define FI_REGISTERS_128 FI_REGISTERS_64, FI_F32(32)
#define FI_REGISTERS_192 FI_REGISTERS_128, FI_F32(64)
#define FI_REGISTERS_256 FI_REGISTERS_192, FI_F32(96)

// p: the operand that is 0 when d is overwritten; rest: the text behind d.
#define FI_WGMMA_OF(type, n, p_text, rest, ...)                                                                       \
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, " p_text ", 0;\n wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." \
               type "." type " {" FI_TEXT_##n "}, " rest ";\n}" : FI_REGISTERS_##n : __VA_ARGS__)
#define FI_WGMMA(n, ...)                                                                                              \
  if constexpr (IsSame<Element, Half>::value) { FI_WGMMA_OF("f16", n, __VA_ARGS__); }                               \
  else { FI_WGMMA_OF("bf16", n, __VA_ARGS__); }
// clang-format on

// d[64 x 2 kRegisters] = a[64 x 16] * b[16 x 2 kRegisters], added to d unless accumulate is 0. a in registers: each warp's
// 16 rows as an operand of m16n8k16. b is K-major, or MN-major when kTransposed. d: of each warp's 16 rows, thread l holds
// columns 8 j + 2 (l % 4) and the next of row l / 4 in d[4 j], d[4 j + 1], of row l / 4 + 8 in the next two.
template <typename Element, bool kTransposed, int kRegisters>
__device__ __forceinline__ void wgmma(float (&d)[kRegisters], const u32 (&a)[4], u64 b, int accumulate) {
  constexpr int kTranspose = kTransposed;
  if constexpr (kRegisters == 24) {
    FI_WGMMA(48, "%29", "{%24,%25,%26,%27}, %28, p, 1, 1, %30", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 32) {
    FI_WGMMA(64, "%37", "{%32,%33,%34,%35}, %36, p, 1, 1, %38", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 40) {
    FI_WGMMA(80, "%45", "{%40,%41,%42,%43}, %44, p, 1, 1, %46", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 48) {
    FI_WGMMA(96, "%53", "{%48,%49,%50,%51}, %52, p, 1, 1, %54", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 56) {
    FI_WGMMA(112, "%61", "{%56,%57,%58,%59}, %60, p, 1, 1, %62", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 64) {
    FI_WGMMA(128, "%69", "{%64,%65,%66,%67}, %68, p, 1, 1, %70", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 96) {
    FI_WGMMA(192, "%101", "{%96,%97,%98,%99}, %100, p, 1, 1, %102", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
             "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 128) {
    FI_WGMMA(256, "%133", "{%128,%129,%130,%131}, %132, p, 1, 1, %134", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]),
             "l"(b), "r"(accumulate), "n"(kTranspose));
  } else {
    static_assert(kRegisters == 0, "no wgmma of this width is written down");
  }
}

// As above; a is K-major in shared memory.
template <typename Element, bool kTransposed, int kRegisters>
__device__ __forceinline__ void wgmma(float (&d)[kRegisters], u64 a, u64 b, int accumulate) {
  constexpr int kTranspose = kTransposed;
  if constexpr (kRegisters == 24) {
    FI_WGMMA(48, "%26", "%24, %25, p, 1, 1, 0, %27", "l"(a), "l"(b), "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 32) {
    FI_WGMMA(64, "%34", "%32, %33, p, 1, 1, 0, %35", "l"(a), "l"(b), "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 40) {
    FI_WGMMA(80, "%42", "%40, %41, p, 1, 1, 0, %43", "l"(a), "l"(b), "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 48) {
    FI_WGMMA(96, "%50", "%48, %49, p, 1, 1, 0, %51", "l"(a), "l"(b), "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 56) {
    FI_WGMMA(112, "%58", "%56, %57, p, 1, 1, 0, %59", "l"(a), "l"(b), "r"(accumulate), "n"(kTranspose));
  } else if constexpr (kRegisters == 64) {
    FI_WGMMA(128, "%66", "%64, %65, p, 1, 1, 0, %67", "l"(a), "l"(b), "r"(accumulate), "n"(kTranspose));
  } else {
    static_assert(kRegisters == 0, "no wgmma of this width is written down");
  }
}

#undef FI_F8
#undef FI_F16
#undef FI_F32
#undef FI_TEXT_48
#undef FI_TEXT_64
#undef FI_TEXT_80
#undef FI_TEXT_96
#undef FI_TEXT_112
#undef FI_TEXT_128
#undef FI_TEXT_192
#undef FI_TEXT_256
#undef FI_REGISTERS_48
#undef FI_REGISTERS_64
#undef FI_REGISTERS_80
#undef FI_REGISTERS_96
#undef FI_REGISTERS_112
#undef FI_REGISTERS_128
#undef FI_REGISTERS_192
#undef FI_REGISTERS_256
#undef FI_WGMMA_OF
#undef FI_WGMMA

#endif  // sm_90a

}  // namespace flashinfer
