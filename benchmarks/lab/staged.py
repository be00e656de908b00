#!/usr/bin/env python3
"""Prefill over staged keys and values: whether it is right, what it takes, and from when on it pays.

  staged.py check                                       the staging kernel, and prefill over its rows, against an fp64 oracle
  staged.py time --cases 32/8x128p1,32/8x128p16+rope    staged, the kernel that prepares by itself, and plain ragged attention, in turn
  staged.py time ... --lengths 8192 --queries 48,384    the same for few query tokens at the end of long sequences
  staged.py copy --cases 32/8x128p1                     the staging kernel alone, of its version, beside a copy of as many bytes

A case is that of variants.py, and perhaps +VARIANT. Kernels overlap as in the library (programmatic dependent launch).
"""
import argparse
import copy
import ctypes
import datetime
import math
import sys
from dataclasses import replace

import torch

import gpu
from prefill import GRAPH_US, LAUNCH_TOKENS, Data, Launch, versions_of
from variants import BATCHES, VARIANTS, oracle, parse_cases

ENTRY = "lab_prefill"
STAGE = """using Staging = flashinfer::Stage<Config>;
}  // namespace
extern "C" __constant__ flashinfer::KernelInfo fi_stage_info = Staging::info();
extern "C" __global__ void __launch_bounds__(Staging::kThreads, Staging::kBlocksPerSm)
    fi_stage(const __grid_constant__ flashinfer::StageParams params) {
  Staging::run(params);
}
"""


def staged_unit(config):
    """As the generator writes it: prefill over staged rows, and the kernel that stages them."""
    text = config.unit(ENTRY).replace("Prefill<Config>", "Prefill<Config, true>").replace("}  // namespace\n", STAGE)
    return text.replace('#include "attention/prefill.cuh"\n', '#include "attention/prefill.cuh"\n#include "attention/stage.cuh"\n')


def compile_cases(cases, versions, kinds=("staged", "alone", "plain")):
    """{(version, configuration, name of its variant): kernels by what they do}"""
    jobs = {}
    for version, (folder, macros) in versions.items():
        for config, name in cases:
            varied, plain = replace(config, variant=VARIANTS[name].text), replace(config, page=0, kv_dtype="")
            texts = {"staged": staged_unit(varied), "alone": varied.unit(ENTRY), "plain": plain.unit(ENTRY)}
            jobs |= {(version, config, name, kind): (texts[kind], folder, "sm_90a", macros, ENTRY) for kind in kinds}
    kernels = gpu.compile_all(jobs)
    found = {}
    for (version, config, name, what), kernel in kernels.items():
        bad = gpu.complaints(kernel.log)
        if bad:
            print(f"compile {version} {config.name} {name} {what}: {bad}", flush=True)
        found.setdefault((version, config, name), {})[what] = kernel
        if what == "staged":
            found[version, config, name]["stage"] = gpu.Kernel(kernel.cubin, kernel.log, "fi_stage")
    return found


class Rows:
    """The staged keys and values of some sequences, and the list of what to stage."""

    def __init__(self, data):
        c = data.config
        self.data = data
        self.starts = [sum(data.lengths[:i]) for i in range(len(data.lengths))]
        dtype = gpu.DTYPES[c.dtype][0]
        self.key, self.value = (torch.full((max(1, sum(data.lengths)) + 5, c.kv_heads, c.dim), math.nan, dtype=dtype, device="cuda") if kept else None
                                for kept in (True, c.page))
        # Cut where rows are multiples of 64; from each sequence's end, as tiles walk it.
        items = []
        for row, n, start in zip(self.starts, data.lengths, data.starts):
            cuts = [0, *range(64 - row % 64, n, 64), n]
            items += [(row + at, end - at, at, start) for at, end in reversed(list(zip(cuts, cuts[1:]))) if end > at]
        self.count, self.rows = len(items), sum(data.lengths)
        self.list = torch.tensor([len(items), 0, 0, self.rows] + [word for item in items for word in item], dtype=torch.int32, device="cuda")

    def ragged(self):
        """The same sequences, as the staged prefill kernel sees them."""
        seen = copy.copy(self.data)
        seen.config = replace(self.data.config, page=0, kv_dtype="")
        seen.starts, seen.table = self.starts, None
        seen.sets = [(q, k, v, self.key, stored if self.value is None else self.value, o, lse) for q, k, v, _, stored, o, lse in self.data.sets]
        return seen


