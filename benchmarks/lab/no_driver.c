// A libcuda.so.1 that does nothing and says yes: what remains of a call's time is this library's own, on a machine without
// a GPU. Memory is the host's, a module is its cubin, every wait is over at once.
//
//   gcc -O2 -shared -fPIC -Wl,-soname,libcuda.so.1 -o DIR/libcuda.so.1 benchmarks/lab/no_driver.c
//   LD_LIBRARY_PATH=DIR dotnet FlashInfer.Benchmarks.dll --out DIR --bench plan
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Result;
enum { kSuccess = 0, kOutOfMemory = 2, kNotFound = 500 };

static intptr_t last_handle = 0x100;
static int capturing;

static Result give(void** handle) {
  *handle = (void*)(last_handle += 8);
  return kSuccess;
}

// Devices and contexts: an H100.
Result cuInit(unsigned flags) { return kSuccess; }
Result cuDriverGetVersion(int* version) { return *version = 13000, kSuccess; }
Result cuDeviceGetCount(int* count) { return *count = 1, kSuccess; }
Result cuDeviceGet(int* device, int ordinal) { return *device = 0, kSuccess; }
Result cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "no device"), kSuccess; }
Result cuDeviceTotalMem_v2(size_t* bytes, int device) { return *bytes = 80ull << 30, kSuccess; }
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case 16:
      *value = 132;
      break;  // multiprocessors
    case 38:
      *value = 50 << 20;
      break;  // L2
    case 75:
      *value = 9;
      break;  // sm_90
    case 97:
      *value = 232448;
      break;  // shared memory of a block
    case 115:
      *value = 1;
      break;  // memory pools
    default:
      *value = 0;
  }
  return kSuccess;
}
Result cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)16, kSuccess; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return kSuccess; }
Result cuCtxSetCurrent(void* context) { return kSuccess; }
Result cuCtxGetDevice(int* device) { return *device = 0, kSuccess; }
Result cuCtxSynchronize(void) { return kSuccess; }

// Streams, graphs and events.
Result cuStreamCreate(void** stream, unsigned flags) { return give(stream); }
Result cuStreamDestroy_v2(void* stream) { return kSuccess; }
Result cuStreamSynchronize(void* stream) { return kSuccess; }
Result cuStreamQuery(void* stream) { return kSuccess; }
Result cuStreamWaitEvent(void* stream, void* event, unsigned flags) { return kSuccess; }
Result cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) { return function(data), kSuccess; }
Result cuStreamGetCtx(void* stream, void** context) { return *context = (void*)16, kSuccess; }
Result cuStreamIsCapturing(void* stream, int* status) { return *status = capturing, kSuccess; }
Result cuStreamBeginCapture_v2(void* stream, int mode) { return capturing = 1, kSuccess; }
Result cuStreamEndCapture(void* stream, void** graph) { return capturing = 0, give(graph); }
Result cuThreadExchangeStreamCaptureMode(int* mode) { return kSuccess; }
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  return give(executable);
}
Result cuGraphLaunch(void* executable, void* stream) { return kSuccess; }
Result cuGraphExecDestroy(void* executable) { return kSuccess; }
Result cuGraphDestroy(void* graph) { return kSuccess; }
Result cuEventCreate(void** event, unsigned flags) { return give(event); }
Result cuEventRecord(void* event, void* stream) { return kSuccess; }
Result cuEventQuery(void* event) { return kSuccess; }
Result cuEventSynchronize(void* event) { return kSuccess; }
Result cuEventElapsedTime(float* milliseconds, void* start, void* end) { return *milliseconds = 0.5f, kSuccess; }
Result cuEventDestroy_v2(void* event) { return kSuccess; }

// Memory: pages that nobody touches cost nothing.
Result cuMemAllocAsync(uint64_t* address, size_t bytes, void* stream) {
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *address = (uint64_t)memory;
  return memory == MAP_FAILED ? kOutOfMemory : kSuccess;
}
Result cuMemFreeAsync(uint64_t address, void* stream) { return kSuccess; }
Result cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
  *address = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return *address ? kSuccess : kOutOfMemory;
}
Result cuMemFreeHost(void* address) { return free(address), kSuccess; }
Result cuMemcpyHtoDAsync_v2(uint64_t to, void* from, size_t bytes, void* stream) { return kSuccess; }
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  return memcpy(to, (void*)from, bytes), kSuccess;
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) { return kSuccess; }
Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) { return kSuccess; }
Result cuMemGetInfo_v2(size_t* left, size_t* total) { return *left = *total = 80ull << 30, kSuccess; }
Result cuPointerGetAttribute(void* value, int attribute, uint64_t address) { return *(int*)value = 0, kSuccess; }
Result cuDeviceGetDefaultMemPool(void** pool, int device) { return give(pool); }
Result cuMemPoolSetAttribute(void* pool, int attribute, void* value) { return kSuccess; }

// Modules: what a cubin says of itself is read from its ELF file.
Result cuModuleLoadData(void** module, void* image) {
  const Elf64_Ehdr* header = image;
  const size_t bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
  *module = malloc(bytes);
  return *module ? (memcpy(*module, image, bytes), kSuccess) : kOutOfMemory;
}
Result cuModuleUnload(void* module) { return free(module), kSuccess; }
Result cuModuleGetFunction(void** function, void* module, char* name) { return give(function); }
Result cuModuleGetGlobal_v2(uint64_t* address, size_t* bytes, void* module, char* name) {
  char* image = module;
  const Elf64_Shdr* sections = (Elf64_Shdr*)(image + ((Elf64_Ehdr*)module)->e_shoff);
  for (int s = 0; s < ((Elf64_Ehdr*)module)->e_shnum; s++) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const Elf64_Sym* symbols = (Elf64_Sym*)(image + sections[s].sh_offset);
    const char* names = image + sections[sections[s].sh_link].sh_offset;
    for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; i++) {
      if (strcmp(names + symbols[i].st_name, name) != 0) continue;
      *address = (uint64_t)(image + sections[symbols[i].st_shndx].sh_offset + symbols[i].st_value);
      *bytes = symbols[i].st_size;
      return kSuccess;
    }
  }
  return kNotFound;
}

// Kernels.
Result cuFuncSetAttribute(void* function, int attribute, int value) { return kSuccess; }
Result cuFuncGetAttribute(int* value, int attribute, void* function) {
  return *value = attribute == 0 ? 1024 : attribute == 4 ? 128 : 0, kSuccess;
}
Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t shared) {
  return *blocks = 1, kSuccess;
}
Result cuOccupancyMaxActiveClusters(int* clusters, void* function, void* config) {
  const unsigned blocks = *(unsigned*)config;  // the grid is one cluster
  return *clusters = blocks == 8 ? 15 : blocks == 4 ? 32 : 66, kSuccess;
}
Result cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, void* dimensions, void* strides,
                              void* box, void* element_strides, int interleave, int swizzle, int promotion, int fill) {
  return memset(map, 0, 128), kSuccess;
}
Result cuLaunchKernelEx(void* config, void* function, void** parameters, void** extra) { return kSuccess; }

Result cuGetErrorName(int error, char** name) { return *name = "CUDA_ERROR", kSuccess; }
Result cuGetErrorString(int error, char** text) { return *text = "an error", kSuccess; }
