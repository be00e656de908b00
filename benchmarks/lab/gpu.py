"""What the lab's scripts share: NVRTC and the driver through ctypes, PyTorch for memory, and fair timing.

Needs PyTorch with CUDA and libnvrtc (FLASHINFER_NVRTC names its folder when it is not on the loader's path). No .NET: a
version of a kernel is a folder of headers and some macros, so that versions can be compared in one process.
"""
import concurrent.futures
import ctypes
import glob
import json
import os
import re
import statistics

import torch

import cuda

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kernels")
KERNEL_INFO = ("abi_version params_bytes threads shared_bytes blocks_per_sm units_per_item features columns_per_unit crews "
               "teams pack tile_tokens block_tokens").split()
DTYPES = {"bf16": (torch.bfloat16, "BFloat16", 9), "f16": (torch.float16, "Half", 6)}
HARMLESS_NOTE = "C7517"

driver = ctypes.CDLL("libcuda.so.1")
_nvrtc = None


def check(code, what):
    """Throws what a driver call returned."""
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(text))
        raise RuntimeError(f"{what}: {text.value.decode() if text.value else code}")


def nvrtc():
    global _nvrtc
    if _nvrtc is None:
        folder = os.environ.get("FLASHINFER_NVRTC")
        names = sorted(glob.glob(os.path.join(folder, "libnvrtc.so.*"))) if folder else []
        names += ["libnvrtc.so.13", "libnvrtc.so.12"]
        for name in names:
            try:
                _nvrtc = ctypes.CDLL(name)
                break
            except OSError:
                pass
        else:
            raise RuntimeError(f"no libnvrtc among {names}; set FLASHINFER_NVRTC to its folder")
    return _nvrtc


def nvrtc_version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def headers_of(folder):
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path) as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def compile_unit(text, folder=KERNELS, arch="sm_90a", macros=()):
    """Compiles a unit over a folder of headers: the cubin and the log, which has registers and spills."""
    lib = nvrtc()
    headers = headers_of(folder)
    strings = ctypes.c_char_p * len(headers)
    program = ctypes.c_void_p()
    lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"unit.cu", len(headers),
                           strings(*[v.encode() for v in headers.values()]), strings(*[k.encode() for k in headers]))
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--minimal", "--ptxas-options=-v", *[f"-D{m}" for m in macros]]
    if int(nvrtc_version().split(".")[0]) >= 13:
        options.append("--no-cache")
    failed = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    log = log.value.decode(errors="replace")
    if failed:
        raise RuntimeError(f"NVRTC: error {failed}\n{log}")
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, cubin)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw, log


def complaints(log):
    """What of a compilation's log must not be there: spills, and notes that products are serialised."""
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", log) if int(n)]
    notes = sorted(set(re.findall(r"C7\d\d\d", log)) - {HARMLESS_NOTE})
    return " ".join([f"spills {n} B" for n in spills] + notes)