class StagedLaunch:
    """The staging kernel, and prefill over its rows; or prefill alone, where it has a stager."""

    def __init__(self, kernels, data, which, causal, parts=1, blocks=None, arguments=b"", window=None, overlaps=True, rows=None, prefills=True):
        c, stage = data.config, kernels["stage"]
        self.rows = rows or Rows(data)
        self.prefill = Launch(kernels["staged"], self.rows.ragged(), which, causal, parts, blocks, arguments=arguments, window=window, overlaps=overlaps)
        self.stage, self.overlaps, self.prefills = stage, overlaps, prefills
        self.weaves = self.prefill.kernel.info["features"] & 4 != 0
        most = stage.info["blocks_per_sm"] * torch.cuda.get_device_properties(0).multi_processor_count
        self.blocks = blocks or max(1, min(self.rows.count * stage.info["units_per_item"], most))
        _, _, _, k, v, *_ = data.sets[which]
        page, token, head = (0, 2, 1) if c.hnd else (0, 1, 2) if c.page else (0, 0, 1)
        address = lambda x: 0 if x is None else x.data_ptr()
        self.params = gpu.Buffer(12 * 8)
        self.params.words(0, [k.data_ptr(), v.data_ptr() if c.page else 0, self.rows.key.data_ptr(), address(self.rows.value), address(data.table), self.rows.list.data_ptr(),
                              k.stride(page), k.stride(token), k.stride(head), 0, 0, self.prefill.variant.data_ptr()])
        if self.weaves:
            self.prefill.workspace[3] = torch.zeros(5 + self.rows.rows // 64, dtype=torch.int32, device="cuda")
            strides = [k.stride(token), k.stride(head)] * 2 + [k.stride(page)] * 2
            for word, values in ((1, [k.data_ptr(), v.data_ptr()]), (5, [data.table.data_ptr()]), (10, [self.prefill.workspace[3].data_ptr()]), (15, strides),
                                 (29, [self.rows.key.data_ptr(), self.rows.value.data_ptr(), self.rows.list.data_ptr()])):
                self.prefill.params.words(word * 8, values)

    def __call__(self):
        if not self.weaves or not self.prefills:
            self.stage.launch(self.params.address, self.blocks, self.overlaps)
        if self.prefills:
            self.prefill()


def parse(text):
    """Configurations and the names of their variants."""
    found = []
    for case in text.split(","):
        head, _, kind = case.partition(":")
        kind, _, name = (kind if kind else head).partition("+")
        head, name = (f"{head}:{kind}" if ":" in case else kind), name or "none"
        found.append((parse_cases(head)[0], name))
    return found


CHECKS = ("32/8x128p1,12/4x128p5,8/8x64p1,8/2x96p1,8/2x192p3,8/2x256p1,32/8x128p16+rope,8/2x96p16+rope 88,8/2x64p5f+rope neighbours,8/2x192p16+rope 184,8/2x256p16+rope,"
          "32/8x128p16:e4m3,12/4x128p5f:e5m2,8/2x64p64:e4m3,8/2x96p24:e4m3,8/2x192p16:e4m3,8/2x256p16:e5m2,32/8x128p16:e4m3+rope,8/2x96p16f:e4m3+rope 40 neighbours,"
          "8/2x192p16:e5m2+rope 24,8/2x256p16:e4m3+rope,32/8x128+rope,8/2x96f+rope 40 neighbours,8/2x256+rope,32/8x128p1+window,32/8x128p16+rope cap window,71/1x64p1:e4m3+sinks,16/4x128p16+rope packed,16/4x128p16+rope alibi,16/4x128p16+rope items,32/8x128p1+cap sinks")


def check_case(kernels, config, name, parts=(1, 3), blocks=(None, 3), batches=len(BATCHES)):
    variant = VARIANTS[name]
    worst, away, faults = 0.0, 0.0, []
    for number, (queries, lengths, rising) in enumerate(BATCHES[:batches]):
        data = Data(config, queries, lengths, seed=number, rising=rising)
        data.holes, data.item = 5, 41
        for causal in (True, False):
            if variant.window is not None and not causal:
                continue
            arguments, kept = variant.arguments(data, causal)
            wanted, wanted_lse = oracle(variant, data, causal, gpu.DTYPES[config.dtype][0])
            o, lse = data.sets[0][5:7]
            for cut in parts:
                for grid in blocks:
                    o.fill_(math.nan), lse.fill_(math.nan)
                    launch = StagedLaunch(kernels, data, 0, causal and variant.causal, cut, grid, arguments, variant.window)
                    launch(), launch()
                    torch.cuda.synchronize()
                    rows = sum(lengths)
                    left = launch.prefill.workspace[3].any().item()
                    stored = [x.float() / (s[:, None] if config.kv_dtype else 1) for x, s in zip(data.sets[0][1:3], data.scales)]
                    got = [(x[:rows].float(), y) for x, y in zip((launch.rows.key, launch.rows.value), stored) if x is not None]
                    # Exact, but for keys that turn, and what dividing by the oracle's scales loses.
                    off = max([(torch.nan_to_num(a - b, math.inf).abs() / (b.abs() + 1e-3)).max().item() for a, b in got[1 if variant.turn else 0:]], default=0.0)
                    over = sum((~x[rows:].isnan()).sum().item() for x in (launch.rows.key, launch.rows.value) if x is not None)
                    error = ((o.double() - wanted).norm() / wanted.norm()).item()
                    nothing = wanted_lse == -math.inf
                    lse_off = (lse.double() - wanted_lse)[~nothing].abs().max().item()
                    wrong = (~(lse[nothing] == -math.inf)).sum().item() + (o[nothing] != 0).sum().item()
                    worst, away = max(worst, error if error == error else math.inf), max(away, lse_off)
                    near = 1e-3 * wanted_lse[~nothing].abs().max().item() if variant.turn else 0.0
                    if not error < (6e-3 if config.dtype == "bf16" else 2e-3) or not lse_off < max(1e-2, near) or wrong or left or off > (1e-5 if config.kv_dtype else 0) or over:
                        faults.append(f"batch {number} {'causal' if causal else 'full'} parts {cut} blocks {grid}: error {error:.2e}, lse off by {lse_off:.2e}, "
                                      f"{wrong} wrong of hidden rows, staged rows off by {off:.1e}, {over} written behind them{', queue left' if left else ''}")
    return worst, away, faults


def run_check(options):
    cases = parse(options.cases or CHECKS)
    kernels = compile_cases(cases, versions_of(options.version), ("staged",))
    failed = 0
    for (version, config, name), made in kernels.items():
        worst, away, faults = check_case(made, config, name, blocks=(None,) if options.quick else (None, 3), batches=options.batches)
        failed += len(faults)
        print(f"{'FAILED' if faults else 'ok    '} {version} {config.name} {name}: error {worst:.2e}, of lse {away:.1e}", *faults[:3], sep="\n  " if faults else "", flush=True)
    print(f"{len(kernels)} cases checked, {failed} failures")
    return failed


def graphs_of(made, config, name, queries, lengths, causal, version, plain):
    """Captured launches of each kind over the same sequences; and reuse, operations, bytes staged."""
    variant = VARIANTS[name]
    data = Data(config, queries, lengths, sets=2)
    arguments, kept = variant.arguments(data, causal)
    flops = data.flops(causal)
    times = max(1, math.ceil(GRAPH_US / (flops / 4e8 + 5) / 2))
    rows = Rows(data)
    graphs = {}
    staged = [StagedLaunch(made, data, i, causal, arguments=arguments, window=variant.window, rows=rows) for i in range(2)]
    graphs[f"{version} staged"] = gpu.capture(staged * times)
    graphs[f"{version} pass"] = gpu.capture([StagedLaunch(made, data, i, causal, arguments=arguments, window=variant.window, rows=rows, prefills=False) for i in range(2)] * times)
    if plain:
        graphs["alone"] = gpu.capture([Launch(made["alone"], data, i, causal, arguments=arguments, window=variant.window, overlaps=True) for i in range(2)] * times)
        seen = rows.ragged()
        seen.sets = [(q, k, v, rows.key.clone(), stored if rows.value is None else rows.value.clone(), o, lse) for q, k, v, _, stored, o, lse in data.sets]
        graphs["plain"] = gpu.capture([Launch(made["plain"], seen, i, causal, overlaps=True) for i in range(2)] * times)
    words = staged[0].prefill.list.cpu()
    items = words[4:].view(-1, 8)  # begin and end are words 1 and 2; word 2 of the header is how many head tiles each expands to
    reuse = (items[:, 2] - items[:, 1]).sum().item() * words[2].item() / config.kv_heads / max(1, sum(lengths))
    return graphs, flops, reuse, kept


def bytes_staged(config, tokens):
    """Read and written; of ragged keys and values only keys."""
    return tokens * config.kv_heads * config.dim * (2 + (1 if config.kv_dtype else 2)) * (2 if config.page else 1)


def run_time(options):
    versions, cases = versions_of(options.version), parse(options.cases)
    kernels = compile_cases(cases, versions)
    rows = []
    for config, name in cases:
        for length in map(int, options.lengths.split(",")):
            batch = options.batch or max(1, LAUNCH_TOKENS // length)
            for count in (map(int, options.queries.split(",")) if options.queries else (length,)):
                for causal in {"causal": (True,), "full": (False,), "both": (True, False)}[options.mask]:
                    graphs, kept = {}, []
                    for i, version in enumerate(versions):
                        more, flops, reuse, tensors = graphs_of(kernels[version, config, name], config, name, [count] * batch, [length] * batch, causal, version, i == 0)
                        graphs |= more
                        kept.append(tensors)
                    passes = [name for name in graphs if name.endswith("pass")]
                    us = gpu.time_in_turn({name: graph for name, graph in graphs.items() if name not in passes}, options.rounds)
                    us |= gpu.time_in_turn({name: graphs[name] for name in passes}, options.rounds)
                    moved = bytes_staged(config, length * batch)
                    print(f"{config.name} {name} {'causal' if causal else 'full'} {batch}x{count}" + (f" on {length}" if count != length else "") + f": reuse {reuse:.1f}, plain {us['plain']:.1f} us "
                          f"{flops / us['plain'] / 1e6:.0f} TFLOP/s, alone {us['plain'] / us['alone']:.3f}", end="")
                    for version in versions:
                        t = us[f"{version} staged"]
                        print(f"; {version} {us['plain'] / t:.3f} ({us['alone'] / t:.3f} of alone), pass {us[f'{version} pass']:.1f} us {moved / us[f'{version} pass'] / 1e3:.0f} GB/s, "
                              f"left {t - us['plain']:.1f}", end="")
                    print(flush=True)
                    rows.append((config, name, causal, batch, count, length, flops, reuse, moved, us))
                    del graphs, kept
                    torch.cuda.empty_cache()
    if options.out:
        write(options, rows, copy_gbps())
    return 0


def copy_gbps(bytes_=1 << 28):
    """A copy of the device's, bytes read and written."""
    a, b = (torch.empty(bytes_, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * bytes_ / gpu.time_in_turn({"copy": gpu.capture([lambda: b.copy_(a)] * 4)})["copy"] / 1e3


def run_copy(options):
    versions, cases = versions_of(options.version), parse(options.cases)
    kernels = compile_cases(cases, versions, ("staged",))
    print(f"copy {copy_gbps():.0f} GB/s")
    for config, name in cases:
        for length in map(int, options.lengths.split(",")):
            batch, graphs = max(1, LAUNCH_TOKENS // length), {}
            data = Data(config, [1] * batch, [length] * batch, sets=2)
            arguments, kept = VARIANTS[name].arguments(data, True)
            rows = Rows(data)
            for version in versions:
                graphs[version] = gpu.capture([StagedLaunch(kernels[version, config, name], data, i, True, arguments=arguments, rows=rows, prefills=False) for i in range(2)] * 8)
            moved = bytes_staged(config, length * batch)
            print(f"{config.name} {name} {batch}x{length}: " + ", ".join(f"{v} {t:.1f} us {moved / t / 1e3:.0f} GB/s" for v, t in gpu.time_in_turn(graphs, options.rounds).items()), flush=True)
    return 0


def write(options, rows, copied):
    """A results file as the benchmarks write them."""
    result = {**gpu.device(), "date": datetime.date.today().isoformat(), "commit": options.commit,
              "note": "benchmarks/lab/staged.py: kernels without the library around them, in turn in one process, by graph replay. plain: ragged attention without a variant; alone: "
                      "the kernel that prepares keys and values by itself; staged: fi_stage and the kernel over its rows; pass: fi_stage alone.",
              "ceilings": {"copyGBps": round(copied)}, "rows": []}
    for config, name, causal, batch, count, length, flops, reuse, moved, us in rows:
        for kind, t in us.items():
            result["rows"].append({
                "bench": "prefill",
                "case": f"{config.name}{'' if name == 'none' else ' ' + name} {'causal' if causal else 'full'} batch={batch} qoLen={count} kvLen={length} {kind.split()[-1]}",
                "params": {"variant": f"{kind.split()[-1]}{'' if name == 'none' else ' ' + name}", "dtype": {"bf16": "BFloat16", "f16": "Float16"}[config.dtype],
                           **({"kvDtype": {"e4m3": "Float8E4M3", "e5m2": "Float8E5M2"}[config.kv_dtype]} if config.kv_dtype else {}),
                           "heads": config.heads, "kvHeads": config.kv_heads, "headDim": config.dim, **({"pageSize": config.page} if config.page else {}), "batch": batch, "qoLen": count, "kvLen": length,
                           "causal": causal, "layout": "Nhd" if config.page else "Ragged"},
                "us": round(t, 2), "tilesPerToken": round(reuse, 1),
                **({"gbps": round(moved / t / 1e3)} if kind.endswith("pass") else {"tflops": round(flops / t / 1e6, 1), "ratioToRagged": round(us["plain"] / t, 4)})})
    gpu.add_rows(options.out, result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "time", "copy"])
    parser.add_argument("--version", action="append", metavar="NAME=FOLDER[:MACRO,...]")
    parser.add_argument("--cases", default="")
    parser.add_argument("--lengths", default="4096")
    parser.add_argument("--queries", help="query tokens of a sequence; all of its tokens if left out")
    parser.add_argument("--batch", type=int, help="sequences; as many as have 16,384 tokens if left out")
    parser.add_argument("--mask", default="causal", choices=["both", "causal", "full"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="check: one grid only")
    parser.add_argument("--batches", type=int, default=len(BATCHES), help="check: only so many batches")
    parser.add_argument("--out", help="a results file to write, or add rows to")
    parser.add_argument("--commit", default="", help="what --out says of the versions")
    options = parser.parse_args()
    torch.manual_seed(1)
    return {"check": run_check, "time": run_time, "copy": run_copy}[options.what](options)


if __name__ == "__main__":
    sys.exit(main())
