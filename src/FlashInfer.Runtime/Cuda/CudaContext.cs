using System.Text;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>
/// The primary context of a CUDA device: the one that the CUDA runtime, PyTorch, TorchSharp and ILGPU use too, so that memory and streams
/// pass between them and this library as they are. Safe to share between threads.
/// </summary>
public sealed unsafe class CudaContext : IDisposable
{
    // The handle itself counts as open until the last thing in the context is gone.
    private volatile bool _disposed;

    private CudaContext(CudaContextHandle handle, int ordinal, int device, int driver)
    {
        SafeHandle = handle;
        Ordinal = ordinal;
        Device = device;
        DriverVersion = new Version(driver / 1000, driver % 1000 / 10);
        Name = ReadName(device);
        ComputeCapabilityMajor = Attribute(CudaDeviceAttribute.ComputeCapabilityMajor);
        ComputeCapabilityMinor = Attribute(CudaDeviceAttribute.ComputeCapabilityMinor);
        Architecture = CudaArchitecture.Name(ComputeCapabilityMajor, ComputeCapabilityMinor);
        MultiprocessorCount = Attribute(CudaDeviceAttribute.MultiprocessorCount);
        SharedMemoryPerBlockOptIn = Attribute(CudaDeviceAttribute.SharedMemoryPerBlockOptIn);
        L2CacheBytes = Attribute(CudaDeviceAttribute.L2CacheBytes);
        SupportsMemoryPools = Attribute(CudaDeviceAttribute.MemoryPoolsSupported) != 0;
        nuint total;
        Check(cuDeviceTotalMem(&total, device), nameof(cuDeviceTotalMem));
        TotalMemory = (long)total;
        Description = $"device {ordinal} ({Name}, {Architecture})";
    }

    /// <summary>CUDA devices that this process may use; 0 without a usable driver. <see cref="Open"/> says why there are none.</summary>
    public static int DeviceCount
    {
        get
        {
            try
            {
                CudaInitialization.Ensure();
                int count = 0;
                return cuDeviceGetCount(&count) == CudaResult.Success ? count : 0;
            }
            catch (DeviceUnavailableException)
            {
                return 0;
            }
        }
    }

    /// <summary>The device's number among those that the process may use (<c>CUDA_VISIBLE_DEVICES</c> renumbers them).</summary>
    public int Ordinal { get; }

    /// <summary>The device's name, such as <c>NVIDIA H100 80GB HBM3</c>.</summary>
    public string Name { get; }

    /// <summary>The compute capability's first number: 9 of 9.0.</summary>
    public int ComputeCapabilityMajor { get; }

    /// <summary>The compute capability's second number: 0 of 9.0.</summary>
    public int ComputeCapabilityMinor { get; }

    /// <summary>The architecture that kernels are compiled for, such as <c>sm_90a</c>.</summary>
    public string Architecture { get; }

    /// <summary>Streaming multiprocessors.</summary>
    public int MultiprocessorCount { get; }

    /// <summary>The most shared memory, static and dynamic, that one block may ask for, in bytes.</summary>
    public int SharedMemoryPerBlockOptIn { get; }

    /// <summary>Level-2 cache, in bytes.</summary>
    public int L2CacheBytes { get; }

    /// <summary>Device memory, in bytes.</summary>
    public long TotalMemory { get; }

    /// <summary>The newest CUDA version that the driver supports, such as 13.0.</summary>
    public Version DriverVersion { get; }

