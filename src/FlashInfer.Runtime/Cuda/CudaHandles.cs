using System.Runtime.InteropServices;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>
/// A context. What lives in it holds a reference count, so that the context outlives everything created in it, whatever the order in
/// which the user disposes or the finalizer runs.
/// </summary>
internal sealed class CudaContextHandle : SafeHandle
{
    private readonly int _device;

    /// <param name="value">The CUcontext.</param>
    /// <param name="device">The CUdevice.</param>
    /// <param name="owns">The device's primary context was retained and is to be released.</param>
    public CudaContextHandle(nint value, int device, bool owns)
        : base(0, owns)
    {
        _device = device;
        SetHandle(value);
    }

    public override bool IsInvalid => handle == 0;

    protected override bool ReleaseHandle() => cuDevicePrimaryCtxRelease(_device) == CudaResult.Success;
}

/// <summary>Something that was created in a context and has to be destroyed before it.</summary>
internal abstract class CudaHandle : SafeHandle
{
    private readonly CudaContextHandle _context;

    /// <param name="context">The context.</param>
    /// <param name="value">The native handle.</param>
    /// <param name="owns">False for a handle of another owner: it is never destroyed here.</param>
    protected CudaHandle(CudaContext context, nint value, bool owns)
        : base(0, owns)
    {
        _context = context.SafeHandle;
        if (owns)
        {
            bool added = false;
            _context.DangerousAddRef(ref added);
        }

        SetHandle(value);
    }

    public override bool IsInvalid => handle == 0;

    /// <summary>The native handle.</summary>
    /// <param name="owner">Whose it is.</param>
    /// <exception cref="ObjectDisposedException">The owner was disposed.</exception>
    public nint Value(object owner)
    {
        ObjectDisposedException.ThrowIf(IsClosed, owner);
        return DangerousGetHandle();
    }

    protected sealed override bool ReleaseHandle()
    {
        // This may be the finalizer's thread, where no context is current. Codes are ignored: a lost context, or a driver that shuts
        // down with the process, has freed everything already.
        bool released = false;
        if (cuCtxSetCurrent(_context.DangerousGetHandle()) == CudaResult.Success)
        {
            using RelaxedCapture relaxed = RelaxedCapture.Enter();
            released = Destroy(handle) == CudaResult.Success;
        }

        _context.DangerousRelease();
        return released;
    }

    /// <summary>Destroys the native object; the context is current.</summary>
    protected abstract int Destroy(nint value);
}

internal sealed class CudaStreamHandle(CudaContext context, nint value, bool owns) : CudaHandle(context, value, owns)
{
    protected override int Destroy(nint value) => cuStreamDestroy(value);
}

internal sealed class CudaEventHandle(CudaContext context, nint value, bool owns) : CudaHandle(context, value, owns)
{
    protected override int Destroy(nint value) => cuEventDestroy(value);
}

internal sealed class CudaGraphHandle(CudaContext context, nint value, bool owns) : CudaHandle(context, value, owns)
{
    protected override int Destroy(nint value) => cuGraphExecDestroy(value);
}

internal sealed class CudaModuleHandle(CudaContext context, nint value, bool owns) : CudaHandle(context, value, owns)
{
    protected override int Destroy(nint value) => cuModuleUnload(value);
}

internal sealed unsafe class CudaPinnedHandle(CudaContext context, nint value) : CudaHandle(context, value, owns: true)
{
    protected override int Destroy(nint value) => cuMemFreeHost((void*)value);
}

/// <summary>
/// While it lives, the calling thread may make calls that stream capture forbids, such as asking an event that no capture has recorded.
/// Such a call would otherwise end a capture that this thread, or another library in global mode, has going.
/// </summary>
internal unsafe ref struct RelaxedCapture
{
    private int _mode;

    public static RelaxedCapture Enter()
    {
        RelaxedCapture scope = new() { _mode = CudaFlag.CaptureRelaxed };
        scope.Exchange();
        return scope;
    }

    public void Dispose() => Exchange();

    private void Exchange()
    {
        int mode = _mode;
        // Fails only without an initialised driver, and then the call that follows says so.
        if (cuThreadExchangeStreamCaptureMode(&mode) == CudaResult.Success)
        {
            _mode = mode;
        }
    }
}
