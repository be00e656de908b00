#!/usr/bin/env python3
"""Tests and times versions of the decode kernel side by side on a Hopper GPU, without .NET: needs PyTorch and NVRTC.

  decode_lab.py test [VERSION...]                  against a float64 oracle
  decode_lab.py sanitize 0,3,...                   some of its shapes, small enough for compute-sanitizer
  decode_lab.py bench CASES VERSION [VERSION...]   by graph replay, interleaved; CASES are names with commas between
  decode_lab.py sweep CASES VERSION                other plans than the planner's
  decode_lab.py ceilings                           what reading costs where it is scattered

CASES are names of CASES below, with @HND behind them for that layout, and +ordered for pages in order.

A version is NAME=FOLDER, a
folder with kernels as ../../kernels, which is taken when none is given, or NAME=FOLDER:EDITS, where EDITS is a Python file with a list
`edits` of (file, old text, new text) to be replaced first. It may set promotion (bytes) and kv_map (a function), too.
"""
import concurrent.futures
import ctypes
import math
import os
import random
import runpy
import statistics
import struct
import sys

import torch

import cuda
import decode_plan

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"bf16": ("BFloat16", torch.bfloat16), "f16": ("Half", torch.float16), "e4m3": ("Float8E4M3", torch.float8_e4m3fn), "e5m2": ("Float8E5M2", torch.float8_e5m2)}
POOL_BYTES = 4 << 30
GRAPH_BYTES = 30 << 30  # read by a graph: 10 ms, of which its own start and end, 8 to 19 us, are little


class Version:
    def __init__(self, text):
        self.name, _, where = text.partition("=")
        folder, _, edits = where.partition(":")
        options = runpy.run_path(edits) if edits else {}
        self.headers = cuda.read_headers(folder or os.path.join(HERE, "../../kernels"), options.get("edits", ()))
        self.promotion, self.kv_map = options.get("promotion"), options.get("kv_map", kv_map)
        self.cubins, self.kernels = {}, {}

    def kernel(self, case, team=False):
        key = (case.unit_key(), team)
        if key not in self.kernels:
            if key not in self.cubins:
                self.compile([case])
            self.kernels[key] = cuda.Kernel(self.cubins[key], "decode")
        return self.kernels[key]

    def compile(self, cases):
        """Compiles the kernels of cases, on all cores: NVRTC works while Python waits."""
        units = {(case.unit_key(), team): case.unit(team) for case in cases for team in (False, True)}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            self.cubins |= zip(units, pool.map(lambda unit: cuda.compile_cubin(unit, self.headers), units.values()))


