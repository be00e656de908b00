#!/usr/bin/env python3
"""What the time of a launch of decode depends on beside the kernel: timing_lab.py [CASES].

For each case of decode_lab.py, µs a launch: in graphs of one, four and sixteen passes over the layers, replayed one by one (host and device
wait for each other) and queued behind one another; primed, that is with the device busy until the graph is queued; after a pause; in turn
with a kernel that only reads, with matrix products, with another version of itself; in other memory, with other page tables. Clocks and
power are NVML's, in the middle of each.
"""
import ctypes
import os
import random
import statistics
import struct
import sys
import time

import torch

import cuda
import decode_lab as lab

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = 0.2
SPIN = """struct Params { long long nanoseconds; };
extern "C" __global__ void spin(const __grid_constant__ Params p) {
  long long from, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(from));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now - from < p.nanoseconds);
}"""


class Nvml:
    def __init__(self):
        self.lib = ctypes.CDLL("libnvidia-ml.so.1")
        self.lib.nvmlInit_v2()
        self.device = ctypes.c_void_p()
        self.lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device))

    def ask(self, name, *arguments, kind=ctypes.c_uint):
        value = kind()
        return value.value if not getattr(self.lib, name)(self.device, *arguments, ctypes.byref(value)) else -1

    def __str__(self):
        sm, memory = self.ask("nvmlDeviceGetClockInfo", 1), self.ask("nvmlDeviceGetClockInfo", 2)
        reasons = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
        return f"{sm}/{memory} MHz {self.ask('nvmlDeviceGetPowerUsage') / 1e3:.0f} W {self.ask('nvmlDeviceGetTemperature', 0)} C reasons {reasons:x}"


class Events:
    """Replays with an event before and behind each, read when all are done."""

    def __init__(self):
        self.pairs = []

    def replay(self, graph):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        self.pairs.append((start, stop))

    def median(self):
        torch.cuda.synchronize()
        times = sorted(start.elapsed_time(stop) * 1e3 for start, stop in self.pairs[1:])
        return times[len(times) // 2]


class Bench:
    def __init__(self):
        self.nvml = Nvml()
        headers = lab.own_headers()
        self.spin = cuda.Kernel(cuda.compile_cubin(SPIN, headers), "spin", has_info=False)
        self.spin.threads = 32
        self.spin_params = ctypes.create_string_buffer(struct.pack("<q", 60_000), 8)
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        torch.mm(a, a)  # makes what it needs, which cannot be made in a capture
        self.products = cuda.record(lambda: [torch.mm(a, a) for _ in range(4)])

    def run(self, graph, launches, before=None, queued=False):
        """Median µs a launch, and the state of the device."""
        events, state, end = Events(), "", time.time() + SECONDS
        while time.time() < end:
            if before:
                before()
            events.replay(graph)
            if not state and time.time() > end - SECONDS / 2:
                state = str(self.nvml)
            if not queued or len(events.pairs) % 16 == 0:
                torch.cuda.synchronize()
        return events.median() / launches, state

    def prime(self):
        self.spin.launch(self.spin_params, 1, overlaps=False)


def measure(bench, name, kernel, reader, pool, ceiling):
    case = lab.make_case(name)
    cache = lab.make_cache(case, pool)
    own, roof = lab.Launch(kernel, cache), lab.Launch(reader, cache)
    graphs = {n: own.record(n) for n in (1, 4, 16)}
    roofs = {n: roof.record(n) for n in (1, 16)}
    layers = cache.layers

    def show(what, graph, count, **how):
        us, state = bench.run(graph, count * layers, **how)
        print(f"  {what:36} {us:8.2f} us  {case.kv_bytes / us / 1e3 / ceiling:.4f}  {state}", flush=True)
        return us

    print(f"{name}: {layers} layers", flush=True)
    times = {}
    for n, graph in graphs.items():
        times[n] = show(f"{n} passes, one by one", graph, n)
        show(f"{n} passes, queued", graph, n, queued=True)
    fixed = (times[1] - times[16]) * layers * 16 / 15
    print(f"  fixed {fixed:.1f} us a graph, each launch {times[16] - fixed / 16 / layers:.2f}")
    show("1 pass, primed", graphs[1], 1, before=bench.prime)
    show("1 pass, after 5 ms", graphs[1], 1, before=lambda: (torch.cuda.synchronize(), time.sleep(0.005)))
    show("1 pass, in turn with the reader", graphs[1], 1, before=roofs[1].replay)
    show("16 passes, in turn with the reader", graphs[16], 16, before=roofs[1].replay)
    show("1 pass, in turn with products", graphs[1], 1, before=bench.products.replay)
    show("16 passes, in turn with products", graphs[16], 16, before=bench.products.replay)
    show("reader, 1 pass, one by one", roofs[1], 1)
    show("reader, 16 passes, one by one", roofs[16], 16)
    show("reader, 16 passes, after the kernel", roofs[16], 16, before=graphs[1].replay)
    show("16 passes, one by one", graphs[16], 16)


def memory(bench, name, kernel, pools, ceiling):
    """The same launches in other memory and with other page tables."""
    case = lab.make_case(name)
    for number, pool in enumerate(pools):
        times = []
        for seed in (7, 8, 9):
            cache = lab.make_cache(case, pool)
            order = list(range(case.layer_pages))
            random.Random(seed).shuffle(order)
            cache.pages.copy_(torch.tensor(order, dtype=torch.int32))
            launch = lab.Launch(kernel, cache)
            us, _ = bench.run(launch.record(8), launch.launches)
            times.append(us)
        print(f"{name} pool {number}: " + " ".join(f"{us:.2f}" for us in times) + " us with three page tables", flush=True)


if __name__ == "__main__":
    torch.zeros(1, device="cuda")
    began = time.time()
    names = (sys.argv[1] if len(sys.argv) > 1 else "256x512,mqa512,lognormal,mixed,d128").split(",")
    kernel, reader = lab.Version("new="), lab.Version(f"reader=:{HERE}/reader.py")
    cases = {case.unit_key(): case for case in map(lab.make_case, names)}.values()
    for version in (kernel, reader):
        version.compile(cases)
    pool = lab.make_pool(torch.bfloat16)
    bench = Bench()
    ceiling = lab.read_ceiling(pool)
    print(f"{torch.cuda.get_device_name()}, ceiling {ceiling:.0f} GB/s, {time.time() - began:.1f} s", flush=True)
    for name in names:
        measure(bench, name, kernel, reader, pool, ceiling)
    others = [pool]
    held = torch.empty(20 << 30, dtype=torch.uint8, device="cuda")
    others += [lab.make_pool(torch.bfloat16), lab.make_pool(torch.bfloat16)]
    for name in names[:4]:
        memory(bench, name, kernel, others, ceiling)
    print(f"ceiling again {lab.read_ceiling(pool):.0f} GB/s, {time.time() - began:.1f} s, {bench.nvml}")
