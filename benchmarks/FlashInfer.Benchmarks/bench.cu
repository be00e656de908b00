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

struct FillParams {
  unsigned* data;
  unsigned long long count;  // pairs of bf16
  unsigned seed;
};

__device__ unsigned mix(unsigned long long x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<unsigned>(x >> 32);
}

// Normal numbers (Box-Muller): zeros or constants would run faster than real data.
extern "C" __global__ void fi_bench_fill(const __grid_constant__ FillParams p) {
  const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  for (unsigned long long at = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < p.count;
       at += stride) {
    const unsigned long long key = at * 2 + static_cast<unsigned long long>(p.seed) * 0x9e3779b97f4a7c15ull;
    const float u = (mix(key) + 1.0f) * 2.3283064e-10f, angle = mix(key + 1) * 1.4629181e-9f;
    const float radius = sqrtf(-2.0f * __logf(fminf(u, 1.0f)));
    p.data[at] = flashinfer::BFloat16::pack(radius * __cosf(angle), radius * __sinf(angle));
  }
}
