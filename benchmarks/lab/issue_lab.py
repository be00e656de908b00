#!/usr/bin/env python3
"""What products of warpgroups and other instructions cost each other on Hopper, in cycles, and in time and energy at the power limit.

  issue_lab.py turns     three warpgroups in turn, as prefill's consumers: Q K^T, P V, and so many instructions on the scores
  issue_lab.py softmax   the same with the consumers' softmax, and so many instructions more, or other ways to do it
  issue_lab.py beside    two warpgroups multiply all the time, a third one issues so many instructions a cycle
  issue_lab.py energy    turns, long enough to meet the power limit
  issue_lab.py prefill   the prefill kernel and its variants, by cycles, by the clock, and by energy

Needs a GPU, PyTorch and NVRTC (gpu.py). --sass counts the instructions in the machine code, and tells where the compiler made others of
them. A kernel at the power limit has the clock that its energy leaves it: rested and hot figures differ, cycles hardly do.
"""
import argparse
import concurrent.futures
import ctypes
import datetime
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import torch

import gpu

# An instruction on x, one of a thread's registers, and its name in the machine.
KINDS = {
    "ffma": ("x = ffma(x, a, b)", "FFMA"),
    "ffma immediate": ("x = ffma(x, 0.984375f, b)", "FFMA"),
    "ffma uniform": ("x = ffma(x, arguments.a, b)", "FFMA"),
    "ffma two uniform": ("x = ffma(x, arguments.a, 0.015625f)", "FFMA"),
    "ffma square": ("x = ffma(x, x, b)", "FFMA"),
    "fmul": ("x = fmul(x, a)", "FMUL"),
    "fmul immediate": ("x = fmul(x, 0.984375f)", "FMUL"),
    "fadd": ("x = fadd(x, b)", "FADD"),
    "fadd immediate": ("x = fadd(x, 0.015625f)", "FADD"),
    "lop3": ("x = lop(x, y, mask)", "LOP3"),
    "prmt": ("x = prmt(x, y)", "PRMT"),
    "imad": ("x = imad(x, mask, mask)", "IMAD"),
    "vimnmx": ("x = imax(x, __float_as_int(y))", "VIMNMX"),
    "fmnmx": ("x = fmax2(x, y)", "FMNMX"),
    "hfma2": ("x = hfma2(x, mask, mask)", "HFMA2"),
    "hmul2 bf16": ("x = hmul2(x, mask)", "HMUL2"),
    "f2fp": ("x = pack(x, a)", "F2FP"),
    "mufu": ("x = ex2(x)", "MUFU"),
    "shfl": ("x = shfl(x)", "SHFL"),
    "lds": ("x = lds(place)", "LDS"),
}

