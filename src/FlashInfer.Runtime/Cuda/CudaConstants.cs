using System.Runtime.InteropServices;

namespace FlashInfer.Cuda;

// Values and layouts of cuda.h, only those in use.

/// <summary>CUdevice_attribute.</summary>
internal static class CudaDeviceAttribute
{
    public const int MultiprocessorCount = 16;
    public const int L2CacheBytes = 38;
    public const int ComputeCapabilityMajor = 75;
    public const int ComputeCapabilityMinor = 76;
    public const int SharedMemoryPerBlockOptIn = 97;
    public const int MemoryPoolsSupported = 115;
}

/// <summary>CUfunction_attribute.</summary>
internal static class CudaFunctionAttribute
{
    public const int MaxThreadsPerBlock = 0;
    public const int SharedBytes = 1;
    public const int LocalBytes = 3;
    public const int Registers = 4;
    public const int MaxDynamicSharedBytes = 8;
}

/// <summary>Flags and enumerations of single calls.</summary>
internal static class CudaFlag
{
    /// <summary>CU_STREAM_NON_BLOCKING.</summary>
    public const uint StreamNonBlocking = 1;

    /// <summary>CU_EVENT_DISABLE_TIMING.</summary>
    public const uint EventDisableTiming = 2;

    /// <summary>CU_STREAM_CAPTURE_MODE_THREAD_LOCAL.</summary>
    public const int CaptureThreadLocal = 1;

    /// <summary>CU_STREAM_CAPTURE_MODE_RELAXED.</summary>
    public const int CaptureRelaxed = 2;

    /// <summary>CU_MEMPOOL_ATTR_RELEASE_THRESHOLD; its value is 64 bits.</summary>
    public const int PoolReleaseThreshold = 4;

    /// <summary>CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT; its value is 64 bits.</summary>
    public const int PoolReservedMemory = 5;

    /// <summary>CU_MEMPOOL_ATTR_USED_MEM_CURRENT; its value is 64 bits.</summary>
    public const int PoolUsedMemory = 7;

    /// <summary>CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL.</summary>
    public const int PointerDeviceOrdinal = 9;

    /// <summary>CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION.</summary>
    public const int LaunchClusterDimension = 4;

    /// <summary>CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.</summary>
    public const int LaunchProgrammaticStreamSerialization = 6;
}

/// <summary>CUresult.</summary>
internal static class CudaResult
{
    public const int Success = 0;
    public const int InvalidValue = 1;
    public const int OutOfMemory = 2;
    public const int Deinitialized = 4;
    public const int StubLibrary = 34;
    public const int DeviceUnavailable = 46;
    public const int NoDevice = 100;
    public const int InvalidImage = 200;
    public const int InvalidContext = 201;
    public const int NoBinaryForGpu = 209;
    public const int EccUncorrectable = 214;
    public const int InvalidPtx = 218;
    public const int JitCompilerNotFound = 221;
    public const int UnsupportedPtxVersion = 222;
    public const int InvalidHandle = 400;
    public const int NotReady = 600;
    public const int IllegalAddress = 700;
    public const int LaunchOutOfResources = 701;
    public const int LaunchTimeout = 702;
    public const int ContextIsDestroyed = 709;
    public const int Assert = 710;
    public const int HardwareStackError = 714;
    public const int IllegalInstruction = 715;
    public const int MisalignedAddress = 716;
    public const int InvalidAddressSpace = 717;
    public const int InvalidPc = 718;
    public const int LaunchFailed = 719;
    public const int SystemNotReady = 802;
    public const int SystemDriverMismatch = 803;
    public const int CompatNotSupportedOnDevice = 804;
    public const int StreamCaptureUnsupported = 900;
    public const int StreamCaptureInvalidated = 901;
    public const int StreamCaptureUnjoined = 904;
    public const int StreamCaptureImplicit = 906;
    public const int CapturedEvent = 907;
    public const int StreamCaptureWrongThread = 908;
}

/// <summary>CUlaunchConfig; 56 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CudaLaunchConfig
{
    public uint GridX;
    public uint GridY;
    public uint GridZ;
    public uint BlockX;
    public uint BlockY;
    public uint BlockZ;
    public uint DynamicSharedBytes;
    public nint Stream;
    public CudaLaunchAttribute* Attributes;
    public uint AttributeCount;
}

/// <summary>CUlaunchAttribute: an id and a union of 64 bytes, aligned to 8; 72 bytes.</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal struct CudaLaunchAttribute
{
    [FieldOffset(0)]
    public int Id;

    /// <summary>The union where its value is an int; the long beside it gives the union its alignment.</summary>
    [FieldOffset(8)]
    public int Value;

    [FieldOffset(8)]
    private readonly long _union;

    /// <summary>The union where its value is three dimensions, of which <see cref="Value"/> is the first.</summary>
    [FieldOffset(12)]
    public int Y;

    [FieldOffset(16)]
    public int Z;
}

/// <summary>The extent of a grid or a block.</summary>
internal readonly record struct CudaExtent(int X, int Y = 1, int Z = 1);
