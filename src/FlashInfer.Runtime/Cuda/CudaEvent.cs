using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>A mark in a stream that the host or other streams can wait for, and with timing the clock at that mark.</summary>
public sealed unsafe class CudaEvent : IDisposable
{
    private readonly CudaEventHandle _handle;

    /// <summary>Makes an event.</summary>
    /// <param name="context">The context; it is kept until the event is gone.</param>
    /// <param name="timing">Records the time as well, which makes recording and waiting slower.</param>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public CudaEvent(CudaContext context, bool timing = false)
    {
        ArgumentNullException.ThrowIfNull(context);
        context.MakeCurrent();
        nint created;
        Check(cuEventCreate(&created, timing ? 0 : CudaFlag.EventDisableTiming), nameof(cuEventCreate), context);
        Context = context;
        _handle = new CudaEventHandle(context, created, owns: true);
    }

    private CudaEvent(CudaContext context, CudaEventHandle handle)
    {
        Context = context;
        _handle = handle;
    }

    /// <summary>The context that the event belongs to.</summary>
    public CudaContext Context { get; }

    /// <summary>The CUevent.</summary>
    /// <exception cref="ObjectDisposedException">The event was disposed.</exception>
    public nint Handle => _handle.Value(this);

    /// <summary>Whether the work before the last record is done; true when nothing was recorded.</summary>
    /// <exception cref="CudaDriverException">That work failed, or a capture recorded the event.</exception>
    /// <exception cref="ObjectDisposedException">The event was disposed.</exception>
    public bool IsCompleted
    {
        get
        {
            int result = cuEventQuery(Enter());
            if (result == CudaResult.NotReady)
            {
                return false;
            }

            Check(result, nameof(cuEventQuery), Context);
            return true;
        }
    }

    /// <summary>Uses an event of another owner, who has to keep it alive.</summary>
    /// <param name="context">The context that the event belongs to.</param>
    /// <param name="event">The CUevent or cudaEvent_t.</param>
    /// <exception cref="ArgumentException"><paramref name="event"/> is 0.</exception>
    public static CudaEvent FromHandle(CudaContext context, nint @event)
    {
        ArgumentNullException.ThrowIfNull(context);
        return @event == 0
            ? throw new ArgumentException("The CUevent is 0.", nameof(@event))
            : new CudaEvent(context, new CudaEventHandle(context, @event, owns: false));
    }

    /// <summary>Time between two events, in milliseconds, with a resolution of about half a microsecond.</summary>
    /// <param name="start">An event with timing, recorded and completed.</param>
    /// <param name="end">An event with timing, recorded and completed.</param>
    /// <exception cref="CudaDriverException">An event has no timing (CUDA_ERROR_INVALID_HANDLE) or is not done (CUDA_ERROR_NOT_READY).</exception>
    /// <exception cref="ObjectDisposedException">An event was disposed.</exception>
    public static float ElapsedMilliseconds(CudaEvent start, CudaEvent end)
    {
        ArgumentNullException.ThrowIfNull(start);
        ArgumentNullException.ThrowIfNull(end);
        float milliseconds;
        Check(cuEventElapsedTime(&milliseconds, start.Enter(), end.Handle), nameof(cuEventElapsedTime), start.Context);
        GC.KeepAlive(end);
        return milliseconds;
    }

    /// <summary>Marks the point that the stream has been queued up to.</summary>
    /// <param name="stream">The stream.</param>
    /// <exception cref="CudaDriverException">Event and stream belong to different contexts, or the driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">Event or stream was disposed.</exception>
    public void Record(CudaStream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        Check(cuEventRecord(Enter(), stream.Handle), nameof(cuEventRecord), Context);
        GC.KeepAlive(stream);
    }

    /// <summary>Waits for the work before the last record.</summary>
    /// <exception cref="CudaDriverException">That work failed, or a capture recorded the event.</exception>
    /// <exception cref="ObjectDisposedException">The event was disposed.</exception>
    public void Synchronize() => Check(cuEventSynchronize(Enter()), nameof(cuEventSynchronize), Context);

    /// <summary>Destroys the event if this class made it.</summary>
    public void Dispose() => _handle.Dispose();

    private nint Enter()
    {
        nint handle = Handle;
        Context.MakeCurrent();
        return handle;
    }
}
