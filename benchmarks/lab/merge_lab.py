#!/usr/bin/env python3
"""Tests and times versions of the kernel that merges states of attention side by side: merge_lab.py VERSION [VERSION...], with versions as
decode_lab.py's; merge_lab.py check VERSION... only tests."""
import ctypes
import itertools
import struct
import sys

import torch

import append_lab
import cuda
import decode_lab

ELEMENTS = {torch.bfloat16: "BFloat16", torch.float16: "Half", torch.float32: "Float32"}
TOLERANCES = {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.float32: 1e-6}


def unit(dtype):
    return f"""#include "attention/merge_states.cuh"
struct Config {{
  using Element = flashinfer::{ELEMENTS[dtype]};
}};
using Kernel = flashinfer::MergeStates<Config>;
extern "C" __constant__ flashinfer::KernelInfo info = Kernel::info();
extern "C" __global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    merge(const __grid_constant__ flashinfer::MergeStatesParams params) {{
  Kernel::run(params);
}}"""


class Launch:
    """first: (output, lse), others: (output [rows, states, heads, dim], lse [rows, states, heads]); what it writes into: (output, lse)."""

    def __init__(self, kernel, first, others, result, mask=None, indptr=None):
        _, count, heads, dim = others[0].shape
        rows = result[0].shape[0]
        words = [*(t.data_ptr() for t in (*first, *others, *result)), *(t.data_ptr() if t is not None else 0 for t in (mask, indptr))]
        words += [*first[0].stride()[:2], *first[1].stride(), *others[0].stride()[:3], *others[1].stride(), *result[0].stride()[:2], *result[1].stride()]
        self.params = ctypes.create_string_buffer(struct.pack("<22q4i", *words, rows, count, heads, dim), 24 * 8)
        chunks = dim * first[0].element_size() // 16
        group = kernel.threads // chunks  # pairs that a block takes at once
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.kernel, self.blocks = kernel, max(1, min(-(-rows * heads // group), sms * kernel.blocks_per_sm))
        self.keep = first, others, result, mask, indptr

    @classmethod
    def ragged(cls, kernel, states, indptr, result):
        """states: (output [states, heads, dim], lse [states, heads]), of which others are a view that begins with the second and has their number."""
        output, lse = states
        count = output.shape[0]
        stride, lse_stride = output.stride(), lse.stride()
        others = (output[1:].as_strided((1, count, *output.shape[1:]), (stride[0], *stride)), lse[1:].as_strided((1, count, lse.shape[1]), (lse_stride[0], *lse_stride)))
        return cls(kernel, states, others, result, indptr=indptr)

    def run(self, overlaps=True):
        self.kernel.launch(self.params, self.blocks, overlaps)


def oracle(first, others):
    lse = torch.cat([first[1].double()[:, None], others[1].double()], 1)
    output = torch.cat([first[0].double()[:, None], others[0].double()], 1)
    high = lse.amax(1, keepdim=True)
    weights = torch.exp2(lse - torch.where(high > -torch.inf, high, 0.0))
    total = weights.sum(1)
    output = torch.where((weights > 0)[..., None], output, 0.0)
    merged = (output * weights[..., None]).sum(1) / torch.where(total > 0, total, 1.0)[..., None]
    return merged, high[:, 0] + torch.log2(total)


def check(kernels):
    generator = torch.Generator("cuda").manual_seed(11)
    draw = lambda *shape: torch.randn(*shape, device="cuda", generator=generator)
    for dtype, dim, count, place, masked in itertools.product(ELEMENTS, (8, 64, 96, 128, 192, 256, 512), (0, 1, 2, 7), (False, True), (False, True)):
        rows, heads = 37, 5
        first = draw(rows, heads, dim).to(dtype), 8 * draw(rows, heads)
        others = draw(rows, count, heads + 1, dim).to(dtype)[:, :, 1:], 8 * draw(count, rows, heads).transpose(0, 1)
        empty = torch.rand(rows, heads, device="cuda") < 0.3, torch.rand(rows, count, heads, device="cuda") < 0.3
        empty[0][:3], empty[1][:3] = True, True  # nothing to merge at all
        for state, none in zip((first, others), empty):
            state[1][none], state[0][none] = -torch.inf, torch.nan
        mask = (torch.rand(rows, device="cuda") < 0.5).int() if masked and place else None
        merges = mask > 0 if mask is not None else torch.ones(rows, device="cuda", dtype=torch.bool)
        expected = [t[merges] for t in oracle(first, others)]
        left_alone = [t[~merges].clone() for t in first]
        result = first if place else (torch.full_like(first[0], torch.nan), torch.full_like(first[1], torch.nan))
        Launch(kernels[dtype], first, others, result, mask).run(overlaps=False)
        torch.cuda.synchronize()
        same = all(torch.equal(now[~merges].nan_to_num(7), before.nan_to_num(7)) for now, before in zip(result, left_alone)) or not place
        result = [t[merges] for t in result]
        error = (result[0].double() - expected[0]).norm() / expected[0].norm()
        none = expected[1] == -torch.inf
        same &= torch.equal(result[1] == -torch.inf, none) and not result[0][none].any()
        lse = (result[1] - expected[1])[~none].abs().max()
        assert same and error < TOLERANCES[dtype] and lse < 1e-5, f"{dtype} dim {dim}, {count} others, in place {place}, mask {masked}: {error:.2e}, LSE {lse:.2e}, empty {same}"


def check_ragged(kernels):
    generator = torch.Generator("cuda").manual_seed(12)
    for dtype, dim in itertools.product(ELEMENTS, (8, 128, 192)):
        counts = torch.randint(0, 6, (41,), device="cuda", generator=generator)
        indptr = torch.cat([torch.zeros(1, device="cuda", dtype=torch.int64), counts.cumsum(0)]).int()
        total, heads = int(indptr[-1]), 5
        # A state more, for the view behind the first.
        output = torch.randn(total + 1, heads, dim, device="cuda", generator=generator).to(dtype)
        lse = 8 * torch.randn(total + 1, heads, device="cuda", generator=generator)
        lse[torch.rand(total + 1, heads, device="cuda") < 0.2] = -torch.inf
        result = torch.full((41, heads, dim), torch.nan, device="cuda", dtype=dtype), torch.full((41, heads), torch.nan, device="cuda")
        Launch.ragged(kernels[dtype], (output[:total], lse[:total]), indptr, result).run(overlaps=False)
        torch.cuda.synchronize()
        for row in range(41):
            mine = slice(int(indptr[row]), int(indptr[row + 1]))
            if mine.start == mine.stop:
                assert not result[0][row].any() and (result[1][row] == -torch.inf).all(), f"{dtype} row {row} has no state"
                continue
            expected = oracle((output[mine.start:mine.start + 1], lse[mine.start:mine.start + 1]), (output[mine.start + 1 : mine.stop][None], lse[mine.start + 1 : mine.stop][None]))
            none = expected[1][0] == -torch.inf
            error = (result[0][row].double() - expected[0][0]).norm() / max(expected[0].norm(), 1e-9)
            assert torch.equal(result[1][row] == -torch.inf, none) and error < TOLERANCES[dtype], f"{dtype} dim {dim} row {row}: {error:.2e}"
            assert not (result[1][row] - expected[1][0])[~none].abs().gt(1e-5).any()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    only_check = sys.argv[1] == "check"
    torch.zeros(1, device="cuda")  # makes the context
    versions = [decode_lab.Version(text) for text in sys.argv[1 + only_check :]]
    kernels = [{dtype: cuda.Kernel(cuda.compile_cubin(unit(dtype), version.headers), "merge") for dtype in ELEMENTS} for version in versions]
    for version, kernel in zip(versions, kernels):
        print(f"{version.name}: registers {[k.registers for k in kernel.values()]}, local {[k.local for k in kernel.values()]}", flush=True)
        check(kernel)
        check_ragged(kernel)
    if only_check:
        sys.exit()
    pool = decode_lab.make_pool(torch.bfloat16)
    ceiling = append_lab.copy_ceiling(pool)
    print(f"{torch.cuda.get_device_name()}: copy ceiling {ceiling:.0f} GB/s")
    heads, dim = 32, 128
    for rows, states in ((1, 2), (256, 2), (4096, 2), (16384, 2), (16384, 4), (1024, 100)):
        if rows * states * heads * dim * 2 > pool.numel():
            continue
        # Buffers in rotation, together larger than the L2.
        block = rows * heads * dim
        copies = max(1, min(64, pool.numel() // ((states + 1) * block)))
        lse = torch.randn(states + 1, rows, heads, device="cuda")
        launches = []
        for kernel in kernels:
            launches.append([])
            for copy in range(copies):
                at = pool[copy * (states + 1) * block :][: (states + 1) * block].view(states + 1, rows, heads, dim)
                states_of = at[1:states].transpose(0, 1), lse[1:states].transpose(0, 1)
                launches[-1].append(Launch(kernel[torch.bfloat16], (at[0], lse[0]), states_of, (at[states], lse[states])))
        passes = max(1, 64 // copies)
        graphs = [cuda.record(lambda: [launch.run() for launch in some * passes]) for some in launches]
        times = [us / (copies * passes) for us in decode_lab.interleave(graphs, 5)]
        moved = (states + 1) * rows * heads * (2 * dim + 4)
        print(f"{rows} rows, {states} states: " + " | ".join(f"{v.name} {us:.2f} us {moved / us / 1e3 / ceiling:.3f}" for v, us in zip(versions, times)), flush=True)
    # As many states in all, and for each row one to seven.
    rows, mean = 4096, 4
    counts = torch.randint(1, 2 * mean, (rows,), device="cuda")
    indptr = torch.cat([torch.zeros(1, device="cuda", dtype=torch.int64), counts.cumsum(0)]).int()
    total = int(indptr[-1])
    block = (total + 1 + rows) * heads * dim
    copies = max(1, min(16, pool.numel() // block))
    lse = torch.randn(total + 1 + rows, heads, device="cuda")
    launches = []
    for kernel in kernels:
        launches.append([])
        for copy in range(copies):
            at = pool[copy * block :][:block].view(-1, heads, dim)
            launches[-1].append(Launch.ragged(kernel[torch.bfloat16], (at[:total], lse[:total]), indptr, (at[total + 1 :], lse[total + 1 :])))
    graphs = [cuda.record(lambda: [launch.run() for launch in some * 4]) for some in launches]
    times = [us / (copies * 4) for us in decode_lab.interleave(graphs, 5)]
    moved = (total + rows) * heads * (2 * dim + 4)
    print(f"{rows} rows, {total} states of variable number: " + " | ".join(f"{v.name} {us:.2f} us {moved / us / 1e3 / ceiling:.3f}" for v, us in zip(versions, times)), flush=True)
