#!/usr/bin/env python3
"""Times PyTorch's attention for the prefill benchmark, which runs this as a child process.

The first line out says what is here: {"torch": "2.11.0", "cudnn": "9.19"}. Then every line in is one request, answered by
one line:

  {"backend": "cudnn", "dtype": "bfloat16", "batch": 8, "qoLen": 2048, "kvLen": 2048, "heads": 32, "kvHeads": 8,
   "headDim": 128, "valueDim": 128, "causal": true}
                                               -> {"us": 123.4}     one scaled_dot_product_attention, contiguous K and V
  {"matmul": 8192, "dtype": "bfloat16"}        -> {"us": 1500.2}    one product of two such square matrices
  anything that cannot be timed                -> {"error": "why"}

backend is cudnn or flash. A time is the median of some replays of a CUDA graph, after one that is not timed. What a request needs stays prepared until a
request about other shapes comes, so that the caller can time several backends and itself in turn.
"""
import json
import math
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
INPUT_SETS = 2  # used in turn: the second finds little of the first in the L2 cache
GRAPH_US = 10000.0  # a graph is about as long as ours
SAMPLE_US = 20000.0  # replays of one request


def elapsed_us(work):
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e3


class Prepared:
    """A launch captured often enough, over all input sets."""

    def __init__(self, launch, inputs):
        for _ in range(3):
            launch(*inputs[0])
        once = elapsed_us(lambda: launch(*inputs[-1]))
        rounds = math.ceil(GRAPH_US / max(once, 1.0) / len(inputs))
        self.launches = rounds * len(inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(rounds):
                for one in inputs:
                    launch(*one)
        self.samples = min(max(int(SAMPLE_US / (once * self.launches)), 1), 10)

    def us(self):
        self.graph.replay()  # not timed: the device has rested while the caller switched to this process
        return statistics.median(elapsed_us(self.graph.replay) for _ in range(self.samples)) / self.launches


class Shape:
    """Inputs of one shape, and what has been captured over them: one graph for each backend."""

    def __init__(self, request):
        self.causal = request["causal"]
        if self.causal and request["qoLen"] != request["kvLen"]:
            raise ValueError("causal attention of PyTorch is aligned to the first token: qoLen must be kvLen")
        self.groups = request["heads"] // request["kvHeads"]
        dtype = getattr(torch, request["dtype"])

        def tensor(tokens, heads, dim="headDim"):  # [batch, tokens, heads, dim] in memory
            size = request["batch"], tokens, heads, request[dim]
            return torch.randn(size, device="cuda", dtype=dtype).transpose(1, 2)

        self.inputs = [
            (
                tensor(request["qoLen"], request["heads"]),
                tensor(request["kvLen"], request["kvHeads"]),
                tensor(request["kvLen"], request["kvHeads"], "valueDim"),
            )
            for _ in range(INPUT_SETS)
        ]
        self.prepared = {}

    def us(self, backend):
        if backend not in self.prepared:

            def launch(q, k, v):
                with sdpa_kernel(BACKENDS[backend]):
                    F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=self.groups > 1)

            self.prepared[backend] = Prepared(launch, self.inputs)
        return self.prepared[backend].us()


class Product:
    def __init__(self, request):
        size = request["matmul"], request["matmul"]
        self.inputs = [tuple(torch.randn(size, device="cuda", dtype=getattr(torch, request["dtype"])) for _ in range(2))]
        self.output = torch.empty_like(self.inputs[0][0])
        self.prepared = Prepared(lambda a, b: torch.mm(a, b, out=self.output), self.inputs)

    def us(self, _):
        return self.prepared.us()


def main():
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU")
    cudnn = torch.backends.cudnn.version()
    print(json.dumps({"torch": torch.__version__, "cudnn": f"{cudnn // 10000}.{cudnn // 100 % 100}"}), flush=True)
    shape, current = None, None
    for line in sys.stdin:
        request = json.loads(line)
        backend = request.pop("backend", None)
        try:
            if request != shape:
                shape, current = None, None  # frees the memory of the one before
                torch.cuda.empty_cache()
                current = Product(request) if "matmul" in request else Shape(request)
                shape = request
            answer = {"us": current.us(backend)}
        except Exception as e:  # whatever PyTorch refuses: the benchmark goes on without
            answer = {"error": f"{type(e).__name__}: {e}".splitlines()[0][:300]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
