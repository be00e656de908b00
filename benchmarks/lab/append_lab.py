#!/usr/bin/env python3
"""Tests and times versions of the append kernel side by side: append_lab.py VERSION [VERSION...], with versions as decode_lab.py's;
append_lab.py check VERSION... only tests."""
import ctypes
import random
import statistics
import struct
import sys

import torch

import cuda
import decode_lab

UNIT = """#include "cache/append.cuh"
struct Config {
  using Element = flashinfer::BFloat16;
  using KvElement = flashinfer::BFloat16;
  static constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128, kPageSize = 16;
  static constexpr bool kChecked = false;
};
using Kernel = flashinfer::Append<Config>;
extern "C" __constant__ flashinfer::KernelInfo info = Kernel::info();
extern "C" __global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    append(const __grid_constant__ flashinfer::AppendParams params) {
  Kernel::run(params);
}"""
HEADS, DIM, PAGE = 8, 128, 16
LAUNCHES = 96  # of a graph at least, so that starting it does not count


class Launch:
    """One list for all layers, as in a step."""

    def __init__(self, kernel, pool, keys, values, sequences, tokens, layers, start=0):
        pages_each = -(-(start + tokens) // PAGE)
        self.layer_pages = sequences * pages_each
        order = list(range(self.layer_pages))
        random.Random(7).shuffle(order)
        self.pages = torch.tensor(order, dtype=torch.int32, device="cuda")
        items = [struct.pack("<4i", s * tokens + t, min(16, tokens - t), start + t, s * pages_each) for s in range(sequences) for t in range(0, tokens, 16)]
        raw = struct.pack("<4i", len(items), 0, 0, 0) + b"".join(items)
        self.list = torch.frombuffer(bytearray(raw), dtype=torch.uint8).cuda()
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.kernel, self.blocks = kernel, min(len(items), sms * kernel.blocks_per_sm)
        row = HEADS * DIM
        self.params = []
        for layer in range(layers):
            cache = [pool.data_ptr() + (2 * layer + i) * self.layer_pages * PAGE * row * 2 for i in range(2)]
            words = [keys.data_ptr(), values.data_ptr(), *cache, self.pages.data_ptr(), self.list.data_ptr(), row, DIM, row, DIM, PAGE * row, row, DIM, 0, 0, 0, 0]
            self.params.append(ctypes.create_string_buffer(struct.pack("<17q", *words), 17 * 8))

    def run(self, layer=0, overlaps=True):
        self.kernel.launch(self.params[layer], self.blocks, overlaps)

    def record(self):
        self.run()
        passes = -(-LAUNCHES // len(self.params))
        return cuda.record(lambda: [self.run(layer) for layer in [*range(len(self.params))] * passes])


def check(kernel):
    for sequences, tokens, start in ((1, 1, 0), (3, 1, 37), (5, 40, 9), (300, 3, 15), (1500, 17, 5)):
        keys, values = torch.randn(2, sequences * tokens, HEADS, DIM, device="cuda").bfloat16()
        pages_each = -(-(start + tokens) // PAGE)
        pool = torch.zeros(2, sequences * pages_each, PAGE, HEADS, DIM, dtype=torch.bfloat16, device="cuda")
        launch = Launch(kernel, pool, keys, values, sequences, tokens, 1, start)
        launch.run(overlaps=False)
        torch.cuda.synchronize()
        expected = torch.zeros_like(pool)
        table = launch.pages.long().view(sequences, pages_each)
        position = torch.arange(start, start + tokens, device="cuda")
        for cached, new in ((expected[0], keys), (expected[1], values)):
            cached[table[:, position // PAGE], position % PAGE] = new.view(sequences, tokens, HEADS, DIM)
        assert torch.equal(pool, expected), f"{sequences} sequences of {tokens} tokens from {start} on are wrong"


def copy_ceiling(pool):
    kernel = cuda.Kernel(cuda.compile_cubin(decode_lab.bench_source(), decode_lab.own_headers()), "fi_bench_copy", has_info=False)
    half, best, sms = pool.numel(), 0, torch.cuda.get_device_properties(0).multi_processor_count
    params = ctypes.create_string_buffer(struct.pack("<qqq", pool.data_ptr(), pool.data_ptr() + half, half // 16), 24)
    for blocks in (2, 4, 8, 16):
        graph = cuda.record(lambda: kernel.launch(params, sms * blocks, overlaps=False))
        best = max(best, 2 * half / 1e3 / statistics.median(cuda.replay_us(graph) for _ in range(15)))
    return best


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    only_check = sys.argv[1] == "check"
    torch.zeros(1, device="cuda")  # makes the context
    versions = [decode_lab.Version(text) for text in sys.argv[1 + only_check :]]
    kernels = [cuda.Kernel(cuda.compile_cubin(UNIT, version.headers), "append") for version in versions]
    for kernel in kernels:
        check(kernel)
    if only_check:
        sys.exit()
    pool = decode_lab.make_pool(torch.bfloat16)
    ceiling = copy_ceiling(pool)
    print(f"{torch.cuda.get_device_name()}: copy ceiling {ceiling:.0f} GB/s, registers {[k.registers for k in kernels]}, local {[k.local for k in kernels]}")
    for sequences, tokens in ((1, 1), (32, 1), (256, 1), (8, 2048)):
        keys, values = torch.randn(2, sequences * tokens, HEADS, DIM, device="cuda").bfloat16()
        # Pages as of sequences of 512 tokens: a pass over the layers is more than the L2 holds.
        start = max(0, 512 - tokens)
        layer_bytes = 2 * sequences * -(-(start + tokens) // PAGE) * PAGE * HEADS * DIM * 2
        layers = min(96, pool.numel() * 2 // layer_bytes)
        graphs = [Launch(kernel, pool, keys, values, sequences, tokens, layers, start) for kernel in kernels]
        times = [us / (-(-LAUNCHES // layers) * layers) for us in decode_lab.interleave([launch.record() for launch in graphs], 5)]
        moved = 2 * 2 * sequences * tokens * HEADS * DIM * 2
        print(f"{sequences} x {tokens}: " + " | ".join(f"{v.name} {us:.2f} us {moved / us / 1e3 / ceiling:.3f}" for v, us in zip(versions, times)), flush=True)