TEXT = """
#include "core/wgmma.cuh"
#include "core/hopper.cuh"
#include "core/ptx.cuh"
#include "attention/variants.cuh"
#include "attention/prefill_softmax.cuh"
using namespace flashinfer;
static __device__ __forceinline__ float ffma(float x, float a, float b) { asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+f"(x) : "f"(a), "f"(b)); return x; }
static __device__ __forceinline__ float ffma2(float x, float a, float b) { float y; asm volatile("fma.rn.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(x), "f"(a), "f"(b)); return y; }
static __device__ __forceinline__ float fadd2(float x, float a) { float y; asm volatile("add.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(a)); return y; }
static __device__ __forceinline__ float fmul(float x, float a) { asm volatile("mul.f32 %0, %0, %1;" : "+f"(x) : "f"(a)); return x; }
static __device__ __forceinline__ float fadd(float x, float a) { asm volatile("add.f32 %0, %0, %1;" : "+f"(x) : "f"(a)); return x; }
static __device__ __forceinline__ float lop(float x, float y, u32 m) { asm volatile("lop3.b32 %0, %0, %1, %2, 0x78;" : "+f"(x) : "f"(y), "r"(m)); return x; }
static __device__ __forceinline__ float imad(float x, u32 m, u32 n) { u32 y = __float_as_int(x); asm volatile("mad.lo.u32 %0, %0, %1, %2;" : "+r"(y) : "r"(m), "r"(n)); return __int_as_float(y); }
static __device__ __forceinline__ float imax(float x, u32 m) { int y = __float_as_int(x); asm volatile("max.s32 %0, %0, %1;" : "+r"(y) : "r"(m)); return __int_as_float(y); }
static __device__ __forceinline__ float hfma2(float x, u32 m, u32 n) { u32 y = __float_as_int(x); asm volatile("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(y) : "r"(m), "r"(n)); return __int_as_float(y); }
static __device__ __forceinline__ float hmul2(float x, u32 m) { u32 y = __float_as_int(x); asm volatile("mul.rn.bf16x2 %0, %0, %1;" : "+r"(y) : "r"(m)); return __int_as_float(y); }
static __device__ __forceinline__ float prmt(float x, float y) { asm volatile("prmt.b32 %0, %0, %1, 0x2143;" : "+f"(x) : "f"(y)); return x; }
static __device__ __forceinline__ float fmax2(float x, float y) { asm volatile("max.f32 %0, %0, %1;" : "+f"(x) : "f"(y)); return x; }
static __device__ __forceinline__ float pack(float x, float a) { u32 y; asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(x), "f"(a)); return __int_as_float(y); }
static __device__ __forceinline__ float ex2(float x) { asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x)); return x; }
static __device__ __forceinline__ float shfl(float x) { asm volatile("shfl.sync.bfly.b32 %0, %0, 1, 31, -1;" : "+f"(x)); return x; }
static __device__ __forceinline__ float lds(u32 place) { float x; asm volatile("ld.volatile.shared.f32 %0, [%1];" : "=f"(x) : "r"(place)); return x; }
static __device__ __forceinline__ void add_row_sums(float (&d)[4], const u32 (&a)[4], u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void add_row_sums(float (&d)[4], const u32 (&a)[4]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%8}, {%0,%1,%2,%3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(0x3f803f80));
}
static __device__ __forceinline__ void copy_bytes(u32 shared, const u8* from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
static __device__ __forceinline__ u64 now() { u64 t; asm volatile("mov.u64 %0, %%clock64;" : "=l"(t) :: "memory"); return t; }
static __device__ __forceinline__ u64 nanoseconds() { u64 t; asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t) :: "memory"); return t; }

struct Result { u64 cycles, ns, issued, sink; u32 spent[6]; };

// What lies in shared memory, and what registers of P hold, is normally distributed as far as a sum of two uniform numbers is.
static __device__ __forceinline__ float draw(u32& state) {
  state = state * 1664525u + 1013904223u;
  return (static_cast<float>(state >> 16) + static_cast<float>(state & 0xffff)) * (4.9f / 131072.f) - 2.45f;
}
static __device__ __forceinline__ u32 draw_two(u32& state) { const float x = draw(state); return BFloat16::pack(x, draw(state)); }

template <int kColumns, bool kShared, bool kTransposed, int N>
static __device__ __forceinline__ void products(float (&d)[N], const u32 (&a)[4][4], u64 query, u64 block, int count, int first) {
#pragma unroll
  for (int k = 0; k < 64; k++) {
    if (k >= count) break;
    const u64 at = advance(block, kTransposed ? k * 2 * 64 : k / 4 * 512 + k % 4 * 2);
    const int adds = k > 0 ? 1 : first;
    if constexpr (kShared) wgmma<BFloat16, kTransposed>(d, advance(query, k / 4 * 1536 + k % 4 * 2), at, adds);
    else wgmma<BFloat16, kTransposed>(d, a[k % 4], at, adds);
  }
  wgmma_commit();
}

struct Arguments { Result* results; int rounds; float a, b; u32 mask; int zero; float scale, unit; const u8* data; };
extern "C" __constant__ int bench_info[13] = {0, 0, 384, 180224 + 64};
extern "C" __global__ void __launch_bounds__(384, 1) bench(const __grid_constant__ Arguments arguments) {
  const int rounds = arguments.rounds, zero = arguments.zero;
  const float a = arguments.a, b = arguments.b;
  const u32 mask = arguments.mask;
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ volatile int stop;
  const u32 base = shared_address(shared);
  u32 state = threadIdx.x * 7919u + blockIdx.x * 104729u + 1;
  for (int i = threadIdx.x; i < 180224 / 4; i += 384) reinterpret_cast<u32*>(shared)[i] = draw_two(state);
  const u32 arrived = base + 180224;
  if (threadIdx.x == 0) {
    stop = 0;
    for (int i = 0; i < 4; i++) mbarrier_init(arrived + i * 8, 1);
    mbarrier_init_fence();
  }
  async_proxy_fence();
  __syncthreads();
  const auto copy = [&](int n) {
    const u32 slot = n % 4, barrier = arrived + slot * 8;
    const u8* from = arguments.data + static_cast<u32>(n + blockIdx.x) % 32 * 32768;
    mbarrier_expect(barrier, 32768);
    copy_bytes(base + 49152 + slot * 16384, from, 16384, barrier);
    copy_bytes(base + 114688 + slot * 16384, from + 16384, 16384, barrier);
  };
  const int group = __shfl_sync(~0u, threadIdx.x >> 7, 0);
  const u32 z0 = zero, z1 = zero >> 1, z2 = zero >> 2;
  // Q, 192 rows x 128: 48 KB; four slots of K, 64 x 128, of 16 KB; four of V; barriers of the slots.
  const u64 query = matrix_descriptor<128>(base + group * 64 * 128, 16, 1024, z0);
  const u64 keys = matrix_descriptor<128>(base + 49152, 16, 1024, z1);
  const u64 values = matrix_descriptor<128>(base + 114688, 8192, 1024, z2);
  const u32 place = base + (threadIdx.x & 127) * 16;
  u64 issued = 0;
  u32 last = 0, spent[6] = {};
  float sink = 0.f;
  float o[64], s[32];
  u32 p[4][4];
#pragma unroll
  for (int i = 0; i < 64; i++) o[i] = 0.f;
#pragma unroll
  for (int i = 0; i < 32; i++) s[i] = draw(state);
#pragma unroll
  for (int i = 0; i < 16; i++) p[i / 4][i % 4] = draw_two(state);
#if @COPIES@
  if (threadIdx.x == 0) copy(0), copy(1);
#endif
#if @BESIDE@
  const u64 key = keys, value = values;
  const u64 cycles = now(), ns = nanoseconds();
  if (group < 2) {
#pragma unroll 1
    for (int n = 0; n < rounds; n++) {
      keep(o); keep(s);
      wgmma_fence();
      @BODY@
      wgmma_wait<0>();
      keep(o); keep(s);
    }
    stop = 1;
  } else {
#pragma unroll 1
    while (!stop) {
#pragma unroll
      for (int m = 0; m < @COUNT@; m++) {
        float& x = s[m % @ILP@];
        const float y = s[(m + 1) % 32];
        @INSTRUCTION@;
      }
      issued += @COUNT@;
    }
  }
#elif @SOFTMAX@
  // As prefill's consumers. The instructions are added between maxima and weights.
  PrefillSoftmax softmax;
  softmax.clear();
  const float scale = arguments.scale, slack = 8.f / scale;
  SmallScores<true> small;
  small.set(SoftCap::kCubic, arguments.unit, scale);
  float extra[8], ones[4] = {};
  const auto mark = [&](int i) {
#if @MARKS@
    u32 time;
    asm volatile("mov.u32 %0, %%clock;" : "=r"(time) :: "memory");
    spent[i] += time - last;
    last = time;
#endif
  };
#pragma unroll
  for (int i = 0; i < 8; i++) extra[i] = draw(state);
  mark(0);
  spent[0] = 0;
  const u64 cycles = now(), ns = nanoseconds();
  if (group == 2) asm volatile("bar.arrive 1, 256;");
#pragma unroll 1
  for (int n = 0; n < rounds; n++) {
    @PRESET@
#if @COPIES@
    if (threadIdx.x == 0) copy(n + 2);
    __syncwarp();
    mbarrier_wait(arrived + n % 4 * 8, n / 4 & 1);
    const u64 key = advance(keys, n % 4 * 1024), value = advance(values, n % 4 * 1024);
#else
    const u64 key = keys, value = values;
#endif
    asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
    keep(o); keep(s);
    mark(0);
    wgmma_fence();
    @BODY@
    asm volatile("bar.arrive %0, 256;" ::"r"(group == 2 ? 1 : 2 + group) : "memory");
    mark(1);
    wgmma_wait<1>();
    keep(s);
    mark(2);
    float2 factor = {1.f, 1.f};
    bool raised = false;
    @SHAPE@
#pragma unroll
    for (int m = 0; m < @COUNT@; m++) {
      float& x = extra[m % 8];
      const float y = extra[(m + 1) % 8];
      @INSTRUCTION@;
    }
    @WEIGH@
    mark(3);
    wgmma_wait<0>();
    keep(o);
    mark(4);
#pragma unroll
    for (int i = 0; i < 16; i++) p[i / 4][i % 4] = BFloat16::pack(s[2 * i], s[2 * i + 1]);
    @AFTER@
#pragma unroll
    for (int i = 0; i < 16; i++) asm volatile("" : "+r"(p[i / 4][i % 4]));
    mark(5);
    if (raised) {
#pragma unroll
      for (int i = 0; i < 64; i++) o[i] *= i / 2 % 2 ? factor.y : factor.x;
    }
  }
  if (group == 0) asm volatile("bar.sync 1, 256;");
  keep(ones);
  sink = softmax.sum[0] + softmax.sum[1] + ones[0] + ones[2];
#pragma unroll
  for (int i = 0; i < 8; i++) sink += extra[i];
#else
  const u64 key = keys, value = values;
  const u64 cycles = now(), ns = nanoseconds();
  if (group == 2) asm volatile("bar.arrive 1, 256;");
#pragma unroll 1
  for (int n = 0; n < rounds; n++) {
    asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
    keep(o); keep(s);
    wgmma_fence();
    @BODY@
    asm volatile("bar.arrive %0, 256;" ::"r"(group == 2 ? 1 : 2 + group) : "memory");
    wgmma_wait<1>();
    keep(s);
#pragma unroll
    for (int m = 0; m < @COUNT@; m++) {
      float& x = s[m % @ILP@];
      const float y = s[(m + 1) % 32];
      @INSTRUCTION@;
    }
    wgmma_wait<0>();
    keep(o);
  }
  if (group == 0) asm volatile("bar.sync 1, 256;");
#endif
  const u64 taken = now() - cycles, time = nanoseconds() - ns;
#pragma unroll
  for (int i = 0; i < 64; i++) sink += o[i];
#pragma unroll
  for (int i = 0; i < 32; i++) sink += s[i];
  if ((threadIdx.x & 127) == 0) arguments.results[blockIdx.x * 3 + group] = {taken, time, issued, static_cast<u64>(__float_as_int(sink)), {spent[0], spent[1], spent[2], spent[3], spent[4], spent[5]}};
}
"""

