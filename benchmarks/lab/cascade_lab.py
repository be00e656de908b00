#!/usr/bin/env python3
"""What the idle kernels of a captured cascade cost where decode's does all of the work: cascade_lab.py VERSION [VERSION...], with versions as
decode_lab.py's. P: a prefill kernel over an empty list, of each level; D: decode; M: a merge whose mask leaves all rows alone."""
import ctypes
import statistics
import sys

import torch

import cuda
import decode_lab
import gpu
import merge_lab
import prefill

ROWS, HEADS, KV_HEADS, DIM, PAGE = 16, 32, 8, 128, 16
LAYERS = 200  # of a graph


class Idle:
    """A prefill kernel, and its arguments over a list whose items have gone."""

    def __init__(self, version, data):
        text = data.config.unit("lab").replace("lab_info", "info")
        self.kernel = cuda.Kernel(cuda.compile_cubin(text, version.headers), "lab")
        self.info = dict(zip(gpu.KERNEL_INFO, (getattr(self.kernel, name) for name in cuda.Kernel.INFO)))
        self.launch = prefill.Launch(self, data, 0, True)
        self.launch.list[0] = 0
        self.params = (ctypes.c_char * (prefill.WORDS * 8 + 4 * 128)).from_address(self.launch.params.address)
        self.blocks = torch.cuda.get_device_properties(0).multi_processor_count

    def run(self):
        self.kernel.launch(self.params, self.blocks)


def shared_prefix(prefix, suffix):
    """Two layers of sequences that begin with the same pages."""
    case = decode_lab.Case("cascade", [prefix + suffix] * ROWS, HEADS, KV_HEADS, DIM, PAGE)
    pool = torch.randn(2 * 2 * case.layer_pages * PAGE * KV_HEADS * DIM, device="cuda").to(torch.bfloat16)
    cache = decode_lab.Cache(case, pool, 2)
    each = -(-(prefix + suffix) // PAGE)
    for s in range(1, ROWS):
        cache.pages[s * each : s * each + prefix // PAGE] = cache.pages[: prefix // PAGE]
    return cache


def main():
    torch.zeros(1, device="cuda")  # makes the context
    versions = [decode_lab.Version(text) for text in sys.argv[1:]]
    data = prefill.Data(prefill.Config(HEADS, KV_HEADS, DIM, DIM, page=PAGE), [1] * ROWS, [64] * ROWS)
    idle = {v.name: Idle(v, data) for v in versions}
    merge = {v.name: cuda.Kernel(cuda.compile_cubin(merge_lab.unit(torch.bfloat16), v.headers), "merge") for v in versions}
    mask = torch.zeros(ROWS, dtype=torch.int32, device="cuda")
    other = torch.zeros(ROWS, 1, HEADS, DIM, device="cuda", dtype=torch.bfloat16), torch.zeros(ROWS, 1, HEADS, device="cuda")
    print(torch.cuda.get_device_name())
    for prefix, suffix in ((2048, 128), (8192, 512)):
        decode = decode_lab.Launch(versions[0], shared_prefix(prefix, suffix))
        state = decode.output, decode.lse
        decode.run(overlaps=False)
        torch.cuda.synchronize()
        expected = decode.output.clone()
        graphs = {}
        for name in idle:
            merged = merge_lab.Launch(merge[name], state, other, state, mask)
            steps = {"P": lambda layer: idle[name].run(), "D": lambda layer: decode.run(layer % 2), "M": lambda layer: merged.run()}
            for chain in ("D", "P D", "P P D", "D M", "P P D M"):
                graphs[name, chain] = cuda.record(lambda: [steps[step](layer) for layer in range(LAYERS) for step in chain.split()])
                [steps[step](0) for step in chain.split()]
                torch.cuda.synchronize()
                assert torch.equal(expected.view(torch.int16), decode.output.view(torch.int16)), f"{name} {chain}: idle kernels changed the output"
        times = {key: [] for key in graphs}
        for _ in range(7):
            for key, graph in graphs.items():
                cuda.replay_us(graph)
                times[key].append(statistics.median(cuda.replay_us(graph) for _ in range(3)) / LAYERS)
        for (name, chain), rounds in times.items():
            us, alone = statistics.median(rounds), statistics.median(times[name, "D"])
            print(f"{ROWS} x ({prefix} + {suffix}) {name:12} {chain:8} {us:6.2f} us, {us - alone:+5.2f}, {alone / us:.3f} of decode", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