class Kernel:
    """A loaded entry point and the KernelInfo beside it."""

    def __init__(self, cubin, log, name):
        torch.zeros(1, device="cuda")  # PyTorch's context is the driver's current one
        self.cubin, self.log, self.name = cubin, log, name
        module, self.function, info, size = (ctypes.c_void_p() for _ in range(4))
        check(driver.cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
        check(driver.cuModuleGetFunction(ctypes.byref(self.function), module, name.encode()), "cuModuleGetFunction")
        size = ctypes.c_size_t()
        check(driver.cuModuleGetGlobal_v2(ctypes.byref(info), ctypes.byref(size), module, f"{name}_info".encode()), "info")
        words = (ctypes.c_int * (size.value // 4))()
        check(driver.cuMemcpyDtoH_v2(words, info, size), "cuMemcpyDtoH")
        self.info = dict(zip(KERNEL_INFO, words))
        check(driver.cuFuncSetAttribute(self.function, 8, self.info["shared_bytes"]), "shared memory")  # 8: its maximum

    def launch(self, params, blocks, overlaps=False):
        """params: one structure, in memory aligned as the kernel wants it. overlaps: may begin while the kernel before still runs, as in the library."""
        pointers = (ctypes.c_void_p * 1)(params)
        if overlaps:
            attribute = cuda.Attribute(cuda.OVERLAP, 0, (ctypes.c_int * 16)(1))
            config = cuda.LaunchConfig((blocks, 1, 1), (self.info["threads"], 1, 1), self.info["shared_bytes"], torch.cuda.current_stream().cuda_stream,
                                       ctypes.addressof(attribute), 1)
            check(driver.cuLaunchKernelEx(ctypes.byref(config), self.function, pointers, None), "launch")
            return
        check(driver.cuLaunchKernel(self.function, blocks, 1, 1, self.info["threads"], 1, 1, self.info["shared_bytes"],
                                    ctypes.c_void_p(torch.cuda.current_stream().cuda_stream), pointers, None), "launch")


def compile_all(jobs, threads=os.cpu_count()):
    """jobs: {key: (text, folder, arch, macros, entry name)}. All at once; {key: Kernel}."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        compiled = {key: pool.submit(compile_unit, *job[:4]) for key, job in jobs.items()}
    return {key: Kernel(*compiled[key].result(), jobs[key][4]) for key in jobs}


class Buffer:
    """Host memory at a multiple of 64 bytes, as tensor maps and argument structures want it."""

    def __init__(self, size):
        self.memory = ctypes.create_string_buffer(size + 64)
        self.address = (ctypes.addressof(self.memory) + 63) // 64 * 64
        ctypes.memset(self.address, 0, size)

    def words(self, offset, values):
        ctypes.memmove(self.address + offset, (ctypes.c_uint64 * len(values))(*[v & (1 << 64) - 1 for v in values]), 8 * len(values))


def tensor_map(address, kind, extents, strides, box, target):
    """Encodes a map into target. kind: the driver's name of an element, 0 for one of a byte; strides in elements, of all but the first dimension."""
    rank, size = len(extents), 2 if kind else 1
    swizzle = {128: 3, 64: 2}.get(box[0] * size, 0)
    check(driver.cuTensorMapEncodeTiled(
        ctypes.c_void_p(target), kind, rank, ctypes.c_void_p(address), (ctypes.c_uint64 * rank)(*extents),
        (ctypes.c_uint64 * (rank - 1))(*[s * size for s in strides]), (ctypes.c_uint32 * rank)(*box),
        (ctypes.c_uint32 * rank)(*[1] * rank), 0, swizzle, 2, 0), f"tensor map {extents} {strides} {box}")


def capture(launches):
    """A CUDA graph of some launches, in turn, how many, and what they hold: a graph does not keep tensors alive."""
    for launch in launches:
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    graph.replay()
    torch.cuda.synchronize()
    return graph, len(launches), launches


def time_in_turn(graphs, rounds=12):
    """{name: capture(...)} -> {name: median microseconds of a launch}. In turn, so that heat and clocks are alike: what ran in the last tenth of
    a second moves a time by several per cent, so everybody follows everybody."""
    names = list(graphs)
    samples = {name: [] for name in names}
    zigzag = [i // 2 if i % 2 == 0 else len(names) - 1 - i // 2 for i in range(len(names))]  # shifted, every pair is neighbours once
    for turn in range(rounds):
        order = [names[(i + turn) % len(names)] for i in zigzag]
        for name in order if turn // len(names) % 2 == 0 else reversed(order):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graphs[name][0].replay()
            stop.record()
            samples[name].append((start, stop))
    torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) * 1e3 / graphs[name][1] for name, pairs in samples.items()}


def device():
    name = torch.cuda.get_device_name()
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return {"device": name, "driver": f"{version.value // 1000}.{version.value % 1000 // 10}", "nvrtc": nvrtc_version()}


def add_rows(path, result):
    """Writes a results file; rows of one that is there stay in front."""
    if os.path.exists(path):
        with open(path) as file:
            result["rows"] = json.load(file)["rows"] + result["rows"]
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