# Products of a turn. The tensor cores need 32 cycles for 64 columns, 64 for 128.
PV = "wgmma_fence(); products<128, false, true>(o, p, query, value, 4, 1);"
BODIES = {"q shared": "products<64, true, false>(s, p, query, key, 8, zero); " + PV,
          "q registers": "products<64, false, false>(s, p, query, key, 8, zero); " + PV}

# The consumers' softmax, and what could stand in its place: before a turn, on scores, for weights, and behind the products.
RAISE, WEIGH = "raised = softmax.raise(s, scale, slack, factor);", "softmax.weigh(s, scale, false);"
SUM_BY_PRODUCTS = "products<64, true, false>(s, p, query, key, 8, zero); wgmma_fence(); for (int k = 0; k < 4; k++) add_row_sums(ones, p[k], value); " + PV
PRESET_BODY = "products<64, true, false>(s, p, query, key, 8, 1); " + PV
NO_SUMS = """
#pragma unroll
    for (int i = 0; i < 32; i++) s[i] = exp2_fast(__fmaf_rn(s[i], scale, i / 2 % 2 ? -softmax.max[1] * scale : -softmax.max[0] * scale));"""
LINE = """{
    const float slope = a * scale, base = __fmaf_rn(b, static_cast<float>(n), -softmax.max[0] * scale);
#pragma unroll
    for (int j = 0; j < 32; j += 4) {
      float height[2];
#pragma unroll
      for (int e = 0; e < 2; e++) {
        height[e] = __fmaf_rn(slope, static_cast<float>(j * 2 + e), base);
        s[j + e] = exp2_fast(__fmaf_rn(s[j + e], scale, height[e]));
        s[j + e + 2] = exp2_fast(__fmaf_rn(s[j + e + 2], scale, height[e]));
      }
      softmax.sum[0] += s[j] + s[j + 1];
      softmax.sum[1] += s[j + 2] + s[j + 3];
    }
    }"""
