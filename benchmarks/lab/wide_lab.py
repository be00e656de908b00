#!/usr/bin/env python3
"""Times decode's own kernel beside the one for many columns: wide_lab.py [KERNELS_FOLDER].

Every case: a cache of several layers in rotation, scattered pages of 16 tokens, NHD, bf16; graphs of launches that overlap, replayed in
turn. Sequences are whole or in equal parts; the fastest counts. Fractions are of a kernel that only reads; in brackets with query and
output counted too.
"""
import concurrent.futures
import ctypes
import math
import os
import random
import struct
import sys

import torch

import cuda

PAGE, POOL_BYTES = 16, 4 << 30
HERE = os.path.dirname(os.path.abspath(__file__))
CASES = [  # heads, kvHeads, batch, tokens, query tokens, headDim
    (32, 1, 1024, 2048, 1, 128), (32, 1, 256, 8192, 1, 128), (71, 1, 1024, 2048, 1, 128), (71, 1, 256, 8192, 1, 128), (128, 4, 64, 8192, 1, 128),
    (32, 8, 128, 2048, 8, 128), (16, 1, 1024, 2048, 1, 128), (32, 1, 1024, 4096, 1, 64), (32, 1, 512, 2048, 1, 256),
    (128, 4, 32, 2048, 1, 128), (128, 4, 16, 2048, 1, 128), (48, 1, 48, 2048, 1, 128), (64, 1, 32, 2048, 1, 128), (71, 1, 16, 2048, 1, 128), (71, 1, 8, 2048, 1, 128),
]


def unit(family, heads, kv_heads, dim, tokens):
    own = family == "Decode"
    return f"""#include "attention/{'decode' if own else 'prefill'}.cuh"
struct Config {{
  using Element = flashinfer::BFloat16;
  using KvElement = flashinfer::BFloat16;
  using Variant = flashinfer::NoVariant;
  static constexpr int kHeads = {heads}, kKvHeads = {kv_heads}, kHeadDim = {dim}, kValueDim = {dim}, kPageSize = {PAGE}, kQueryTokens = {tokens};
  static constexpr bool kTeamUnits = false, kWideUnits = false, kHeadsFirst = false, kChecked = false;
}};
using Kernel = flashinfer::{family}<Config>;
extern "C" __constant__ flashinfer::KernelInfo info = Kernel::info();
extern "C" __global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    run(const __grid_constant__ flashinfer::{family}Params params) {{
  Kernel::run(params);
}}"""


