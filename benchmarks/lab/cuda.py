"""What the lab needs of NVRTC and the driver, through ctypes; memory and streams are PyTorch's."""
import ctypes
import ctypes.util
import glob
import os

import torch

CUDA = ctypes.CDLL("libcuda.so.1")
OVERLAP, CLUSTER = 6, 4  # launch attributes: programmatic stream serialization, cluster dimension


def check(result):
    if result:
        text = ctypes.c_char_p()
        CUDA.cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"driver error {result}: {text.value.decode()}")


def find_nvrtc():
    places = [os.environ.get("NVRTC", ""), *sorted(glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.1[0-9]"), reverse=True)]
    places += glob.glob(os.path.join(os.path.dirname(torch.__file__), "../nvidia/**/libnvrtc.so.1[0-9]"), recursive=True)
    return ctypes.CDLL(next(p for p in [*places, "libnvrtc.so.13", "libnvrtc.so.12"] if p and ("/" not in p or os.path.exists(p))))


def read_headers(folder, edits=()):
    """The headers of a folder by their names in #include, after edits: (file, old text, new text)."""
    headers = {}
    for root, _, files in os.walk(folder):
        for file in files:
            if file.endswith(".cuh"):
                path = os.path.join(root, file)
                headers[os.path.relpath(path, folder)] = open(path).read()
    for file, old, new in edits:
        if headers[file].count(old) != 1:
            raise ValueError(f"{file} has {headers[file].count(old)} places like '{old}', expected 1")
        headers[file] = headers[file].replace(old, new)
    return headers


def compile_cubin(text, headers):
    nvrtc = find_nvrtc()
    strings = lambda values: (ctypes.c_char_p * len(values))(*[v.encode() for v in values])
    options = ["--gpu-architecture=sm_90a", "--std=c++17", "--minimal", "--ptxas-options=-v", "-lineinfo"]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    names = list(headers)
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"unit.cu", len(names), strings([headers[n] for n in names]), strings(names))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), strings(options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if failed:
        raise RuntimeError(log.value.decode())
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_int * 16)]


class LaunchConfig(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint)]


class Kernel:
    """A function of a cubin, and its KernelInfo when there is one beside it."""

    INFO = "abi params threads shared blocks_per_sm units_per_item features columns crews teams pack tile_tokens block_tokens".split()

    def __init__(self, cubin, name, has_info=True):
        torch.cuda.current_stream()
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        check(CUDA.cuModuleLoadData(ctypes.byref(self.module), cubin))
        check(CUDA.cuModuleGetFunction(ctypes.byref(self.function), self.module, name.encode()))
        self.threads, self.shared = 512, 0
        if has_info:
            address, size, values = ctypes.c_void_p(), ctypes.c_size_t(), (ctypes.c_int * len(self.INFO))()
            check(CUDA.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(size), self.module, b"info"))
            check(CUDA.cuMemcpyDtoH_v2(values, address, ctypes.c_size_t(ctypes.sizeof(values))))
            for key, value in zip(self.INFO, values):
                setattr(self, key, value)
            check(CUDA.cuFuncSetAttribute(self.function, 8, self.shared))
        value = ctypes.c_int()
        check(CUDA.cuFuncGetAttribute(ctypes.byref(value), 4, self.function))
        self.registers = value.value
        check(CUDA.cuFuncGetAttribute(ctypes.byref(value), 3, self.function))
        self.local = value.value

    def config(self, blocks, overlaps, cluster):
        attributes = (Attribute * 2)()
        count = 0
        if overlaps:
            attributes[count].id, attributes[count].value[0] = OVERLAP, 1
            count += 1
        if cluster > 1:
            attributes[count].id, attributes[count].value[:3] = CLUSTER, [cluster, 1, 1]
            count += 1
        stream = torch.cuda.current_stream().cuda_stream
        return LaunchConfig((blocks, 1, 1), (self.threads, 1, 1), self.shared, stream, ctypes.addressof(attributes), count), attributes

    def launch(self, params, blocks, overlaps=True, cluster=1):
        config, _keep = self.config(blocks, overlaps, cluster)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        check(CUDA.cuLaunchKernelEx(ctypes.byref(config), self.function, arguments, None))

    def max_clusters(self, cluster):
        config, _keep = self.config(cluster * 8, False, cluster)
        count = ctypes.c_int()
        check(CUDA.cuOccupancyMaxActiveClusters(ctypes.byref(count), self.function, ctypes.byref(config)))
        return count.value


def encode_map(dtype, address, dims, strides, box, promotion):
    """A CUtensorMap (128 bytes): dims innermost first, strides in bytes from the second on, swizzled over the innermost box."""
    raw = ctypes.create_string_buffer(192)
    target = (ctypes.addressof(raw) + 63) & ~63
    kind, size = {torch.bfloat16: (9, 2), torch.float16: (6, 2)}.get(dtype, (0, 1))
    swizzle = {128: 3, 64: 2, 32: 1}[box[0] * size]
    n = len(dims)
    check(CUDA.cuTensorMapEncodeTiled(
        ctypes.c_void_p(target), kind, n, ctypes.c_void_p(address), (ctypes.c_uint64 * n)(*dims), (ctypes.c_uint64 * (n - 1))(*strides),
        (ctypes.c_uint32 * n)(*box), (ctypes.c_uint32 * n)(*[1] * n), 0, swizzle, {64: 1, 128: 2, 256: 3}[promotion], 0))
    return ctypes.string_at(target, 128)


def replay_us(graph):
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e3


def record(work):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    return graph