PRESET = """
#pragma unroll
    for (int i = 0; i < 32; i++) s[i] = a * static_cast<float>(i / 4 * 8 + i % 2);"""
LOADED_PRESET = """
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      asm volatile("ld.volatile.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(s[i]), "=f"(s[i + 1]), "=f"(s[i + 2]), "=f"(s[i + 3]) : "r"(base + 163840 + (threadIdx.x & 15) * 16 + i * 64));
    }"""
IN_ORDER = """
#pragma unroll
    for (int i = 0; i < 32; i++) {
      s[i] = ex2(ffma2(s[i], scale, i / 2 % 2 ? -softmax.max[1] * scale : -softmax.max[0] * scale));
      if (i % 2) softmax.sum[i / 2 % 2] = fadd2(softmax.sum[i / 2 % 2], fadd2(s[i - 1], s[i]));
    }"""
CUBIC = """
    if (small.cover(s, small.bound(SoftCap::kCubic.most * small.reach))) {
      softmax.weigh_small<false>(s, 0, 32, scale, small);
    } else {
      raised = softmax.raise(s, scale, slack, factor);
      softmax.weigh(s, scale, false);
    }"""
SOFTMAXES = {
    "plain": {},
    "no sums": {"WEIGH": NO_SUMS},
    "no maxima": {"SHAPE": "softmax.max[0] = softmax.max[1] = 10.f;"},
    "sums by products": {"WEIGH": NO_SUMS, "BODY": SUM_BY_PRODUCTS},
    "sums by mma": {"WEIGH": NO_SUMS, "AFTER": "for (int k = 0; k < 4; k++) add_row_sums(ones, p[k]);"},
    "in order": {"WEIGH": IN_ORDER},
    "line preset": {"PRESET": PRESET, "BODY": PRESET_BODY},
    "line preset by loads": {"PRESET": LOADED_PRESET, "BODY": PRESET_BODY},
    "line by a product": {"BODY": BODIES["q shared"].replace("key, 8", "key, 9")},
    "line of two rows": {"WEIGH": LINE},
    "cap, cubic": {"SHAPE": CUBIC, "WEIGH": ""},
}
BESIDE_BODIES = {
    "64 columns a shared": ("products<64, true, false>(s, p, query, key, 8, 1);products<64, true, false>(s, p, query, key, 8, 1);", 512),
    "64 columns a registers": ("products<64, false, false>(s, p, query, key, 8, 1);products<64, false, false>(s, p, query, key, 8, 1);", 512),
    "128 columns a shared": ("products<128, true, true>(o, p, query, value, 4, 1);products<128, true, true>(o, p, query, value, 4, 1);", 512),
    "128 columns a registers": ("products<128, false, true>(o, p, query, value, 4, 1);products<128, false, true>(o, p, query, value, 4, 1);", 512),
    "none": ("o[0] += a; asm volatile(\"nanosleep.u32 200;\");", 0),
}


def text_of(body, kind, count, ilp=32, beside=False, softmax=None, copies=False, marks=False):
    places = {"PRESET": "", "SHAPE": RAISE, "WEIGH": WEIGH, "AFTER": "", "BODY": body, "INSTRUCTION": KINDS[kind][0], "COUNT": count, "ILP": ilp,
              "BESIDE": int(beside), "COPIES": int(copies), "MARKS": int(marks), "SOFTMAX": int(softmax is not None), **(softmax or {})}
    text = TEXT
    for name, value in places.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def count_of(cubin, opcode):
    """How often an instruction is in the machine code, in all, and the instructions in all."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(["cuobjdump", "-sass", file.name], capture_output=True, text=True).stdout
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_.]+)", text)
    return sum(name.split(".")[0].startswith(opcode) for name in names), len(names)


# The prefill kernel of the working tree, in which each block leaves its cycles and nanoseconds, and with instructions added to a step.
EDITS = [
    ("attention/prefill_hopper.cuh", "template <typename Shape>\nstruct HopperPrefill {", """
