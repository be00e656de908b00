// What the driver's calls of a Plan and a Run cost the host, and whether what is sent by the copy engine is later on the device.
//
//   nvcc -arch=sm_90 -O2 -o driver_calls benchmarks/lab/driver_calls.cu -lcuda && ./driver_calls
#include <cuda.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

struct Params {
  char bytes[320];
};

extern "C" __global__ void nothing(const __grid_constant__ Params params) {}

// Reads what was copied, so that its end shows when that had come.
extern "C" __global__ void read(const int* data, volatile int* sink) {
  if (data[threadIdx.x] == 12345) *sink = 1;
}

static void check(int result) {
  if (result != 0) {
    std::printf("driver error %d\n", result);
    std::exit(1);
  }
}

static double now() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static double median(std::vector<double>& times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// The median of five medians of 101 rounds of calls on an idle device, a call; and the least and the most of the five.
template <typename Call>
static void measure(const char* name, int calls, Call call) {
  for (double start = now(); now() - start < 50'000; check(cuCtxSynchronize())) {
    for (int i = 0; i < calls; i++) call();
  }
  std::vector<double> medians;
  for (int repeat = 0; repeat < 5; repeat++) {
    std::vector<double> times;
    for (int round = 0; round < 101; round++) {
      const double start = now();
      for (int i = 0; i < calls; i++) call();
      times.push_back((now() - start) / calls);
      check(cuCtxSynchronize());
    }
    medians.push_back(median(times));
  }
  const double us = median(medians);
  std::printf("%-48s %6.2f us (%.2f to %.2f)\n", name, us, medians.front(), medians.back());
}

int main() {
  constexpr int kMostBytes = 96 << 10;
  CUdevice device;
  CUcontext context;
  CUstream stream;
  CUevent event;
  CUfunction empty, reader;
  CUdeviceptr target;
  char* pinned;
  int* sink;
  check(cuInit(0));
  check(cuDeviceGet(&device, 0));
  check(cuDevicePrimaryCtxRetain(&context, device));
  check(cuCtxSetCurrent(context));
  check(cudaFree(nullptr));  // makes the runtime, which holds the kernels, use the context
  check(cudaGetFuncBySymbol(&empty, reinterpret_cast<const void*>(nothing)));
  check(cudaGetFuncBySymbol(&reader, reinterpret_cast<const void*>(read)));
  check(cuFuncSetAttribute(empty, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200 << 10));
  check(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  check(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  check(cuMemAlloc(&target, kMostBytes));
  check(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), kMostBytes, 0));
  check(cuMemHostAlloc(reinterpret_cast<void**>(&sink), sizeof *sink, 0));
  std::vector<char> pageable(kMostBytes, 1);
  std::memset(pinned, 1, kMostBytes);

  Params params = {};
  void* arguments[] = {&params};
  CUlaunchAttribute attributes[2] = {};
  attributes[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  attributes[0].value.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attributes[1].value.clusterDim = {2, 1, 1};
  CUlaunchConfig config = {};
  config.gridDimX = 132, config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = 256, config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = 200 << 10;
  config.hStream = stream;
  config.attrs = attributes;
  const auto launch = [&] { check(cuLaunchKernelEx(&config, empty, arguments, nullptr)); };
  const auto ask = [&] {
    CUstreamCaptureStatus status;
    check(cuCtxSetCurrent(context));
    check(cuStreamIsCapturing(stream, &status));
  };

  measure("launch", 32, launch);
  config.numAttrs = 1;
  measure("launch that overlaps", 32, launch);
  measure("launch that overlaps, behind two questions", 32, [&] { ask(), launch(); });
  measure("the two questions", 1000, ask);
  config.numAttrs = 2;
  measure("launch that overlaps, in clusters", 32, launch);
  measure("event record", 32, [&] { check(cuEventRecord(event, stream)); });
  measure("event query", 1000, [&] { cuEventQuery(event); });

  // Copies take turns: their times go up and down together, for a second or two, by half.
  struct Copy {
    int bytes;
    std::vector<double> calls, ends, pageable;
  };
  std::vector<Copy> copies;
  for (int kilobytes : {1, 4, 8, 16, 24, 28, 32, 40, 48, 64, 96}) copies.push_back({kilobytes << 10, {}, {}, {}});
  for (int repeat = 0; repeat < 9; repeat++) {
    for (Copy& copy : copies) {
      std::vector<double> calls, ends, pageables;
      for (int round = 0; round < 101; round++) {
        void* read_arguments[] = {&target, &sink};
        double start = now();
        check(cuMemcpyHtoDAsync(target, pinned, copy.bytes, stream));
        calls.push_back(now() - start);
        check(cuLaunchKernel(reader, 1, 1, 1, 16, 1, 1, 0, stream, read_arguments, nullptr));
        while (cuStreamQuery(stream) == CUDA_ERROR_NOT_READY) {
        }
        ends.push_back(now() - start);
        start = now();
        check(cuMemcpyHtoDAsync(target, pageable.data(), copy.bytes, stream));
        pageables.push_back(now() - start);
        check(cuCtxSynchronize());
      }
      copy.calls.push_back(median(calls));
      copy.ends.push_back(median(ends));
      copy.pageable.push_back(median(pageables));
    }
  }
  for (Copy& copy : copies) {
    const double call = median(copy.calls), end = median(copy.ends);
    std::printf(
        "copy of %5d B: %5.2f us (%.2f to %.2f), until a kernel behind it has ended %5.2f us (%.2f to %.2f), "
        "from pageable memory %5.2f us\n",
        copy.bytes, call, copy.calls.front(), copy.calls.back(), end, copy.ends.front(), copy.ends.back(),
        median(copy.pageable));
  }
}
