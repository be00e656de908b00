#!/usr/bin/env python3
"""Checks and times versions of the prefill kernels side by side, with cuDNN and the matrix product in the same turns.

  prefill.py check                                  the working tree's kernels against an fp64 oracle
  prefill.py time --heads 32/8 --lengths 512,4096   times, TFLOP/s; --out FILE adds them to a results file
  prefill.py time --version old=/path/to/kernels --version new=../../kernels:SOME_MACRO=1

Needs a GPU, PyTorch and NVRTC (gpu.py); run from anywhere. A case is heads/kvHeads, dimensions (128, or 192/128 where values
are shorter), a page size (0: ragged), causal or full, and sequences of one length, 16,384 query tokens a launch.
"""
import argparse
import ctypes
import datetime
import math
import random
import struct
import sys
from dataclasses import dataclass, replace

import numpy
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import gpu

LAUNCH_TOKENS = 16384
GRAPH_US = 1500.0  # a graph is at least this long, so that launching it does not count
WORDS = 32  # of PrefillParams, before its four tensor maps
SCALES_WORD, VARIANT_WORD = 24, 28
QUANTISED = {"e4m3": (torch.float8_e4m3fn, "flashinfer::Float8E4M3"), "e5m2": (torch.float8_e5m2, "flashinfer::Float8E5M2")}


@dataclass(frozen=True)
class Config:
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    value_dim: int = 128
    page: int = 0
    dtype: str = "bf16"
    hnd: bool = False
    query_tokens: int = 0  # of a sequence, at most; 0: any number
    kv_dtype: str = ""  # of a quantised cache: e4m3 or e5m2
    variant: str = "using Variant = flashinfer::NoVariant;"

    @property
    def name(self):
        dims = f"d{self.dim}" + (f"/{self.value_dim}" if self.value_dim != self.dim else "")
        cache = f"page {self.page} {'HND' if self.hnd else 'NHD'}" if self.page else "ragged"
        return f"{self.heads}/{self.kv_heads} {dims} {cache} {self.dtype}" + (f" {self.kv_dtype}" if self.kv_dtype else "")

    def unit(self, entry):
        """As the generator writes it (src/Shared/CudaUnits.cs)."""
        element = f"flashinfer::{gpu.DTYPES[self.dtype][1]}"
        return f"""#include "attention/prefill.cuh"
#include "attention/variants.cuh"
#include "core/csharp.cuh"
namespace {{
{self.variant}
struct Config {{
  using Element = {element};
  using KvElement = {QUANTISED[self.kv_dtype][1] if self.kv_dtype else element};
  static constexpr int kHeads = {self.heads};
  static constexpr int kKvHeads = {self.kv_heads};
  static constexpr int kHeadDim = {self.dim};
  static constexpr int kPageSize = {self.page};
  using Variant = Variant;
  static constexpr int kValueDim = {self.value_dim};
  static constexpr int kQueryTokens = {self.query_tokens};
  static constexpr bool kChecked = false;
}};
using Kernel = flashinfer::Prefill<Config>;
}}  // namespace
extern "C" __constant__ flashinfer::KernelInfo {entry}_info = Kernel::info();
extern "C" __global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    {entry}(const __grid_constant__ flashinfer::PrefillParams params) {{
  Kernel::run(params);
}}
"""


