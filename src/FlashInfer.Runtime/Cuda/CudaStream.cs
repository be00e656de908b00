using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>
/// A CUDA stream: work queued on it runs in order. A stream that this class made does not wait for the legacy default stream. One caller
/// at a time queues work that depends on each other; the handle itself may be shared.
/// </summary>
public sealed unsafe class CudaStream : IDisposable
{
    private readonly CudaStreamHandle _handle;
    private List<IReplayCheck>? _replayChecks;

    /// <summary>Makes a stream that runs beside the legacy default stream (CU_STREAM_NON_BLOCKING).</summary>
    /// <param name="context">The context; it is kept until the stream is gone.</param>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public CudaStream(CudaContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        context.MakeCurrent();
        nint stream;
        Check(cuStreamCreate(&stream, CudaFlag.StreamNonBlocking), nameof(cuStreamCreate), context);
        Context = context;
        _handle = new CudaStreamHandle(context, stream, owns: true);
    }

    private CudaStream(CudaContext context, CudaStreamHandle handle)
    {
        Context = context;
        _handle = handle;
    }

    /// <summary>The context that the stream belongs to.</summary>
    public CudaContext Context { get; }

    /// <summary>The CUstream; 0 is the legacy default stream.</summary>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public nint Handle => _handle.Value(this);

    /// <summary>Whether all work queued so far is done. Must not be asked of a stream that is being captured.</summary>
    /// <exception cref="CudaDriverException">That work failed.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public bool IsCompleted
    {
        get
        {
            int result = cuStreamQuery(Enter());
            if (result == CudaResult.NotReady)
            {
                return false;
            }

            Check(result, nameof(cuStreamQuery), Context);
            return true;
        }
    }

    /// <summary>Whether the stream is being captured into a graph, also when an error has ended the capture early.</summary>
    /// <exception cref="CudaDriverException">It is the legacy default stream and another capture forbids asking.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public bool IsCapturing
    {
        get
        {
            int status;
            Check(cuStreamIsCapturing(Enter(), &status), nameof(cuStreamIsCapturing), Context);
            return status != 0;
        }
    }

    /// <summary>Uses a stream of another owner (ManagedCuda, ILGPU, TorchSharp, the CUDA runtime), who has to keep it alive.</summary>
    /// <param name="context">The context that the stream belongs to.</param>
    /// <param name="stream">The CUstream or cudaStream_t; 0 is the legacy default stream.</param>
    /// <exception cref="ArgumentException">The stream belongs to another context.</exception>
    /// <exception cref="CudaDriverException">The driver does not accept the handle.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public static CudaStream FromHandle(CudaContext context, nint stream)
    {
        ArgumentNullException.ThrowIfNull(context);
        context.MakeCurrent();
        nint owner;
        Check(cuStreamGetCtx(stream, &owner), nameof(cuStreamGetCtx), context);
        if (owner != context.Handle)
        {
            throw new ArgumentException(
                $"The stream 0x{stream:x} belongs to another context than that of {context.Description}; open that stream's device, or use CudaContext.FromHandle.",
                nameof(stream)
            );
        }

        return new CudaStream(context, new CudaStreamHandle(context, stream, owns: false));
    }

    /// <summary>Waits for all work queued so far.</summary>
    /// <exception cref="CudaDriverException">That work failed, or the stream is being captured.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public void Synchronize() => Check(cuStreamSynchronize(Enter()), nameof(cuStreamSynchronize), Context);

    /// <summary>Lets work queued from now on wait for what the event has recorded. The caller does not wait.</summary>
    /// <param name="event">The event; one that was never recorded is no wait.</param>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">Stream or event was disposed.</exception>
    public void Wait(CudaEvent @event)
    {
        ArgumentNullException.ThrowIfNull(@event);
        Check(cuStreamWaitEvent(Enter(), @event.Handle, 0), nameof(cuStreamWaitEvent), Context);
        GC.KeepAlive(@event);
    }

    /// <summary>
    /// Begins to record work into a graph instead of running it. Until <see cref="EndCapture"/>, called by the same thread, that thread may
    /// neither plan, allocate, read back nor synchronise. Captures of other threads do not matter (thread-local mode).
    /// </summary>
    /// <exception cref="CudaDriverException">The stream is being captured, or is the legacy default stream.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public void BeginCapture() => Check(cuStreamBeginCapture(Enter(), CudaFlag.CaptureThreadLocal), nameof(cuStreamBeginCapture), Context);

    /// <summary>Ends the capture and makes the graph launchable.</summary>
    /// <returns>The graph, to be disposed by the caller.</returns>
    /// <exception cref="CudaDriverException">No capture is going on, or something that is not allowed during capture has ended it.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public CudaGraph EndCapture()
    {
        IReplayCheck[] checks = _replayChecks is null ? [] : [.. _replayChecks];
        _replayChecks = null;
        nint graph;
        Check(cuStreamEndCapture(Enter(), &graph), nameof(cuStreamEndCapture), Context);
        nint executable;
        int result = cuGraphInstantiateWithFlags(&executable, graph, 0);
        // The executable is a copy: the graph itself is not needed, whether or not it could be made.
        _ = cuGraphDestroy(graph);
        Check(result, nameof(cuGraphInstantiateWithFlags), Context);
        return new CudaGraph(Context, new CudaGraphHandle(Context, executable, owns: true), checks);
    }

    /// <summary>Destroys the stream if this class made it. Work on it still runs to its end.</summary>
    public void Dispose() => _handle.Dispose();

    /// <summary>Has the graph of the capture under way do a check at each launch.</summary>
    internal void CheckReplays(IReplayCheck check)
    {
        _replayChecks ??= [];
        if (!_replayChecks.Contains(check))
        {
            _replayChecks.Add(check);
        }
    }

    private nint Enter()
    {
        nint handle = Handle;
        Context.MakeCurrent();
        return handle;
    }
}
