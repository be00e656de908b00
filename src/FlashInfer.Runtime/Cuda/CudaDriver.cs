using System.Runtime.InteropServices;

namespace FlashInfer.Cuda;

/// <summary>
/// The calls of the CUDA driver that are in use, under their C names. Where cuda.h maps a name to a newer entry point, the import says which.
/// Every argument is blittable; a result is a CUresult, to be given to <see cref="Check"/>. A CUdeviceptr is 64 bits, a CUdevice an int,
/// every other handle a pointer.
/// </summary>
internal static unsafe partial class CudaDriver
{
    // Initialisation and devices

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuInit(uint flags);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDriverGetVersion(int* version);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDeviceGetCount(int* count);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDeviceGet(int* device, int ordinal);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDeviceGetName(byte* name, int length, int device);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuDeviceTotalMem_v2")]
    public static partial int cuDeviceTotalMem(nuint* bytes, int device);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDeviceGetAttribute(int* value, int attribute, int device);

    // Contexts

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDevicePrimaryCtxRetain(nint* context, int device);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuDevicePrimaryCtxRelease_v2")]
    public static partial int cuDevicePrimaryCtxRelease(int device);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuCtxSetCurrent(nint context);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuCtxGetDevice(int* device);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuCtxSynchronize();

    // Streams and graphs

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamCreate(nint* stream, uint flags);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuStreamDestroy_v2")]
    public static partial int cuStreamDestroy(nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamSynchronize(nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamQuery(nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamWaitEvent(nint stream, nint @event, uint flags);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuLaunchHostFunc(nint stream, delegate* unmanaged<void*, void> function, void* data);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamGetCtx(nint stream, nint* context);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamIsCapturing(nint stream, int* status);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuStreamBeginCapture_v2")]
    public static partial int cuStreamBeginCapture(nint stream, int mode);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuStreamEndCapture(nint stream, nint* graph);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuThreadExchangeStreamCaptureMode(int* mode);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuGraphInstantiateWithFlags(nint* executable, nint graph, ulong flags);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuGraphLaunch(nint executable, nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuGraphExecDestroy(nint executable);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuGraphDestroy(nint graph);

    // Events

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuEventCreate(nint* @event, uint flags);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuEventRecord(nint @event, nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuEventQuery(nint @event);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuEventSynchronize(nint @event);

    // cuda.h 13 declares only cuEventElapsedTime_v2, which drivers before 12.8 lack; the old entry point stays exported for programs
    // built with older toolkits.
    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuEventElapsedTime(float* milliseconds, nint start, nint end);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuEventDestroy_v2")]
    public static partial int cuEventDestroy(nint @event);

    // Memory

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemAllocAsync(ulong* address, nuint bytes, nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemFreeAsync(ulong address, nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemHostAlloc(void** address, nuint bytes, uint flags);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemFreeHost(void* address);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuMemcpyHtoDAsync_v2")]
    public static partial int cuMemcpyHtoDAsync(ulong destination, void* source, nuint bytes, nint stream);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuMemcpyDtoHAsync_v2")]
    public static partial int cuMemcpyDtoHAsync(void* destination, ulong source, nuint bytes, nint stream);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuMemcpyDtoDAsync_v2")]
    public static partial int cuMemcpyDtoDAsync(ulong destination, ulong source, nuint bytes, nint stream);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemsetD8Async(ulong destination, byte value, nuint bytes, nint stream);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuMemGetInfo_v2")]
    public static partial int cuMemGetInfo(nuint* free, nuint* total);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuPointerGetAttribute(void* value, int attribute, ulong address);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuDeviceGetDefaultMemPool(nint* pool, int device);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemPoolSetAttribute(nint pool, int attribute, void* value);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemPoolGetAttribute(nint pool, int attribute, void* value);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuMemPoolTrimTo(nint pool, nuint bytes);

    // Modules and kernels

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuModuleLoadData(nint* module, void* image);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuModuleUnload(nint module);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuModuleGetFunction(nint* function, nint module, byte* name);

    [LibraryImport(NativeLibraries.Driver, EntryPoint = "cuModuleGetGlobal_v2")]
    public static partial int cuModuleGetGlobal(ulong* address, nuint* bytes, nint module, byte* name);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuFuncSetAttribute(nint function, int attribute, int value);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuFuncGetAttribute(int* value, int attribute, nint function);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuOccupancyMaxActiveBlocksPerMultiprocessor(
        int* blocks,
        nint function,
        int blockThreads,
        nuint dynamicSharedBytes
    );

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuOccupancyMaxActiveClusters(int* clusters, nint function, CudaLaunchConfig* config);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuTensorMapEncodeTiled(
        void* map,
        int dataType,
        uint rank,
        void* address,
        ulong* dimensions,
        ulong* strides,
        uint* box,
        uint* elementStrides,
        int interleave,
        int swizzle,
        int l2Promotion,
        int outOfBoundsFill
    );

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuLaunchKernelEx(CudaLaunchConfig* config, nint function, void** parameters, void** extra);

    // Errors

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuGetErrorName(int error, byte** name);

    [LibraryImport(NativeLibraries.Driver)]
    public static partial int cuGetErrorString(int error, byte** text);
}
