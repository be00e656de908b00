// What the benchmark needs beside the product's kernels: the ceilings, and random data made on the
// device.
#include "core/ptx.cuh"
#include "core/types.cuh"
#include "core/wgmma.cuh"

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

struct MathParams {
  unsigned* sink;  // never written: keeps the products alive
  int steps;
};

// Matrix instructions on random numbers in registers and shared memory: what no kernel of this kind can be faster than.
// Two warpgroups, or eight warps, a block; fi_bench_math_flops: operations of one step of a block.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

enum { kMathColumns = 256, kMathDepth = 64, kMathRepeats = 4 };
extern "C" __constant__ long long fi_bench_math_flops = 2ll * 128 * kMathColumns * kMathDepth * kMathRepeats;

extern "C" __global__ void __launch_bounds__(256) fi_bench_math(const __grid_constant__ MathParams p) {
  using namespace flashinfer;
  __shared__ alignas(1024) u32 b[kMathColumns * kMathDepth / 2];
  for (int i = threadIdx.x; i < kMathColumns * kMathDepth / 2; i += blockDim.x) {
    const float2 v = normals(2 * i);
    b[i] = BFloat16::pack(v.x, v.y);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  u32 a[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 v = normals(0x10000 + 8 * threadIdx.x + 2 * i);
    a[i] = BFloat16::pack(v.x, v.y);
  }
  float d[kMathColumns / 2] = {};
  const u64 descriptor = matrix_descriptor<128>(shared_address(b), 0, 1024, 0);
  for (int step = 0; step < p.steps; step++) {
    keep(d);
    wgmma_fence();
#pragma unroll
    for (int repeat = 0; repeat < kMathRepeats; repeat++) {
#pragma unroll
      for (int k = 0; k < kMathDepth / 16; k++) wgmma<BFloat16, false>(d, a, advance(descriptor, k * 2), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    keep(d);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kMathColumns / 2; i++) sum += d[i];
  if (sum == 0.12345f) *p.sink = 1;
}

#else

enum { kMathTiles = 16 };
extern "C" __constant__ long long fi_bench_math_flops = 2ll * 16 * 8 * 16 * kMathTiles * 8;

extern "C" __global__ void __launch_bounds__(256) fi_bench_math(const __grid_constant__ MathParams p) {
  using namespace flashinfer;
  u32 a[4], b[2];
#pragma unroll
  for (int i = 0; i < 6; i++) {
    const float2 v = normals(16 * threadIdx.x + 2 * i);
    (i < 4 ? a[i & 3] : b[i & 1]) = BFloat16::pack(v.x, v.y);
  }
  float d[kMathTiles][4] = {};
  for (int step = 0; step < p.steps; step++) {
#pragma unroll
    for (int tile = 0; tile < kMathTiles; tile++) BFloat16::mma(d[tile], a, b[0], b[1]);
  }
  float sum = 0;
#pragma unroll
  for (int tile = 0; tile < kMathTiles; tile++) sum += d[tile][0] + d[tile][1] + d[tile][2] + d[tile][3];
  if (sum == 0.12345f) *p.sink = 1;
}

#endif