extern "C" {
__device__ u64 lab_clocks[2 * 256];
}
static __device__ __forceinline__ void lab_clock(int sign) {
  if (threadIdx.x != 128) return;
  u64 cycles, ns;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(cycles) :: "memory");
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns) :: "memory");
  lab_clocks[2 * blockIdx.x] = sign > 0 ? cycles - lab_clocks[2 * blockIdx.x] : cycles;
  lab_clocks[2 * blockIdx.x + 1] = sign > 0 ? ns - lab_clocks[2 * blockIdx.x + 1] : ns;
}
template <typename Shape>
struct HopperPrefill {"""),
    ("attention/prefill_hopper.cuh", "    launch_dependents();\n", "    launch_dependents();\n    lab_clock(-1);\n"),
    ("attention/prefill_hopper.cuh", "work<PrefillConsumer<Shape>>(params, base);\n", "work<PrefillConsumer<Shape>>(params, base);\n      lab_clock(1);\n"),
    ("attention/prefill_ring.cuh", """      wait();
      if (elect_one()) {
        mbarrier_expect(full(), kBytes);
        copy_tensor(""", """      if (LAB_STILL < 2) wait();
      if (LAB_STILL < 2 && elect_one()) {
        mbarrier_expect(full(), LAB_STILL ? 0 : kBytes);
        if (!LAB_STILL) copy_tensor("""),
    ("attention/prefill_consumer.cuh", "    mbarrier_wait(barrier, phase);\n    if (Layout::kGathers", "    if (LAB_STILL < 2) mbarrier_wait(barrier, phase);\n    if (Layout::kGathers"),
    ("attention/prefill_consumer.cuh", "    release(Layout::key_done(base, keys.slot()));\n", "    if (LAB_STILL < 2) release(Layout::key_done(base, keys.slot()));\n"),
    ("attention/prefill_consumer.cuh", "    release(Layout::value_done(base, values.slot()));\n", "    if (LAB_STILL < 2) release(Layout::value_done(base, values.slot()));\n"),
    ("attention/prefill_consumer.cuh", "  template <typename TileLine>\n  __device__ __forceinline__ void step(", """#if LAB_MARKS
  u32 last = 0, spent[8] = {};
  __device__ __forceinline__ void mark(int i) {
    u32 time;
    asm volatile("mov.u32 %0, %%clock;" : "=r"(time) :: "memory");
    spent[i] += time - last;
    last = time;
  }
  __device__ __forceinline__ void mark_start() {
    mark(0);
    spent[0] = 0;
  }
  __device__ __forceinline__ void mark_end() {
    for (int k = 0; k < kValueSteps; k++) for (int i = 0; i < 4; i++) asm volatile("" : "+r"(p[k][i]));
    mark(5);
  }
#else
  __device__ __forceinline__ void mark(int) {}
  __device__ __forceinline__ void mark_start() {}
  __device__ __forceinline__ void mark_end() {}
#endif
  template <typename TileLine>
  __device__ __forceinline__ void step("""),
    ("attention/prefill_consumer.cuh", "template <typename Shape>\nstruct PrefillConsumer {", 'extern "C" {\n__device__ u32 lab_times[8 * 3 * 256];\n}\ntemplate <typename Shape>\nstruct PrefillConsumer {'),
    ("attention/prefill_consumer.cuh", "end_turn();  // consumer 0 has the first turn\n", "end_turn();  // consumer 0 has the first turn\n    mark_start();\n"),
    ("attention/prefill_consumer.cuh", "\n    wait_for_block(Layout::key_ready(base, keys.slot()), keys.phase());\n    begin_turn();\n", "\n    wait_for_block(Layout::key_ready(base, keys.slot()), keys.phase());\n    begin_turn();\n    mark(0);\n"),
    ("attention/prefill_consumer.cuh", "    end_turn();\n    const auto made = early_hooks(number, n);\n    wgmma_wait<1>();\n    keep(s);\n", "    end_turn();\n    mark(1);\n    const auto made = early_hooks(number, n);\n    wgmma_wait<1>();\n    keep(s);\n    mark(2);\n"),
    ("attention/prefill_consumer.cuh", "    if (raised) rescale(factor);\n", "    if (raised) rescale(factor);\n    mark_end();\n"),
    ("attention/prefill_consumer.cuh", "    if (lane == 0) bulk_wait();\n", """    if (lane == 0) bulk_wait();
#if LAB_MARKS
    if (thread == 0) for (int i = 0; i < 8; i++) lab_times[(blockIdx.x * 3 + group) * 8 + i] = spent[i];
#endif
"""),
    ("attention/prefill_consumer.cuh", "    float2 factor;\n    bool raised = false;\n", """    const float one = __int_as_float(0x3f800000 + zeros[0]);
#if LAB_EXTRA == 1
    for (int i = 0; i < kBlockTokens / 2; i++) asm volatile("mul.f32 %0, %0, %1;" : "+f"(s[i]) : "f"(one));
#elif LAB_EXTRA == 2
    for (int i = 0; i < kBlockTokens / 2; i++) asm volatile("xor.b32 %0, %0, %1;" : "+f"(s[i]) : "r"(zeros[0]));
#endif
    float2 factor;
    bool raised = false;
"""),
    ("attention/prefill_consumer.cuh", """    wgmma_wait<0>();
    keep(o);
    release_values();
    round_probabilities();
    if (raised)""", """#if LAB_EXTRA == 3
    for (int i = 0; i < kBlockTokens / 2; i++) asm volatile("mul.f32 %0, %0, %1;" : "+f"(idle_registers[i % 4]) : "f"(one));
#endif
    mark(3);
    wgmma_wait<0>();
    keep(o);
    mark(4);
    release_values();
#if LAB_EXTRA == 4
    for (int i = 0; i < kBlockTokens / 2; i++) asm volatile("mul.f32 %0, %0, %1;" : "+f"(s[i]) : "f"(one));
#elif LAB_EXTRA == 5
    for (int i = 0; i < kBlockTokens / 2; i++) asm volatile("mul.f32 %0, %0, %1;" : "+f"(idle_registers[i % 4]) : "f"(one));
#endif
    round_probabilities();
    if (raised)"""),
    ("attention/prefill_consumer.cuh", "  PrefillSoftmax softmax;\n", "  PrefillSoftmax softmax;\n  float idle_registers[4] = {};\n"),
    ("attention/prefill_consumer.cuh", "    if (lane == 0) bulk_wait();\n#if", "    if (lane == 0) bulk_wait();\n    if (LAB_EXTRA == 3 || LAB_EXTRA == 5) params.lse[0] += (idle_registers[0] + idle_registers[1] + idle_registers[2] + idle_registers[3]) * 0.f;\n#if"),
]


def edited(folder):
    """A copy of a folder of headers with the edits."""
    target = os.path.join(tempfile.mkdtemp(), "kernels")
    shutil.copytree(folder, target)
    for name, old, new in EDITS:
        path = os.path.join(target, name)
        with open(path) as file:
            text = file.read()
        if text.count(old) != 1:
            raise ValueError(f"{name} has {text.count(old)} places like '{old}', expected 1")
        with open(path, "w") as file:
            file.write(text.replace(old, new))
    return target


class Meter:
    """The board's energy counter; it moves a few times in a tenth of a second."""

    def __init__(self):
        self.nvml, self.board = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self.nvml.nvmlInit_v2()
        if self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.board)):
            raise RuntimeError("NVML shows no device 0")

    def joules(self):
        energy = ctypes.c_ulonglong()
        if self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.board, ctypes.byref(energy)):
            raise RuntimeError("NVML has no energy counter here")
        return energy.value / 1e3

    def at_the_limit(self, work, seconds):
        """work() enqueues some milliseconds and returns how many launches these are. Microseconds and millijoules of a launch, and watts."""
        def go(until):
            launches = 0
            while time.perf_counter() < until:
                launches += work()
                torch.cuda.synchronize()
            return launches
        go(time.perf_counter() + seconds / 3)
        before, start = self.joules(), time.perf_counter()
        launches = go(start + seconds)
        taken, energy = time.perf_counter() - start, self.joules() - before
        return taken / launches * 1e6, energy / launches * 1e3, energy / taken


class Bench:
    """A kernel of TEXT on every multiprocessor."""

    def __init__(self, kernel):
        self.kernel, self.blocks = kernel, torch.cuda.get_device_properties(0).multi_processor_count
        self.data = torch.randn(1 << 20, device="cuda").to(torch.bfloat16)
        self.results = torch.zeros(self.blocks * 3, 7, dtype=torch.int64, device="cuda")

    def launch(self, rounds):
        memory = struct.pack("<qiffIiffiq", self.results.data_ptr(), rounds, 0.984375, 0.015625, 0x3C003C00, 0, 0.1275, 0.00295, 0, self.data.data_ptr())
        buffer = gpu.Buffer(64)
        ctypes.memmove(buffer.address, memory, len(memory))
        self.kernel.launch(buffer.address, self.blocks)

    def measure(self, rounds, times=3):
        """Medians over blocks: cycles of a round, instructions that a warp of the third warpgroup issued in it, and GHz."""
        found = []
        for _ in range(times):
            self.launch(rounds)
            torch.cuda.synchronize()
            cycles, ns, issued = self.results.view(-1, 3, 7)[:, :, :3].double().unbind(2)
            longest = cycles[:, :2].max(1).values
            found.append((longest.median().item() / rounds, issued[:, 2].median().item() / rounds, (cycles[:, 0] / ns[:, 0]).median().item()))
        return [statistics.median(x) for x in zip(*found)]


def build(texts, options):
    """{key: (text, opcode, at least so often)} -> {key: Bench}."""
    kernels = gpu.compile_all({key: (text, options.kernels, "sm_90a", (), "bench") for key, (text, _, _) in texts.items()})
    for key, kernel in kernels.items():
        if problems := gpu.complaints(kernel.log):
            print("  compiler:", key, problems)
    if options.sass:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            counts = dict(zip(texts, pool.map(lambda key: count_of(kernels[key].cubin, texts[key][1])[0], texts)))
        for key, (_, opcode, least) in texts.items():
            if counts[key] < least:
                print(f"  {key}: {counts[key]} {opcode} in the machine code, expected {least} or more")
    return {key: Bench(kernel) for key, kernel in kernels.items()}


def run_turns(options, result):
    counts = list(map(int, options.counts.split(",")))
    texts = {("q shared", "", 0): (text_of(BODIES["q shared"], "fmul", 0), "HGMMA", 12),
             ("q registers", "", 0): (text_of(BODIES["q registers"], "fmul", 0), "HGMMA", 12)}
    for kind in options.kinds.split(","):
        for count in counts:
            texts["q shared", kind, count] = (text_of(BODIES["q shared"], kind, count), KINDS[kind][1], count)
    for count in counts:
        texts["q registers", "fmul", count] = (text_of(BODIES["q registers"], "fmul", count), "FMUL", count)
    benches = build(texts, options)
    for body in ("q shared", "q registers"):
        base = benches[body, "", 0].measure(300)
        print(f"turns, {body}: nothing between {base[0]:.0f} cycles of 1536, {base[2]:.2f} GHz")
        result["turns"].append({"products": body, "instruction": "", "count": 0, "cycles": round(base[0], 1)})
    for body, kind in sorted({key[:2] for key in texts if key[1]}, key=str):
        row = []
        for count in counts:
            cycles, _, _ = benches[body, kind, count].measure(300)
            row.append(f"{count}: {cycles:5.0f}")
            result["turns"].append({"products": body, "instruction": kind, "count": count, "cycles": round(cycles, 1)})
        print(f"turns, {body}, {kind:15s} {'  '.join(row)}", flush=True)


def run_softmax(options, result):
    texts = {}
    for copies in (True,) if options.quick else (False, True):
        for kind in options.kinds.split(","):
            for count in map(int, options.counts.split(",")):
                texts["plain", copies, kind, count] = (text_of(BODIES["q shared"], kind, count, softmax={}, copies=copies), KINDS[kind][1], count)
        for name, how in SOFTMAXES.items():
            texts[name, copies, "", 0] = (text_of(BODIES["q shared"], "fmul", 0, softmax=how, copies=copies), "HGMMA", 12)
    if options.marks:
        texts = {(name, copies, "", 0): (text_of(BODIES["q shared"], "fmul", 0, softmax=how, copies=copies, marks=True), "HGMMA", 12)
                 for copies in (True, False) for name, how in SOFTMAXES.items() if name in ("plain", "no maxima", "line preset", "line by a product")}
    texts["plain, q in registers", True, "", 0] = (text_of(BODIES["q registers"], "fmul", 0, softmax={}, copies=True), "HGMMA", 12)
    benches = build(texts, options)
    for (name, copies, kind, count), bench in reversed(benches.items()):
        cycles, _, _ = bench.measure(300, 1 if options.marks else 3)
        if options.marks:
            spent = bench.results.view(torch.int32)[:, 8:].float().median(0).values / 300
            print("   turn awaited %.0f, issued %.0f, Q K awaited %.0f, maxima %.0f, P V awaited %.0f, weights %.0f" % tuple(spent.tolist()))
        result["softmax"].append({"softmax": name, "copies": copies, "instruction": kind, "count": count, "cycles": round(cycles, 1)})
        print(f"softmax, {'copies' if copies else '':6s} {name:20s} {kind:16s} {count:3d} {cycles:6.0f}", flush=True)


def run_beside(options, result):
    texts = {}
    bodies = options.bodies.split(",")
    for body in bodies:
        for kind in options.kinds.split(","):
            for ilp in options.ilp:
                if body == "none" and ilp != options.ilp[-1]:
                    continue
                texts[body, kind, ilp] = (text_of(BESIDE_BODIES[body][0], kind, 256, ilp, True), KINDS[kind][1], 256)
    benches = build(texts, options)
    for body in bodies:
        for kind in options.kinds.split(","):
            row = []
            for ilp in options.ilp:
                if (body, kind, ilp) not in benches:
                    continue
                cycles, issued, _ = benches[body, kind, ilp].measure(400)
                need = 2 * BESIDE_BODIES[body][1]
                row.append(f"{issued / cycles:.3f} a cycle {cycles:5.0f} ({cycles / max(need, 1):.3f})")
                result["beside"].append({"products": body, "instruction": kind, "independent": ilp, "perCycle": round(issued / cycles, 4),
                                         "cycles": round(cycles, 1), "cyclesNeeded": need})
            print(f"beside, {body:24s} {kind:15s} {'   '.join(row)}", flush=True)


def run_energy(options, result):
    meter = Meter()
    texts = {(body, "fmul", count): (text_of(BODIES[body], "fmul", count), "FMUL", count) for body in BODIES for count in (0, 128)}
    for kind in options.kinds.split(","):
        texts["q shared", kind, 128] = (text_of(BODIES["q shared"], kind, 128), KINDS[kind][1], 128)
    benches = build(texts, options)
    rounds = 3000
    for key, bench in benches.items():
        def work(bench=bench):
            bench.launch(rounds)
            return 1
        us, mj, watts = meter.at_the_limit(work, options.seconds)
        cycles, _, ghz = bench.measure(rounds, 1)
        print(f"energy, {key[0]:12s} {key[1]:15s} {key[2]:4d}: {us * 1e3 / rounds:6.1f} ns a round, {mj / rounds * 1e3:6.1f} uJ, {watts:.0f} W, {cycles:.0f} cycles, {ghz:.3f} GHz", flush=True)
        result["energy"].append({"products": key[0], "instruction": key[1], "count": key[2], "ns": round(us * 1e3 / rounds, 2),
                                 "microjoules": round(mj / rounds * 1e3, 2), "watts": round(watts), "cycles": round(cycles, 1), "ghz": round(ghz, 4)})


# The variant, the instructions that are added to a step, and whether keys and values are not copied (1), nor waited for (2).
PREFILLS = {
    "plain": ("none", 0, 0), "alibi": ("alibi", 0, 0), "cap": ("cap", 0, 0),
    "scores multiplied": ("none", 1, 0), "scores xored": ("none", 2, 0), "others multiplied early": ("none", 3, 0),
    "weights multiplied": ("none", 4, 0), "others multiplied late": ("none", 5, 0),
    "plain; no copies": ("none", 0, 1), "alibi; no copies": ("alibi", 0, 1), "scores multiplied; no copies": ("none", 1, 1),
    "plain; no waits": ("none", 0, 2), "alibi; no waits": ("alibi", 0, 2), "scores multiplied; no waits": ("none", 1, 2),
    "others multiplied early; no waits": ("none", 3, 2), "others multiplied late; no waits": ("none", 5, 2),
}


def run_prefill(options, result):
    import prefill
    import variants
    meter = Meter()
    folders = {name: edited(folder) for name, (folder, _) in prefill.versions_of(options.version).items()}
    config = prefill.Config()
    cases = {(version, name): PREFILLS[name] for name in options.names.split(",") for version in folders}
    jobs = {}
    for key, (variant, extra, still) in cases.items():
        unit = variants.with_variant(config, variant).unit("lab_prefill")
        jobs[key] = (unit, folders[key[0]], "sm_90a", (f"LAB_EXTRA={extra}", f"LAB_STILL={still}", f"LAB_MARKS={int(options.marks)}"), "lab_prefill")
    kernels = gpu.compile_all(jobs)
    data = prefill.Data(config, [4096] * 4, [4096] * 4, sets=2)
    clocks = {}
    for key, kernel in kernels.items():
        module, address, size = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t()
        gpu.check(gpu.driver.cuFuncGetModule(ctypes.byref(module), kernel.function), "cuFuncGetModule")
        gpu.check(gpu.driver.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(size), module, b"lab_clocks"), "lab_clocks")
        clocks[key] = address
        if problems := gpu.complaints(kernel.log):
            print("  compiler:", *key, problems)

    def read(key, blocks=torch.cuda.get_device_properties(0).multi_processor_count):
        words = (ctypes.c_ulonglong * (2 * blocks))()
        gpu.check(gpu.driver.cuMemcpyDtoH_v2(words, clocks[key], ctypes.c_size_t(ctypes.sizeof(words))), "lab_clocks")
        return max(words[0::2]), max(words[1::2])

    for causal in (True, False) if options.seconds else (False,):
        kept, launches = [], {}
        for key, (variant, _, _) in cases.items():
            arguments, tensors = variants.VARIANTS[variant].arguments(data, causal)
            kept.append(tensors)
            launches[key] = [prefill.Launch(kernels[key], data, i, causal, arguments=arguments) for i in range(2)]
        rested = {key: [] for key in cases}
        for _ in range(15):
            for key in cases:
                launches[key][0]()
                torch.cuda.synchronize()
                rested[key].append(read(key))
                time.sleep(0.004)
        graphs = {key: gpu.capture(x * 4) for key, x in launches.items()} if causal and options.seconds else {}
        first = None
        for key in cases:
            cycles, ns = (statistics.median(x) for x in zip(*rested[key]))
            row = {"version": key[0], "kernel": key[1], "causal": causal, "restedCycles": cycles, "restedUs": round(ns / 1e3, 1)}
            if key in graphs:
                def work(key=key):
                    graphs[key][0].replay()
                    return graphs[key][1]
                us, mj, watts = meter.at_the_limit(work, options.seconds)
                hot_cycles, hot_ns = read(key)
                row |= {"us": round(us, 1), "millijoules": round(mj, 1), "watts": round(watts), "ghz": round(hot_cycles / hot_ns, 3)}
            if options.marks:
                address, size = ctypes.c_void_p(), ctypes.c_size_t()
                module = ctypes.c_void_p()
                gpu.check(gpu.driver.cuFuncGetModule(ctypes.byref(module), kernels[key].function), "cuFuncGetModule")
                gpu.check(gpu.driver.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(size), module, b"lab_times"), "lab_times")
                words = (ctypes.c_uint * (8 * 3 * 132))()
                gpu.check(gpu.driver.cuMemcpyDtoH_v2(words, address, ctypes.c_size_t(ctypes.sizeof(words))), "lab_times")
                shares = [statistics.median(words[i::8]) / cycles for i in range(6)]
                print("   of the time: turn awaited %.3f, issued %.3f, Q K awaited %.3f, maxima %.3f, P V awaited %.3f, weights %.3f" % tuple(shares), flush=True)
            first = first or row
            ratio = lambda what: f"{row[what]:9.1f} ({row[what] / first[what]:.3f})"
            print(f"prefill, {'causal' if causal else 'full':6s} {key[0]:8s} {key[1]:33s} rested {ratio('restedCycles')} cycles {ratio('restedUs')} us"
                  + (f"; hot {ratio('us')} us {ratio('millijoules')} mJ {row['watts']} W {row['ghz']} GHz" if "us" in row else ""), flush=True)
            result["prefill"].append(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["turns", "softmax", "beside", "energy", "prefill"])
    parser.add_argument("--kernels", default=gpu.KERNELS)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--counts", default="64,128,192,256,320,384,512")
    parser.add_argument("--ilp", type=lambda text: list(map(int, text.split(","))), default=[1, 2, 32], help="beside: independent instructions")
    parser.add_argument("--bodies", default=",".join(BESIDE_BODIES), help="beside: products")
    parser.add_argument("--version", action="append", metavar="NAME=FOLDER", help="prefill: of the kernels")
    parser.add_argument("--names", default=",".join(PREFILLS), help="prefill: of the kernels' cases")
    parser.add_argument("--seconds", type=float, default=0.6, help="of a measurement of energy")
    parser.add_argument("--marks", action="store_true", help="prefill: where a consumer's time goes")
    parser.add_argument("--quick", action="store_true", help="softmax: with copies only")
    parser.add_argument("--sass", action="store_true", help="count instructions in the machine code, by cuobjdump")
    parser.add_argument("--out", help="a results file to write")
    parser.add_argument("--commit", default="", help="what --out says of the kernels")
    options = parser.parse_args()
    result = {**gpu.device(), "date": datetime.date.today().isoformat(), "commit": options.commit, "turns": [], "softmax": [], "beside": [], "energy": [], "prefill": []}
    for what in options.what:
        start = time.perf_counter()
        {"turns": run_turns, "softmax": run_softmax, "beside": run_beside, "energy": run_energy, "prefill": run_prefill}[what](options, result)
        print(f"  {what}: {time.perf_counter() - start:.1f} s", flush=True)
        if options.out:
            with open(options.out, "w") as file:
                json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
