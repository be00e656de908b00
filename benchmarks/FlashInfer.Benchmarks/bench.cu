// What the benchmark needs beside the product's kernels: the ceilings, and random data made on the
// device.
#include "core/types.cuh"

struct ReadParams {
  const uint4* data;
  unsigned long long count;  // 16-byte elements
  unsigned* sink;            // never written: keeps the loads alive
};

// Reads everything once, 16 bytes a load, four loads in flight a thread.
extern "C" __global__ void fi_bench_read(const __grid_constant__ ReadParams p) {
  const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  unsigned long long at = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  unsigned sum = 0;
  for (; at + 3 * stride < p.count; at += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                   : "l"(p.data + at + i * stride));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) sum += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (sum == 0x9e3779b9u) *p.sink = sum;
}

struct CopyParams {
  const uint4* from;
  uint4* to;
  unsigned long long count;
};

extern "C" __global__ void fi_bench_copy(const __grid_constant__ CopyParams p) {
  const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  for (unsigned long long at = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < p.count;
       at += stride) {
    p.to[at] = p.from[at];
  }
}

// As DType in C#.
enum { kFloat16 = 0, kBFloat16 = 1, kFloat8E4M3 = 4, kFloat8E5M2 = 5 };

struct FillParams {
  unsigned* data;
  unsigned long long count;  // words of four bytes
  unsigned seed;
  int dtype;
};

__device__ unsigned mix(unsigned long long x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<unsigned>(x >> 32);
}

// Two normal numbers (Box-Muller): zeros or constants would run faster than real data.
__device__ float2 normals(unsigned long long key) {
  const float u = (mix(key) + 1.0f) * 2.3283064e-10f, angle = mix(key + 1) * 1.4629181e-9f;
  const float radius = sqrtf(-2.0f * __logf(fminf(u, 1.0f)));
  return {radius * __cosf(angle), radius * __sinf(angle)};
}

// e4m3, truncated, of a number far below 448: the exponent moved from float's bias to 7, then its upper bits.
__device__ unsigned e4m3(float x) {
  return (__float_as_uint(x) >> 24 & 0x80) | __float_as_uint(fabsf(x) * 7.52316385e-37f) >> 20;
}

extern "C" __global__ void fi_bench_fill(const __grid_constant__ FillParams p) {
  const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  for (unsigned long long at = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < p.count;
       at += stride) {
    const unsigned long long key = at * 2 + static_cast<unsigned long long>(p.seed) * 0x9e3779b97f4a7c15ull;
    const float2 a = normals(key);
    if (p.dtype == kBFloat16) {
      p.data[at] = flashinfer::BFloat16::pack(a.x, a.y);
    } else if (p.dtype == kFloat16) {
      p.data[at] = flashinfer::Half::pack(a.x, a.y);
    } else {
      const float2 b = normals(key + 0x5851f42d4c957f2dull);
      if (p.dtype == kFloat8E4M3) {
        p.data[at] = e4m3(a.x) | e4m3(a.y) << 8 | e4m3(b.x) << 16 | e4m3(b.y) << 24;
      } else {  // e5m2 is the upper byte of half precision
        p.data[at] = __byte_perm(flashinfer::Half::pack(a.x, a.y), flashinfer::Half::pack(b.x, b.y), 0x7531);
      }
    }
  }
}