class Case:
    def __init__(self, pool, heads, kv_heads, batch, length, tokens, dim):
        self.heads, self.kv_heads, self.batch, self.length, self.tokens, self.dim = heads, kv_heads, batch, length, tokens, dim
        self.pages_each = length // PAGE
        self.pages = batch * self.pages_each
        self.page_elements = PAGE * kv_heads * dim
        self.bytes = 4 * batch * length * kv_heads * dim
        self.io_bytes = 4 * batch * tokens * heads * dim
        self.layers = max(2, min(64, POOL_BYTES // self.bytes))
        self.cache = pool[: self.layers * self.bytes // 2].view(self.layers, 2, self.pages, PAGE, kv_heads, dim)
        order = list(range(self.pages))
        random.Random(1).shuffle(order)
        self.table = torch.tensor(order, dtype=torch.int32, device="cuda")
        self.query = torch.randn(batch * tokens, heads, dim, device="cuda").bfloat16()
        self.output = torch.empty_like(self.query)

    def error(self):
        """Of layer 0, over a few sequences, against PyTorch in single precision."""
        worst = 0
        for i in (0, self.batch // 2, self.batch - 1):
            pages = self.table[i * self.pages_each : (i + 1) * self.pages_each].long()
            keys, values = (self.cache[0, x, pages].reshape(-1, self.kv_heads, self.dim).float().transpose(0, 1) for x in (0, 1))
            rows, group = slice(i * self.tokens, (i + 1) * self.tokens), self.heads // self.kv_heads
            query = self.query[rows].float().view(self.tokens, self.kv_heads, group, self.dim).permute(1, 0, 2, 3).reshape(self.kv_heads, -1, self.dim)
            scores = query @ keys.transpose(1, 2) / math.sqrt(self.dim)
            token = torch.arange(self.tokens, device="cuda").repeat_interleave(group)[:, None]
            scores = scores.masked_fill(torch.arange(self.length, device="cuda") > self.length - self.tokens + token, float("-inf"))
            wanted = (torch.softmax(scores, -1) @ values).view(self.kv_heads, self.tokens, group, self.dim).permute(1, 0, 2, 3).reshape(self.tokens, self.heads, self.dim)
            worst = max(worst, ((self.output[rows].float() - wanted).norm() / wanted.norm()).item())
        return worst


class Launch:
    def __init__(self, case, kernel, wide, parts):
        self.case, self.kernel, self.wide = case, kernel, wide
        units = case.heads // kernel.pack if wide else kernel.units_per_item
        blocks = case.length // PAGE
        edges = [blocks * p // parts * PAGE for p in range(parts + 1)]
        seen = case.length - case.tokens + 1
        items = [(s * case.tokens, edges[p], edges[p + 1], s * case.pages_each, s * parts, p | parts << 16, case.tokens, seen) for s in range(case.batch) for p in range(parts)]
        items.sort(key=lambda item: item[1] - item[2])
        raw = struct.pack("<ifii", len(items), math.log2(math.e) / math.sqrt(case.dim), units, 1) + b"".join(struct.pack("<8i", *item) for item in items)
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.list = torch.frombuffer(bytearray(raw + bytes(32 * (2 * sms + 8))), dtype=torch.int32).cuda()  # blocks look at an item each, there or not
        states = case.batch * parts * units
        self.partial = torch.empty(states * kernel.columns * (case.dim + 2), dtype=torch.float32, device="cuda")
        self.counters = torch.zeros(4 + states, dtype=torch.int32, device="cuda")
        self.blocks = min(sms * kernel.blocks_per_sm, len(items) * units)
        self.params = [self.arguments(layer, states) for layer in range(case.layers)]

    def arguments(self, layer, states):
        c, k = self.case, self.kernel
        token, page, all_pages, key_page = c.kv_heads * c.dim, c.page_elements, 2 * c.layers * c.pages, 2 * layer * c.pages
        key = c.cache.data_ptr() + 2 * key_page * page
        partial = self.partial.data_ptr()
        raw = struct.pack("<10Q", c.query.data_ptr(), key, key + 2 * c.pages * page, c.output.data_ptr(), 0, c.table.data_ptr(), self.list.data_ptr(),
                          partial, partial + 4 * states * k.columns * c.dim, self.counters.data_ptr() + 16)
        raw += struct.pack("<Q", self.counters.data_ptr()) if self.wide else b""
        raw += struct.pack("<4q", c.heads * c.dim, c.dim, c.heads * c.dim, c.dim)
        if self.wide:
            raw += struct.pack("<8q2i3Q2iQ24x", *[token, c.dim] * 2, page, page, key_page, key_page + c.pages, PAGE // 8, 0, 0, 0, 0, all_pages, 0, 0)
            columns = c.dim // 64
            dims, strides = [64, c.heads, len(c.query), columns], [2 * c.dim, 2 * c.heads * c.dim, 128]
            stores = k.pack & (k.pack - 1) == 0
            rows = [min(k.pack, 64), max(1, 64 // k.pack)] if stores else [k.pack, k.tile_tokens]
            query = cuda.encode_map(torch.bfloat16, c.query.data_ptr(), dims, strides, [64, *rows, 1], 128)
            box = [64, min(k.pack, 16), max(1, 16 // k.pack), 2 if columns == 4 else columns]
            raw += query + (cuda.encode_map(torch.bfloat16, c.output.data_ptr(), dims, strides, box, 128) if stores else query)
            groups = math.gcd(PAGE, k.block_tokens) // 8
            raw += 2 * cuda.encode_map(torch.bfloat16, c.cache.data_ptr(), [64, 8, columns, c.kv_heads, all_pages * PAGE // 8], [2 * token, 128, 2 * c.dim, 16 * token], [64, 8, columns, 1, groups], 128)
        else:
            raw += struct.pack("<5q3Q2iQ", page, token, c.dim, key_page, key_page + c.pages, 0, 0, 0, all_pages, 0, 0)
            strip = min(64, c.dim)
            heads = max(1, c.kv_heads // k.units_per_item)
            raw += cuda.encode_map(torch.bfloat16, c.cache.data_ptr(), [strip, PAGE, c.dim // strip, c.kv_heads, all_pages], [2 * token, 128, 2 * c.dim, 2 * page],
                                   [strip, PAGE, c.dim // strip, heads, 1], 256 if c.dim == 64 and heads == 1 else 128)
        assert len(raw) == k.params, (len(raw), k.params)
        memory = ctypes.create_string_buffer(len(raw) + 64)
        params = (ctypes.c_char * len(raw)).from_buffer(memory, -ctypes.addressof(memory) % 64)
        params[:] = raw
        return params

    def error(self):
        self.case.output.fill_(float("nan"))
        self.kernel.launch(self.params[0], self.blocks, overlaps=False)
        torch.cuda.synchronize()
        return self.case.error()

    def record(self):
        self.launches = max(2, min(400, int(30e9 / self.case.bytes)))  # 10 ms
        self.graph = cuda.record(lambda: [self.kernel.launch(self.params[i % self.case.layers], self.blocks) for i in range(self.launches)])
        self.times = []


def ceiling(pool):
    """GB/s of a kernel that only reads, the benchmark's."""
    folder = os.path.join(HERE, "..", "..", "src", "FlashInfer.Measurement", "bench.cu")
    kernel = cuda.Kernel(cuda.compile_cubin(open(folder).read(), cuda.read_headers(KERNELS)), "fi_bench_read", has_info=False)
    sink = torch.zeros(4, dtype=torch.int32, device="cuda")
    params = ctypes.create_string_buffer(struct.pack("<3Q", pool.data_ptr(), pool.numel() // 8, sink.data_ptr()))
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    times = []
    for blocks in (2, 4, 8, 16):
        graph = cuda.record(lambda: kernel.launch(params, sms * blocks, overlaps=False))
        times.append(sorted(cuda.replay_us(graph) for _ in range(9))[4])
    return 2 * pool.numel() / min(times) / 1e3


if __name__ == "__main__":
    KERNELS = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "..", "kernels")
    headers = cuda.read_headers(KERNELS)
    shapes = {(h, kv, dim, tokens) for h, kv, _, _, tokens, dim in CASES}
    units = [(family, *shape) for shape in sorted(shapes) for family in ("Decode", "Prefill")]
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        cubins = dict(zip(units, threads.map(lambda u: cuda.compile_cubin(unit(*u), headers), units)))
    pool = torch.empty(POOL_BYTES // 2, dtype=torch.bfloat16, device="cuda")
    for chunk in pool.split(1 << 27):
        chunk.normal_()
    roof = ceiling(pool)
    print(f"{torch.cuda.get_device_name()}, ceiling {roof:.0f} GB/s")
    for heads, kv, batch, length, tokens, dim in CASES:
        case = Case(pool, heads, kv, batch, length, tokens, dim)
        launches = []
        for family in ("Decode", "Prefill"):
            kernel = cuda.Kernel(cubins[family, heads, kv, dim, tokens], "run")
            for parts in (1, 2, 4, 8) if batch * kv < 264 else (1,):
                launch = Launch(case, kernel, family == "Prefill", parts)
                launch.wrong = launch.error()
                launch.record()
                launches.append(launch)
        for _ in range(5):
            for launch in launches:
                launch.times.append(cuda.replay_us(launch.graph) / launch.launches)
        for wide in (False, True):
            best = min((sorted(x.times)[2], x.wrong) for x in launches if x.wide == wide)
            fraction, with_io = (n / best[0] / 1e3 / roof for n in (case.bytes, case.bytes + case.io_bytes))
            print(f"{heads}/{kv} d{dim} {batch} x {length} qoLen {tokens} {'wide' if wide else 'own '} {best[0]:8.2f} us {fraction:.3f} ({with_io:.3f}) error {best[1]:.1e}", flush=True)