class Case:
    def __init__(self, name, lengths, heads=32, kv_heads=8, dim=128, page=16, dtype="bf16", kv=None, layout="NHD", query_tokens=1, wide=False):
        self.ordered = name.endswith("+ordered")
        self.name, self.lengths, self.heads, self.kv_heads, self.dim, self.page = name, lengths, heads, kv_heads, dim, page
        self.dtype, self.kv, self.layout, self.query_tokens, self.wide = dtype, kv or dtype, layout, query_tokens, wide
        self.kv_bytes = sum(lengths) * kv_heads * dim * 2 * self.kv_dtype.itemsize
        self.layer_pages = sum(-(-n // page) for n in lengths) + 1

    kv_dtype = property(lambda self: DTYPES[self.kv][1])

    def unit_key(self):
        return (self.heads, self.kv_heads, self.dim, self.page, self.dtype, self.kv, self.layout, self.query_tokens, self.wide)

    def unit(self, team):
        return f"""#include "attention/decode.cuh"
struct Config {{
  using Element = flashinfer::{DTYPES[self.dtype][0]};
  using KvElement = flashinfer::{DTYPES[self.kv][0]};
  using Variant = flashinfer::NoVariant;
  static constexpr int kHeads = {self.heads}, kKvHeads = {self.kv_heads}, kHeadDim = {self.dim}, kPageSize = {self.page};
  static constexpr int kQueryTokens = {self.query_tokens};
  static constexpr bool kTeamUnits = {str(team).lower()}, kWideUnits = {str(self.wide).lower()}, kHeadsFirst = {str(self.layout == "HND").lower()}, kChecked = false;
}};
using Kernel = flashinfer::Decode<Config>;
extern "C" __constant__ flashinfer::KernelInfo info = Kernel::info();
extern "C" __global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    decode(const __grid_constant__ flashinfer::DecodeParams params) {{
  Kernel::run(params);
}}"""


def kv_map(case, heads, cache, pages):
    """Dimensions, strides and box of the tensor map and its promotion, as KvTensorMap.cs: in bytes along the innermost dimension and in strides."""
    row, size, first = case.dim * case.kv_dtype.itemsize, case.kv_dtype.itemsize, case.layout == "HND"
    joined = row if first else heads * row
    strip = next(s for s in (128, 64, 32) if joined % s == 0)
    token, head = (stride * size for stride in cache.strides)
    dims = [strip, case.page, joined // strip, pages * case.kv_heads] if first else [strip, case.page, case.kv_heads * row // strip, pages]
    promotion = 128 if first else 256 if joined == 128 else 64 if joined % 128 else 128
    return dims, [token, strip, head if first else cache.page_bytes], [strip, 16, joined // strip, heads if first else 1], promotion


class Cache:
    """Keys and values of some layers, all pages behind one another; every layer has the same page table, scattered."""

    def __init__(self, case, pool, layers):
        self.case, self.pool, self.layers = case, pool, layers
        self.page_bytes = case.page * case.kv_heads * case.dim * case.kv_dtype.itemsize
        row = case.dim
        self.strides = (row, case.page * row) if case.layout == "HND" else (case.kv_heads * row, row)  # token, head
        order = list(range(case.layer_pages))
        if not case.ordered:
            random.Random(7).shuffle(order)
        self.pages = torch.tensor(order, dtype=torch.int32, device="cuda")

    def address(self, layer, values):
        return self.pool.data_ptr() + (2 * layer + values) * self.case.layer_pages * self.page_bytes

    def map(self, version, kernel):
        size, pages = self.case.kv_dtype.itemsize, 2 * self.layers * self.case.layer_pages
        dims, strides, box, promotion = version.kv_map(self.case, max(1, self.case.kv_heads // kernel.units_per_item), self, pages)
        dims[0], box[0] = dims[0] // size, box[0] // size
        return cuda.encode_map(self.case.kv_dtype, self.pool.data_ptr(), dims, strides, box, version.promotion or promotion)


class Launch:
    """Everything for launches of one version on one cache with one plan."""

    def __init__(self, version, cache, **plan):
        case = self.case = cache.case
        self.version, self.cache = version, cache
        kernel = version.kernel(case)
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        clusters = {n: kernel.max_clusters(n) if kernel.features & 2 else 0 for n in (2, 4, 8)}
        heads = max(1, case.kv_heads // kernel.units_per_item)
        merge_cost, part_cost = 0.8 * kernel.columns / heads / case.kv_dtype.itemsize, 32 * 512 / (2 * heads * case.dim * case.kv_dtype.itemsize)
        limits = decode_plan.Limits(sms, kernel.units_per_item, kernel.teams, clusters, merge_cost, part_cost)
        self.plan = decode_plan.make(case.lengths, limits, case.page, case.query_tokens, **plan)
        self.kernel = version.kernel(case, team=True) if self.plan.team else kernel
        units = self.plan.count * kernel.units_per_item
        resident = clusters[self.plan.cluster] if self.plan.cluster > 1 else sms
        self.blocks = max(1, min(-(-units // self.kernel.crews), resident)) * self.plan.cluster
        header = struct.pack("<ifii", self.plan.count, math.log2(math.e) / math.sqrt(case.dim), 0, case.query_tokens)
        room = bytes(32 * sms * kernel.teams)  # the kernel reads the first item before it knows the count
        self.list = torch.frombuffer(bytearray(header + self.plan.items + room), dtype=torch.uint8).cuda()
        rows = len(case.lengths) * case.query_tokens
        element = DTYPES[case.dtype][1]
        self.query = torch.randn(rows, case.heads, case.dim, device="cuda").to(element)
        self.output = torch.full((rows, case.heads, case.dim), float("nan"), device="cuda").to(element)
        self.lse = torch.full((rows, case.heads), float("nan"), device="cuda")
        slots = max(1, self.plan.slots) * kernel.units_per_item
        self.partial = torch.empty(slots * kernel.columns * case.dim, device="cuda")
        self.state = torch.empty(slots * kernel.columns * 2, device="cuda")
        self.counters = torch.zeros(slots, dtype=torch.int32, device="cuda")
        quantised = case.kv_dtype.itemsize == 1
        self.key_scales = torch.rand(case.kv_heads, device="cuda") + 0.5 if quantised else None
        self.value_scales = torch.rand(case.kv_heads, device="cuda") + 0.5 if quantised else None
        self.kv_map = cache.map(version, kernel) if kernel.features & 1 else bytes(128)
        self.params = [self.make_params(layer) for layer in range(cache.layers)]

    def make_params(self, layer):
        case, cache = self.case, self.cache
        address = lambda tensor: 0 if tensor is None else tensor.data_ptr()
        token, head = cache.strides
        words = [address(self.query), cache.address(layer, 0), cache.address(layer, 1), address(self.output), address(self.lse), address(cache.pages)]
        words += [address(self.list), address(self.partial), address(self.state), address(self.counters)]
        words += [case.heads * case.dim, case.dim] * 2 + [case.page * case.kv_heads * case.dim, token, head]
        words += [2 * layer * case.layer_pages, (2 * layer + 1) * case.layer_pages, address(self.key_scales), address(self.value_scales), 0, 0, 0]
        raw = struct.pack("<24q", *words) + self.kv_map
        return ctypes.create_string_buffer(raw, len(raw))

    def run(self, layer=0, overlaps=True):
        self.kernel.launch(self.params[layer], self.blocks, overlaps, self.plan.cluster)

    def record(self, passes=None):
        """A graph of so many passes over the layers, or of as many as take about 10 ms."""
        passes = passes or max(1, GRAPH_BYTES // (self.cache.layers * max(self.case.kv_bytes, 1 << 24)))
        self.launches = passes * self.cache.layers
        self.run()
        return cuda.record(lambda: [self.run(i % self.cache.layers) for i in range(self.launches)])


# --- correctness ------------------------------------------------------------------------------------------------------

TEST_LENGTHS = [1, 15, 16, 17, 31, 33, 0, 63, 64, 65, 127, 128, 129, 255, 257, 500, 1000, 3001]


def test_case(version, case, seed=0, **plan):
    """Worst errors of output (of a row's largest value) and LSE; NaN where no token is."""
    torch.manual_seed(seed)
    shape = (case.layer_pages, case.kv_heads, case.page, case.dim) if case.layout == "HND" else (case.layer_pages, case.page, case.kv_heads, case.dim)
    pool = torch.full((2, *shape), float("nan"), device="cuda").to(case.kv_dtype)
    cache = Cache(case, pool, 1)
    ids, keys, at = cache.pages.long(), [], 0
    for length in case.lengths:
        token = torch.arange(length, device="cuda")
        page, slot = ids[at + token // case.page], token % case.page
        at += -(-length // case.page)
        both = torch.randn(2, length, case.kv_heads, case.dim, device="cuda").to(case.kv_dtype)
        for i in range(2):
            view = pool[i].view(torch.uint8) if case.kv_dtype.itemsize == 1 else pool[i]
            stored = both[i].view(torch.uint8) if case.kv_dtype.itemsize == 1 else both[i]
            if case.layout == "HND":
                view[page, :, slot] = stored
            else:
                view[page, slot] = stored
        keys.append(both)
    launch = Launch(version, cache, **plan)
    launch.run(overlaps=False)
    torch.cuda.synchronize()
    first = launch.output.clone()
    for _ in range(2):
        launch.run()
    torch.cuda.synchronize()
    same = torch.equal(first.view(torch.int16), launch.output.view(torch.int16)) and not launch.counters.any()
    worst, worst_lse, group = 0.0, 0.0, case.heads // case.kv_heads
    for row in range(len(case.lengths) * case.query_tokens):
        sequence, token = divmod(row, case.query_tokens)
        visible = case.lengths[sequence] - case.query_tokens + 1 + token
        got, lse = launch.output[row].double(), launch.lse[row].double()
        if visible <= 0:
            worst = max(worst, 0 if bool((got == 0).all() and torch.isneginf(lse).all()) else math.inf)
            continue
        k, v = (x.double() for x in keys[sequence][:, :visible].float())
        if launch.key_scales is not None:
            k, v = k * launch.key_scales.double()[:, None], v * launch.value_scales.double()[:, None]
        q = launch.query[row].double().view(case.kv_heads, group, case.dim)
        logits = torch.einsum("hgd,lhd->hgl", q, k) / math.sqrt(case.dim)
        expected = torch.einsum("hgl,lhd->hgd", torch.softmax(logits, -1), v).reshape(case.heads, case.dim)
        error = ((got - expected).abs() / (expected.abs().amax(-1, keepdim=True) + 1e-9)).nan_to_num(1e9).max().item()
        lse_error = (lse - torch.logsumexp(logits, -1).reshape(-1) * math.log2(math.e)).abs().nan_to_num(1e9).max().item()
        worst, worst_lse = max(worst, error), max(worst_lse, lse_error)
    return worst, worst_lse, same


def test(versions, shapes, all_lengths):
    bad = count = 0
    for version in versions:
        version.compile([Case("test", [], layout=layout, **shape) for shape in shapes for layout in ("NHD", "HND")])
        for shape in shapes:
            lengths = [n for n in all_lengths if n == 0 or n >= shape.get("query_tokens", 1)]
            plans = [(lengths, {}), (lengths, dict(chunk=128)), ([200, 256, 33], dict(team=True)), ([700, 650], dict(cluster=2)), ([511, 512], dict(cluster=8))]
            for layout in ("NHD", "HND"):
                for lengths, plan in plans:
                    case = Case("test", lengths, layout=layout, **shape)
                    if plan.get("cluster", 1) > 1 and not version.kernel(case).features & 2:
                        continue
                    worst, worst_lse, same = test_case(version, case, seed=count, **plan)
                    count += 1
                    if worst > 0.012 or worst_lse > 2e-3 or not same:
                        bad += 1
                        print("BAD", version.name, shape, layout, plan, f"{worst:.4f} {worst_lse:.5f} same={same}", flush=True)
        print(version.name, "local memory:", [(key, k.local) for key, k in version.kernels.items() if k.local], "registers:", [k.registers for k in version.kernels.values()])
    print(f"{count} tests, {bad} bad", flush=True)
    return bad


TEST_SHAPES = [
    dict(heads=8, kv_heads=4, dim=64),
    dict(heads=32, kv_heads=2, dim=64),
    dict(heads=4, kv_heads=2, dim=96),
    dict(heads=6, kv_heads=2, dim=128, kv="e4m3"),
    dict(heads=16, kv_heads=4, dim=64, kv="e5m2"),
    dict(heads=8, kv_heads=2, dim=64, page=1),
    dict(heads=8, kv_heads=2, dim=96, page=8),
    dict(heads=8, kv_heads=2, dim=128, kv="e4m3", page=1),
    dict(heads=8, kv_heads=2, dim=64, query_tokens=4),
    dict(heads=7, kv_heads=1, dim=64, dtype="f16"),
    dict(heads=8, kv_heads=2, dim=128),
    dict(heads=16, kv_heads=1, dim=128),
    dict(heads=8, kv_heads=2, dim=192),
    dict(heads=16, kv_heads=4, dim=96),
    dict(heads=32, kv_heads=4, dim=96, wide=True),
    dict(heads=8, kv_heads=2, dim=192, query_tokens=4),
    dict(heads=12, kv_heads=4, dim=64, kv="e4m3", query_tokens=3),
    dict(heads=8, kv_heads=2, dim=256, page=64),
    dict(heads=8, kv_heads=2, dim=512),
    dict(heads=16, kv_heads=1, dim=512, page=32),
    dict(heads=3, kv_heads=3, dim=512, page=1, dtype="f16"),
    dict(heads=8, kv_heads=1, dim=512, kv="e4m3"),
    dict(heads=8, kv_heads=2, dim=512, kv="e5m2", page=8),
    dict(heads=8, kv_heads=2, dim=512, query_tokens=4),
]

# --- speed ------------------------------------------------------------------------------------------------------------


def uniform(batch, length, **shape):
    return [length] * batch, shape


# As in the benchmark (DecodeCases.cs).
MIXED = [5344, 4508, 4175, 9793, 7283, 14489, 2367, 14834, 9340, 1920, 15221, 5848, 1183, 1197, 7571, 2471, 15044, 1577, 12694, 3984, 7559, 1258, 13072, 12179, 3044, 11604, 3709, 12277, 14482, 1772, 611, 12040]
LOG_NORMAL = [int(n) for n in """
2158,1822,973,4581,469,1871,919,2477,1153,64,335,2902,180,268,2499,465,630,784,1083,895,1020,261,153,550,528,368,606,1790,410,453,310,333,
1082,1648,167,197,872,179,557,611,796,1446,366,3719,111,547,287,336,1980,413,1016,1099,5176,921,1048,2276,1208,998,533,415,453,898,1010,4428,
1836,1034,86,490,106,3139,1798,5727,1439,1190,235,2361,4398,993,766,606,1079,1876,320,6223,371,400,2222,596,1865,919,978,1676,1155,1539,525,
1526,677,226,920,1258,752,1409,1481,1740,5307,1834,1164,559,121,223,2065,303,1590,1005,682,670,418,2160,208,185,267,790,321,3092,392,1458,473,
921""".split(",")]


CASES = {
    "d128": uniform(128, 2048), "d64": uniform(256, 2048, dim=64), "d96": uniform(170, 2048, dim=96), "d96b": uniform(165, 2048, dim=96), "d96c": uniform(340, 2048, dim=96), "d96-wide": uniform(340, 2048, dim=96, wide=True), "d192b": uniform(99, 2048, dim=192), "d192": uniform(85, 2048, dim=192), "d256": uniform(64, 2048, dim=256),
    "d96w": uniform(170, 2048, dim=96, wide=True), "d512": uniform(32, 2048, dim=512), "d512-8/1": uniform(256, 2048, heads=8, kv_heads=1, dim=512), "d512-16/1": uniform(256, 2048, heads=16, kv_heads=1, dim=512),
    "d512-e4m3": uniform(64, 2048, dim=512, kv="e4m3"), "d512-p1": uniform(32, 2048, dim=512, page=1), "d512-1x8k": uniform(1, 8192, heads=8, kv_heads=1, dim=512), "d512-1x32k": uniform(1, 32768, heads=8, kv_heads=1, dim=512),
    "e4m3": uniform(128, 2048, kv="e4m3"), "e5m2": uniform(128, 2048, kv="e5m2"), "e4m3-1g": uniform(256, 2048, kv="e4m3"), "e4m3-d64": uniform(512, 2048, dim=64, kv="e4m3"),
    "mqa512": uniform(512, 2048, heads=16, kv_heads=1), "mqa1024": uniform(1024, 2048, heads=16, kv_heads=1), "mqa-1x8k": uniform(1, 8192, heads=16, kv_heads=1), "mqa-1x32k": uniform(1, 32768, heads=16, kv_heads=1), "g8": uniform(128, 2048, heads=64), "g16": uniform(128, 2048, heads=128),
    "qo4": uniform(128, 2048, query_tokens=4), "mixed": (MIXED, {}), "lognormal": (LOG_NORMAL, {}), "skewed": ([32000] + [500] * 31, {}),
    "1x512": uniform(1, 512), "1x8k": uniform(1, 8192), "8x512": uniform(8, 512), "32x512": uniform(32, 512), "32x2k": uniform(32, 2048), "256x512": uniform(256, 512), "1024x64": uniform(1024, 64), "1024x200": uniform(1024, 200),
    "d64-1x512": uniform(1, 512, dim=64), "d64-8x512": uniform(8, 512, dim=64), "d64-32x512": uniform(32, 512, dim=64), "d64-1024x64": uniform(1024, 64, dim=64), "d64-1x8k": uniform(1, 8192, dim=64), "d64-32x2k": uniform(32, 2048, dim=64),
    "e4m3-8x512": uniform(8, 512, kv="e4m3"), "e4m3-32x2k": uniform(32, 2048, kv="e4m3"), "e4m3-1x8k": uniform(1, 8192, kv="e4m3"), "p1-d64": uniform(256, 2048, dim=64, page=1), "p1-e4m3": uniform(128, 2048, kv="e4m3", page=1),
}


def make_case(name):
    base, _, layout = name.removesuffix("+ordered").partition("@")
    lengths, shape = CASES[base]
    return Case(name, lengths, layout=layout or "NHD", **shape)


def bench_source():
    return open(os.path.join(HERE, "../../src/FlashInfer.Measurement/bench.cu")).read()


def own_headers():
    return cuda.read_headers(os.path.join(HERE, "../../kernels"))


def read_ceiling(pool):
    """GB/s of the best of 2, 4, 8, 16 blocks a multiprocessor."""
    kernel = cuda.Kernel(cuda.compile_cubin(bench_source(), own_headers()), "fi_bench_read", has_info=False)
    sink = torch.zeros(1, dtype=torch.int32, device="cuda")
    size = pool.numel() * pool.element_size()
    params = ctypes.create_string_buffer(struct.pack("<qqq", pool.data_ptr(), size // 16, sink.data_ptr()), 24)
    best, sms = 0, torch.cuda.get_device_properties(0).multi_processor_count
    for blocks in (2, 4, 8, 16):
        graph = cuda.record(lambda: kernel.launch(params, sms * blocks, overlaps=False))
        best = max(best, size / 1e3 / statistics.median(cuda.replay_us(graph) for _ in range(15)))
    return best


SCATTERED = """#include "core/types.cuh"
struct Params {
  const uint4* data;
  const int* order;
  int chunks, vectors;  // vectors of 16 bytes in a chunk, a multiple of 256
  unsigned* sink;
};
extern "C" __global__ void read_scattered(const __grid_constant__ Params p) {
  unsigned sum = 0;
  for (int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32; i < p.chunks; i += gridDim.x * blockDim.x / 32) {
    const uint4* chunk = p.data + static_cast<long long>(p.order[i]) * p.vectors;
    for (int at = threadIdx.x % 32; at < p.vectors; at += 256) {
      uint4 v[8];
#pragma unroll
      for (int k = 0; k < 8; k++) v[k] = __ldcs(chunk + at + k * 32);
#pragma unroll
      for (int k = 0; k < 8; k++) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
  }
  if (sum == 0x9e3779b9u) *p.sink = sum;
}"""


def ceilings():
    """What a kernel that only reads gets: all in order, and blocks of pages in random order."""
    pool = make_pool(torch.bfloat16)
    size = pool.numel() * 2
    print(f"{torch.cuda.get_device_name()}: in order {read_ceiling(pool):.0f} GB/s", flush=True)
    kernel = cuda.Kernel(cuda.compile_cubin(SCATTERED, own_headers()), "read_scattered", has_info=False)
    sink, sms = torch.zeros(1, dtype=torch.int32, device="cuda"), torch.cuda.get_device_properties(0).multi_processor_count
    for chunk in (4096, 8192, 16384, 32768, 65536):
        for ordered in (False, True):
            count = size // chunk
            order = (torch.arange(count, device="cuda") if ordered else torch.randperm(count, device="cuda")).int()
            params = ctypes.create_string_buffer(struct.pack("<qqiiq", pool.data_ptr(), order.data_ptr(), count, chunk // 16, sink.data_ptr()), 32)
            best = 0
            for blocks in (1, 2, 3, 4):
                graph = cuda.record(lambda: kernel.launch(params, sms * blocks, overlaps=False))
                best = max(best, size / 1e3 / statistics.median(cuda.replay_us(graph) for _ in range(11)))
            print(f"blocks of {chunk // 1024} KB {'in order' if ordered else 'scattered'}: {best:.0f} GB/s", flush=True)


def make_pool(kv_dtype):
    elements = POOL_BYTES // kv_dtype.itemsize
    pool = torch.empty(elements, dtype=kv_dtype, device="cuda")
    step = 1 << 28
    for at in range(0, elements, step):
        pool[at : at + step] = torch.randn(min(step, elements - at), device="cuda").to(kv_dtype)
    return pool


def make_cache(case, pool):
    layers = pool.numel() * pool.element_size() // (2 * case.layer_pages * case.page * case.kv_heads * case.dim * case.kv_dtype.itemsize)
    return Cache(case, pool, max(1, min(96, layers)))


def interleave(graphs, rounds, target_us=50000.0):
    """The median over rounds of each graph's fastest half, and all rounds' values."""
    times = [[] for _ in graphs]
    for _ in range(rounds):
        for graph, values in zip(graphs, times):
            once = cuda.replay_us(graph)
            values.append(statistics.median([cuda.replay_us(graph) for _ in range(max(3, min(20, int(target_us / once))))]))
    return [statistics.median(values) for values in times]


def select(pattern):
    return [make_case(name) for name in pattern.split(",")]


def bench(pattern, versions, rounds=5):
    cases = sorted(select(pattern), key=lambda case: case.kv)
    pool = None
    for version in versions:
        version.compile(cases)
    for case in cases:
        if pool is None or pool.dtype != case.kv_dtype:
            pool = None
            torch.cuda.empty_cache()
            pool = make_pool(case.kv_dtype)
            ceiling = read_ceiling(pool)
            print(f"{torch.cuda.get_device_name()}: read ceiling {ceiling:.0f} GB/s", flush=True)
        cache = make_cache(case, pool)
        launches = [Launch(version, cache) for version in versions]
        times = [us / launch.launches for us, launch in zip(interleave([launch.record() for launch in launches], rounds), launches)]
        cells = [f"{v.name} {us:8.2f} {case.kv_bytes / us / 1e3 / ceiling:.3f} c{l.plan.chunk}x{l.plan.cluster}{'t' if l.plan.team else ''}" for v, us, l in zip(versions, times, launches)]
        print(f"{case.name:14}", " | ".join(cells), flush=True)


def sweep(pattern, version):
    for case in select(pattern):
        pool = make_pool(case.kv_dtype)
        ceiling = read_ceiling(pool)
        cache = make_cache(case, pool)
        plans = [("planner", {})]
        longest = max(case.lengths)
        chunks = sorted({decode_plan.round_up(-(-longest // parts)) for parts in [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32] if longest / parts >= 256}, reverse=True)
        plans += [(f"chunk {chunk}", dict(chunk=chunk)) for chunk in chunks]
        kernel, sms = version.kernel(case), torch.cuda.get_device_properties(0).multi_processor_count
        whole = len(case.lengths) * kernel.units_per_item // sms * sms // kernel.units_per_item
        rest = len(case.lengths) - whole
        if len(set(case.lengths)) == 1 and whole and rest:  # what fills whole rounds of blocks stays whole
            most = max(1, sms // (rest * kernel.units_per_item))
            half = sms // 2 // kernel.units_per_item
            if rest > half:
                plans += [(f"last {rest - half} in {parts}", dict(chunk=longest, tail=(whole + half, decode_plan.round_up(-(-longest // parts))))) for parts in (2, 4, 5, 10)]
            plans += [(f"last {rest} in {parts}", dict(chunk=longest, tail=(whole, decode_plan.round_up(-(-longest // parts))))) for parts in sorted({most, 2 * most, max(2, most // 2)})]
        launches = [Launch(version, cache, **plan) for _, plan in plans]
        times = [us / launch.launches for us, launch in zip(interleave([launch.record() for launch in launches], 3, 30000.0), launches)]
        print(f"{case.name} ({ceiling:.0f} GB/s):", ", ".join(f"{name}{f' ({l.plan.chunk})' if name == 'planner' else ''} {us:.2f} {case.kv_bytes / us / 1e3 / ceiling:.3f}" for (name, _), us, l in zip(plans, times, launches)), flush=True)
        del pool, cache, launches


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("test", "sanitize", "bench", "sweep", "ceilings"):
        sys.exit(__doc__)
    torch.zeros(1, device="cuda")  # makes the context
    if sys.argv[1] == "ceilings":
        sys.exit(ceilings())
    if sys.argv[1] == "test":
        sys.exit(1 if test([Version(text) for text in sys.argv[2:] or ["new="]], TEST_SHAPES, TEST_LENGTHS) else 0)
    if sys.argv[1] == "sanitize":
        shapes = [TEST_SHAPES[int(i)] for i in sys.argv[2].split(",")]
        sys.exit(1 if test([Version("new=")], shapes, [1, 17, 33, 0, 300]) else 0)
    versions = [Version(text) for text in sys.argv[3:]]
    if sys.argv[1] == "bench":
        bench(sys.argv[2], versions)
    else:
        sweep(sys.argv[2], versions[0])