    /// <summary>The CUcontext.</summary>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public nint Handle
    {
        get
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return SafeHandle.DangerousGetHandle();
        }
    }

    internal CudaContextHandle SafeHandle { get; }

    internal bool SupportsMemoryPools { get; }

    /// <summary>The device in a few words, for messages.</summary>
    internal string Description { get; }

    /// <summary>The CUdevice.</summary>
    internal int Device { get; }

    /// <summary>Opens a device's primary context, initialising the driver if need be.</summary>
    /// <param name="ordinal">The device's number, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="ordinal"/> is negative.</exception>
    /// <exception cref="DeviceUnavailableException">No driver, a driver too old, no such device, or the device refuses: the message says which, and what was tried.</exception>
    public static CudaContext Open(int ordinal = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(ordinal);
        int driver = CudaInitialization.Ensure();
        int count = 0;
        CudaInitialization.Require(cuDeviceGetCount(&count), nameof(cuDeviceGetCount));
        if (ordinal >= count)
        {
            throw new DeviceUnavailableException(
                $"There is no CUDA device {ordinal}: this process may use {count}, numbered from 0. CUDA_VISIBLE_DEVICES may hide others."
            );
        }

        int device;
        CudaInitialization.Require(cuDeviceGet(&device, ordinal), nameof(cuDeviceGet));
        nint context;
        CudaInitialization.Require(cuDevicePrimaryCtxRetain(&context, device), nameof(cuDevicePrimaryCtxRetain));
        return Wrap(new CudaContextHandle(context, device, owns: true), ordinal, device, driver);
    }

    /// <summary>Uses a context of another owner, who has to keep it alive.</summary>
    /// <param name="context">The CUcontext.</param>
    /// <exception cref="ArgumentException"><paramref name="context"/> is 0.</exception>
    /// <exception cref="CudaDriverException">It is not a context.</exception>
    /// <exception cref="DeviceUnavailableException">No usable driver.</exception>
    public static CudaContext FromHandle(nint context)
    {
        if (context == 0)
        {
            throw new ArgumentException("The CUcontext is 0.", nameof(context));
        }

        int driver = CudaInitialization.Ensure();
        Check(cuCtxSetCurrent(context), nameof(cuCtxSetCurrent));
        int device;
        Check(cuCtxGetDevice(&device), nameof(cuCtxGetDevice));

        // A CUdevice is opaque; its ordinal is found by asking for each.
        int count;
        Check(cuDeviceGetCount(&count), nameof(cuDeviceGetCount));
        int ordinal = 0;
        for (int i = 0; i < count; i++)
        {
            int candidate;
            Check(cuDeviceGet(&candidate, i), nameof(cuDeviceGet));
            if (candidate == device)
            {
                ordinal = i;
            }
        }

        return Wrap(new CudaContextHandle(context, device, owns: false), ordinal, device, driver);
    }

    /// <summary>Device memory free and in all, in bytes, of every process together. Memory that a pool keeps for reuse counts as used.</summary>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public (long Free, long Total) GetMemoryInfo()
    {
        MakeCurrent();
        nuint free;
        nuint total;
        Check(cuMemGetInfo(&free, &total), nameof(cuMemGetInfo), this);
        return ((long)free, (long)total);
    }

    /// <summary>
    /// Makes the context current on the calling thread. Members of this library do it themselves; a caller needs it before its own driver
    /// calls.
    /// </summary>
    /// <exception cref="CudaDriverException">The context is lost or destroyed.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public void MakeCurrent() =>
        // Asked of the driver each time: it costs a fraction of a launch, and a memory of our own would be wrong as soon as another
        // library changes the thread's context.
        Check(cuCtxSetCurrent(Handle), nameof(cuCtxSetCurrent), this);

    /// <summary>Waits for all work queued in the context, on every stream.</summary>
    /// <exception cref="CudaDriverException">That work failed, or a stream is being captured.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public void Synchronize()
    {
        MakeCurrent();
        Check(cuCtxSynchronize(), nameof(cuCtxSynchronize), this);
    }

    /// <summary>Lets go of the context. The device keeps it until all streams, events, modules and memory of this library in it are gone.</summary>
    public void Dispose()
    {
        _disposed = true;
        SafeHandle.Dispose();
    }

    /// <summary>The device in a few words.</summary>
    public override string ToString() => Description;

    /// <summary>The ordinal of the device that an address lies on, or null when CUDA does not know the address.</summary>
    internal int? FindDevice(nint address)
    {
        MakeCurrent();
        int ordinal;
        int result = cuPointerGetAttribute(&ordinal, CudaFlag.PointerDeviceOrdinal, (ulong)address);
        if (result == CudaResult.InvalidValue)
        {
            return null;
        }

        Check(result, nameof(cuPointerGetAttribute), this);
        // Host memory that CUDA has never seen is reported with a negative ordinal where the GPU can read all of the host's memory.
        return ordinal < 0 ? null : ordinal;
    }

    /// <summary>Throws unless something belongs to this context.</summary>
    internal void RequireSame(CudaContext other, string parameter)
    {
        if (other.Handle != Handle)
        {
            throw new ArgumentException(
                $"It belongs to {other.Description}, but the work is on {Description}, or to another context of that device.",
                parameter
            );
        }
    }

    private static CudaContext Wrap(CudaContextHandle handle, int ordinal, int device, int driver)
    {
        try
        {
            CudaContext context = new(handle, ordinal, device, driver);
            context.MakeCurrent();
            return context;
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    private static string ReadName(int device)
    {
        Span<byte> buffer = stackalloc byte[256];
        fixed (byte* name = buffer)
        {
            Check(cuDeviceGetName(name, buffer.Length, device), nameof(cuDeviceGetName));
        }

        int end = buffer.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? buffer : buffer[..end]);
    }

    private int Attribute(int attribute)
    {
        int value;
        Check(cuDeviceGetAttribute(&value, attribute, Device), nameof(cuDeviceGetAttribute));
        return value;
    }
}