class Data:
    """Tensors of some sequences: scattered pages, and NaN in whatever no sequence owns."""

    def __init__(self, config, queries, lengths, sets=1, seed=0, rising=1.0):
        self.config, self.queries, self.lengths = config, queries, lengths
        generator = torch.Generator(device="cuda").manual_seed(seed)
        dtype = gpu.DTYPES[config.dtype][0]
        draw = lambda *shape: torch.randn(*shape, generator=generator, device="cuda", dtype=dtype)
        rows = max(1, sum(queries))
        first = lambda counts: [sum(counts[:i]) for i in range(len(counts))]
        self.sets = []
        if config.page:
            counts = [-(-n // config.page) for n in lengths]
            self.pages = sum(counts) + 3
            ids = random.Random(seed).sample(range(self.pages), sum(counts))
            self.starts = first(counts)
            self.table = torch.tensor(ids or [0], dtype=torch.int32, device="cuda")
        else:
            self.starts, self.table = first(lengths), None
        for _ in range(sets):
            q = draw(rows, config.heads, config.dim)
            k, v = (draw(max(1, sum(lengths)), config.kv_heads, d) for d in (config.dim, config.value_dim))
            if rising != 1.0:  # scores grow along the way of the kernel, so that maxima move again and again
                q *= rising
                for at, n in zip(first(lengths), lengths):
                    k[at:at + n] *= torch.linspace(4.0, 0.25, n, device="cuda")[:, None, None].to(dtype)
            # Row by row for the oracle and PyTorch; the kernel's tensors beside them.
            stored = (k, v)
            self.scales = [torch.linspace(low, 1.5, config.kv_heads, device="cuda") for low in (0.5, 0.8)]
            if config.kv_dtype:
                stored = [(x / s[:, None]).to(QUANTISED[config.kv_dtype][0]) for x, s in zip(stored, self.scales)]
                k, v = (x.float() * s[:, None] for x, s in zip(stored, self.scales))
            self.sets.append((q, k, v, *(self.cached(x) if config.page else x for x in stored),
                              torch.full((rows, config.heads, config.value_dim), float("nan"), device="cuda", dtype=dtype),
                              torch.full((rows, config.heads), float("nan"), device="cuda")))

    def cached(self, rows):
        c = self.config
        if c.kv_dtype:  # PyTorch moves bytes; 0x7f is NaN
            rows = rows.view(torch.uint8)
        cache = torch.full((self.pages * c.page, *rows.shape[1:]), 0x7F if c.kv_dtype else float("nan"), device="cuda", dtype=rows.dtype)
        at = 0
        for start, n in zip(self.starts, self.lengths):
            token = torch.arange(n, device="cuda")
            cache[self.table[start + token // c.page].long() * c.page + token % c.page] = rows[at:at + n]
            at += n
        cache = cache.view(self.pages, c.page, *rows.shape[1:])
        return cache.transpose(1, 2).contiguous() if c.hnd else cache

    def flops(self, causal):
        """Causal query tokens count as half on the diagonal."""
        tokens = sum(q * (n - (q / 2 if causal else 0)) for q, n in zip(self.queries, self.lengths))
        return 2.0 * self.config.heads * (self.config.dim + self.config.value_dim) * tokens


def plan(data, info, causal, parts=1, section=None, window=None):
    """The work list as PrefillPlanner makes it of sequences that are not mixed, its units and states, and the items' contexts; parts
    cuts every tile's tokens; of a window, so many tokens before a query token are seen."""
    c = data.config
    head_tiles = c.heads // info["pack"]
    token_bytes = (c.dim + c.value_dim) * 2
    longest = max(data.lengths)
    if section is None:
        uneven = longest * len(data.lengths) > 2 * sum(data.lengths)
        section = (64 if uneven else 8 if longest <= 1024 else 16) << 20

    def groups_of(size):
        groups = 1
        for candidate in range(2, c.kv_heads + 1):
            if groups * size < longest * token_bytes * c.kv_heads and c.kv_heads % candidate == 0:
                groups = candidate
        return groups

    groups = groups_of(section if causal else section // 2)
    if not causal and groups > 1:
        groups = groups_of(1)
    heads = head_tiles // groups
    room = section // (token_bytes * heads * c.kv_heads // head_tiles)
    items, slots = [], 0
    for head in range(0, head_tiles, heads):
        section_number = tokens = row = 0
        for sequence, (queries, length, start) in enumerate(zip(data.queries, data.lengths, data.starts)):
            tokens += length
            if tokens > room:
                section_number, tokens = section_number + 1, length
            for token in range(0, queries, info["tile_tokens"]):
                count = min(info["tile_tokens"], queries - token)
                before = length - queries if causal else length
                seen = max(0, before + (token + count if causal else 0))
                bound = max(0, min(length - queries + token - window, seen)) if window is not None else 0
                begin = bound // info["block_tokens"] * info["block_tokens"]
                blocks = -(-(seen - begin) // info["block_tokens"])
                # What the last block has of the sequence behind what is seen belongs to the range: nothing to be zeroed there.
                cuts = [begin + blocks * i // parts * info["block_tokens"] for i in range(parts)]
                cuts.append(min(length, begin + blocks * info["block_tokens"]))
                for part in range(parts):
                    item = (row + token, cuts[part], cuts[part + 1], start, slots if parts > 1 else 0, part | parts << 16,
                            count | head << 16, before + (token + 1 if causal else 0))
                    items.append(((head, section_number, -(cuts[part + 1] - cuts[part])), item, (sequence, row, queries, length)))
                slots += parts if parts > 1 else 0
            row += queries
    items.sort(key=lambda pair: pair[0])
    scale = numpy.float32(math.log2(math.e) / math.sqrt(c.dim)).view(numpy.int32)
    words = numpy.array([(len(items), scale, heads, 0, 0, 0, 0, 0)] + [item for _, item, _ in items], dtype=numpy.int64)
    words = numpy.concatenate([words[0, :4], words[1:].ravel()]).astype(numpy.int32)
    contexts = torch.tensor([context for _, _, context in items], dtype=torch.int32, device="cuda")
    return torch.from_numpy(words).cuda(), len(items) * heads, slots * heads, contexts


class Launch:
    """A kernel with the arguments of one case, over one set of tensors. arguments: the bytes of a variant's."""

    def __init__(self, kernel, data, which, causal, parts=1, blocks=None, section=None, arguments=b"", window=None, overlaps=False):
        c, info = data.config, kernel.info
        q, _, _, k, v, o, lse = data.sets[which]
        self.kernel, self.data, self.overlaps = kernel, data, overlaps
        self.list, units, states, self.contexts = plan(data, info, causal, parts, section, window)
        self.blocks = min(units, blocks or info["blocks_per_sm"] * torch.cuda.get_device_properties(0).multi_processor_count)
        rows = info["columns_per_unit"]
        self.workspace = [torch.zeros(max(1, n), dtype=t, device="cuda") for n, t in
                          ((states * rows * c.value_dim, torch.float32), (states * rows * 2, torch.float32), (states, torch.int32), (2, torch.int32))]
        token, head = (2, 1) if c.hnd else (1, 2)
        stride = lambda x: (x.stride(token), x.stride(head), x.stride(0)) if c.page else (x.stride(0), x.stride(1), 0)
        (kt, kh, kp), (vt, vh, vp) = stride(k), stride(v)
        groups = c.page // 8
        page_groups = groups * (c.kv_heads if c.hnd else 1)
        head_groups = groups if c.hnd else 0
        self.params = gpu.Buffer(WORDS * 8 + 4 * 128)
        self.params.words(0, [q.data_ptr(), k.data_ptr(), v.data_ptr(), o.data_ptr(), lse.data_ptr(),
                              data.table.data_ptr() if c.page else 0, self.list.data_ptr(), *[w.data_ptr() for w in self.workspace],
                              q.stride(0), q.stride(1), o.stride(0), o.stride(1), kt, kh, vt, vh, kp, vp, 0, 0,
                              page_groups | head_groups << 32])
        self.variant = torch.frombuffer(bytearray(struct.pack("<qq", self.contexts.data_ptr(), 0) + arguments + bytes(16)), dtype=torch.uint8).cuda()
        self.params.words(VARIANT_WORD * 8, [self.variant.data_ptr()])
        self.params.words(SCALES_WORD * 8, [x.data_ptr() for x in data.scales])
        if info["features"] & 1:
            self.maps(q, k, v, o, (kt, kh), (vt, vh), info)

    def maps(self, q, k, v, o, key_strides, value_strides, info):
        c = self.data.config
        kind = gpu.DTYPES[c.dtype][2]
        column = 64 if c.dim % 64 == 0 and c.value_dim % 64 == 0 else 32
        pack, tile, block = info["pack"], info["tile_tokens"], info["block_tokens"]
        at = [self.params.address + WORDS * 8 + 128 * i for i in range(4)]

        def rows(x, dim, box, target):
            gpu.tensor_map(x.data_ptr(), kind, [column, c.heads, x.shape[0], dim // column], [x.stride(1), x.stride(0), column], box, target)

        power = pack & (pack - 1) == 0
        rows(q, c.dim, [column, min(pack, 64), max(1, 64 // pack), 1] if power else [column, pack, tile, 1], at[0])
        columns = 2 if c.value_dim == 256 else c.value_dim // column  # that a warp stages at once
        rows(o, c.value_dim, [column, min(pack, 16), max(1, 16 // pack), columns] if power else [column, pack, tile, 1], at[1])
        for x, dim, (token, head), target in ((k, c.dim, key_strides, at[2]), (v, c.value_dim, value_strides, at[3])):
            if not c.page:
                gpu.tensor_map(x.data_ptr(), kind, [column, x.shape[0], dim // column, c.kv_heads], [token, column, head],
                               [column, block, dim // column, 1], target)
            elif c.page % 8 == 0:
                groups = x.shape[0] * (c.page // 8) * (c.kv_heads if c.hnd else 1)
                strip = c.dim if c.kv_dtype else column
                gpu.tensor_map(x.data_ptr(), 0 if c.kv_dtype else kind, [strip, 8, dim // strip, 1 if c.hnd else c.kv_heads, groups],
                               [token, strip, head, 8 * token], [strip, 8, dim // strip, 1, math.gcd(c.page, block) // 8], target)
            else:
                ctypes.memmove(target, at[0], 128)

    def __call__(self):
        self.kernel.launch(self.params.address, self.blocks, self.overlaps)


def oracle(data, which, causal):
    """fp64; LSE in base 2. A row that sees nothing gives zeros and -inf."""
    q, k, v = (x.double() for x in data.sets[which][:3])
    group = data.config.heads // data.config.kv_heads
    outputs, lses, row, token = [], [], 0, 0
    for queries, length in zip(data.queries, data.lengths):
        qs = q[row:row + queries].transpose(0, 1)
        ks, vs = (x[token:token + length].repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
        scores = qs @ ks.transpose(1, 2) / math.sqrt(data.config.dim)
        if causal:
            last = torch.arange(queries, device="cuda")[:, None] + length - queries
            scores = scores.masked_fill(torch.arange(length, device="cuda")[None] > last, float("-inf"))
        lse = torch.logsumexp(scores, -1) if length else torch.full((data.config.heads, queries), float("-inf"), device="cuda", dtype=torch.float64)
        weights = torch.where(lse[..., None] == float("-inf"), torch.zeros_like(scores), torch.exp(scores - lse[..., None]))
        outputs.append((weights @ vs).transpose(0, 1))
        lses.append(lse.transpose(0, 1) * math.log2(math.e))
        row, token = row + queries, token + length
    return torch.cat(outputs), torch.cat(lses)


# Query tokens and tokens of sequences: around the edges of tiles, blocks and pages; empty; fewer tokens than query tokens.
BATCHES = [
    ([1, 63, 64, 65, 127, 128, 129, 200, 5, 353], [1, 63, 64, 65, 129, 128, 300, 77, 0, 1000]),
    ([175, 177, 256, 511, 513], [176, 177, 256, 640, 513]),
    ([31, 16, 17, 0, 1], [47, 16, 33, 50, 4097]),
    ([1300], [2049]),
]


def check_kernel(kernel, config, batches=BATCHES, blocks=(None, 3), parts=(1, 3)):
    """The worst relative error over batches, masks, grids and parts; whether bits are equal whatever the grid."""
    worst, faults = 0.0, []
    for number, (queries, lengths) in enumerate(batches):
        data = Data(config, queries, lengths, seed=number, rising=3.0 if number == 1 else 1.0)
        for causal in (True, False):
            wanted, wanted_lse = oracle(data, 0, causal)
            *_, o, lse = data.sets[0]
            for cut in parts:
                bits = None
                for grid in blocks:
                    o.fill_(float("nan")), lse.fill_(float("nan"))
                    launch = Launch(kernel, data, 0, causal, cut, grid)
                    launch(), launch()
                    torch.cuda.synchronize()
                    error = ((o.double() - wanted).norm() / wanted.norm()).item()
                    away = torch.where(wanted_lse == lse, 0.0, (wanted_lse - lse).abs()).max().item()
                    state = launch.workspace[2].any() or launch.workspace[3].any()
                    same = bits is None or torch.equal(o, bits)
                    bits = o.clone()
                    worst = max(worst, error if error == error else math.inf)
                    if not error < (6e-3 if config.dtype == "bf16" else 1e-3) or not away < 2e-3 or state or not same:
                        faults.append(f"batch {number} {'causal' if causal else 'full'} parts {cut} blocks {grid}: error {error:.2e}, "
                                      f"lse off by {away:.2e}{', counters left' if state else ''}{'' if same else ', other bits than before'}")
    return worst, faults


CHECKS = [Config(), Config(page=16), Config(page=1), Config(page=64, hnd=True), Config(8, 8, dtype="f16"), Config(12, 4, page=5),
          Config(dim=64, value_dim=64), Config(16, 2, 64, 64, page=16), Config(4, 4, 64, 64, page=1), Config(8, 2, 96, 96, page=16),
          Config(8, 2, 96, 96, page=1), Config(8, 2, 192, 192), Config(8, 2, 192, 192, page=3), Config(8, 2, 256, 256, page=16),
          Config(8, 2, 256, 256, page=1), Config(8, 2, 192, 128), Config(16, 1, page=16),
          Config(32, 4, 64, 64, page=8, hnd=True),
          *(Config(*h, d, d, page=p, dtype=t, kv_dtype=k, hnd=p == 64) for h, d, p, t, k in (
              ((32, 8), 128, 16, "bf16", "e4m3"), ((12, 4), 128, 5, "f16", "e5m2"), ((8, 8), 64, 64, "f16", "e4m3"), ((71, 1), 64, 1, "bf16", "e5m2"),
              ((8, 2), 96, 24, "bf16", "e4m3"), ((8, 2), 96, 1, "f16", "e4m3"), ((8, 2), 256, 16, "bf16", "e4m3")))]


def versions_of(arguments):
    found = {}
    for text in arguments or ["working-tree=" + gpu.KERNELS]:
        name, _, rest = text.partition("=")
        folder, _, macros = rest.partition(":")
        found[name] = (folder or gpu.KERNELS, [m for m in macros.split(",") if m])
    return found


def compile_configs(configs, versions, arch):
    jobs = {(v, c): (c.unit("lab_prefill"), folder, arch, macros, "lab_prefill") for v, (folder, macros) in versions.items() for c in configs}
    kernels = gpu.compile_all(jobs)
    for (version, config), kernel in kernels.items():
        bad = gpu.complaints(kernel.log)
        if bad:
            print(f"compile {version} {config.name}: {bad}", flush=True)
    return kernels


def run_check(options):
    versions = versions_of(options.version)
    configs = CHECKS[:options.first] if options.first else CHECKS
    kernels = compile_configs(configs, versions, options.arch)
    failed = 0
    for (version, config), kernel in kernels.items():
        worst, faults = check_kernel(kernel, config)
        failed += len(faults)
        print(f"{'FAILED' if faults else 'ok    '} {version} {config.name} query tokens {config.query_tokens}: error {worst:.2e}", *faults[:4], sep="\n  " if faults else "", flush=True)
    print(f"{len(kernels)} kernels checked, {failed} failures")
    return failed


def cudnn(data, which, causal, batch):
    c = data.config
    q, k, v = (x.view(batch, -1, *x.shape[1:]).transpose(1, 2).contiguous() for x in data.sets[which][:3])

    def launch():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=c.heads != c.kv_heads)

    return launch


def matmul_us(n=8192):
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return gpu.time_in_turn({"matmul": gpu.capture([lambda: a @ b] * 2)})["matmul"]


def run_time(options):
    versions = versions_of(options.version)
    heads = [tuple(map(int, h.split("/"))) for h in options.heads.split(",")]
    dims = [tuple(map(int, (d if "/" in d else f"{d}/{d}").split("/"))) for d in options.dims.split(",")]
    pages = [(int(p.rstrip("h")), p.endswith("h")) for p in options.pages.split(",")]
    lengths = list(map(int, options.lengths.split(",")))
    configs = [Config(*h, *d, page=p, hnd=hnd, dtype=options.dtype) for h in heads for d in dims for p, hnd in pages]
    kernels = compile_configs(configs, versions, options.arch)
    rows = []
    for length in lengths:
        batch = max(1, LAUNCH_TOKENS // length)
        for h in heads:
            for d in dims:
                for causal in {"causal": (True,), "full": (False,), "both": (True, False)}[options.mask]:
                    graphs = {}
                    for config in (c for c in configs if (c.heads, c.kv_heads) == h and (c.dim, c.value_dim) == d):
                        data = Data(config, [length] * batch, [length] * batch, sets=2)
                        flops = data.flops(causal)
                        times = max(1, math.ceil(GRAPH_US / (flops / 5e8) / 2))
                        ragged = "" if not config.page else f" page {config.page}{'h' if config.hnd else ''}"
                        if options.peer and not graphs:
                            graphs["cuDNN"] = gpu.capture([cudnn(data, i, causal, batch) for i in range(2)] * times)
                        for version in versions:
                            launches = [Launch(kernels[version, config], data, i, causal, section=options.section) for i in range(2)]
                            graphs[version + ragged] = gpu.capture(launches * times)
                    us = gpu.time_in_turn(graphs, options.rounds)
                    case = f"{h[0]}/{h[1]} d{d[0]}{'' if d[0] == d[1] else f'/{d[1]}'} {'causal' if causal else 'full'} {batch}x{length}"
                    print(f"{case:30s}" + " ".join(f"{name} {flops / t / 1e6:6.1f}" + (f" ({us['cuDNN'] / t:.3f})" if "cuDNN" in us and name != "cuDNN" else "")
                                                    for name, t in us.items()), flush=True)
                    rows += [(name, h, d, causal, batch, length, flops, t, us.get("cuDNN")) for name, t in us.items()]
                    del graphs
                    torch.cuda.empty_cache()
    names = list(dict.fromkeys(row[0] for row in rows))
    for causal in sorted({row[3] for row in rows}, reverse=True):
        means = {name: math.exp(sum(math.log(row[6] / row[7] / 1e6) for row in rows if row[0] == name and row[3] == causal)
                                / max(1, sum(row[0] == name and row[3] == causal for row in rows))) for name in names}
        base = means.get("cuDNN", next(iter(means.values())))
        print(f"geometric mean, {'causal' if causal else 'full'}: " + ", ".join(f"{name} {mean:.1f} ({mean / base:.4f})" for name, mean in means.items()))
    ceiling = 2 * 8192**3 / matmul_us() / 1e6
    print(f"matrix product {ceiling:.0f} TFLOP/s on {gpu.device()['device']}")
    if options.out:
        write(options, rows, ceiling)
    return 0


def write(options, rows, ceiling):
    """A results file as the benchmarks write them."""
    major = torch.backends.cudnn.version()
    peer = f"cuDNN {major // 10000}.{major % 10000 // 100}"
    result = {**gpu.device(), "date": datetime.date.today().isoformat(), "commit": options.commit,
              "note": "benchmarks/lab/prefill.py: kernels without the library around them, in one process with PyTorch and in turn with it, by graph replay.",
              "ceilings": {"matmulTflops": round(ceiling, 1)}, "rows": []}
    for name, h, d, causal, batch, length, flops, us, peer_us in rows:
        if name == "cuDNN":
            continue
        version, _, page = name.partition(" page ")
        size = int(page.rstrip("h")) if page else 0
        params = {"variant": version, "dtype": {"bf16": "BFloat16", "f16": "Float16"}[options.dtype], "heads": h[0], "kvHeads": h[1], "headDim": d[0],
                  **({"valueDim": d[1]} if d[1] != d[0] else {}), "batch": batch, "qoLen": length, "kvLen": length, "causal": causal,
                  **({"pageSize": size} if size else {}), "layout": "Ragged" if not size else "Hnd" if page.endswith("h") else "Nhd"}
        row = {"bench": "prefill", "case": f"{version} {h[0]}/{h[1]} d{d[0]} {'page ' + page if page else 'ragged'} {options.dtype} {'causal' if causal else 'full'} batch={batch} length={length}",
               "params": params, "us": round(us, 2), "tflops": round(flops / us / 1e6, 1), "fractionOfCeiling": round(flops / us / 1e6 / ceiling, 4)}
        ragged = [r[7] for r in rows if page and (version, *r[1:6]) == (r[0], h, d, causal, batch, length)]
        if ragged:
            row["ratioToRagged"] = round(ragged[0] / us, 4)
        if peer_us:
            row |= {"peer": peer, "peerUs": round(peer_us, 2), "ratioToPeer": round(peer_us / us, 4)}
        result["rows"].append(row)
    gpu.add_rows(options.out, result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "time"])
    parser.add_argument("--version", action="append", metavar="NAME=FOLDER[:MACRO,...]")
    parser.add_argument("--arch", default="sm_90a", help="sm_90 for the portable kernels")
    parser.add_argument("--first", type=int, help="check: only so many configurations")
    parser.add_argument("--heads", default="32/8")
    parser.add_argument("--dims", default="128")
    parser.add_argument("--pages", default="0", help="0 for ragged; 16h for HND")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384,32768")
    parser.add_argument("--mask", default="both", choices=["causal", "full", "both"])
    parser.add_argument("--dtype", default="bf16", choices=list(gpu.DTYPES))
    parser.add_argument("--section", type=int, help="bytes of a section, instead of the planner's rule")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-peer", dest="peer", action="store_false")
    parser.add_argument("--out", help="a results file to write, or add rows to")
    parser.add_argument("--commit", default="", help="what --out says of the versions")
    options = parser.parse_args()
    torch.manual_seed(1)
    return run_check(options) if options.what == "check" else run_time(options)


if __name__ == "__main__":
    sys.exit(main())
