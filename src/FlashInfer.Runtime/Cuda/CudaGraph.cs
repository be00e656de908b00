using FlashInfer.Observability;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>
/// Work captured from a stream, ready to be launched again and again. It holds addresses, not objects: memory, modules and lists that it
/// uses have to outlive it.
/// </summary>
public sealed class CudaGraph : IDisposable
{
    private readonly CudaGraphHandle _handle;
    private readonly IReplayCheck[] _checks;

    internal CudaGraph(CudaContext context, CudaGraphHandle handle, IReplayCheck[] checks)
    {
        Context = context;
        _handle = handle;
        _checks = checks;
    }

    /// <summary>The context that the graph runs in.</summary>
    public CudaContext Context { get; }

    /// <summary>The CUgraphExec.</summary>
    /// <exception cref="ObjectDisposedException">The graph was disposed.</exception>
    public nint Handle => _handle.Value(this);

    /// <summary>Uses an executable graph of another owner, who has to keep it alive.</summary>
    /// <param name="context">The context that the graph runs in.</param>
    /// <param name="executable">The CUgraphExec.</param>
    /// <exception cref="ArgumentException"><paramref name="executable"/> is 0.</exception>
    public static CudaGraph FromHandle(CudaContext context, nint executable)
    {
        ArgumentNullException.ThrowIfNull(context);
        return executable == 0
            ? throw new ArgumentException("The CUgraphExec is 0.", nameof(executable))
            : new CudaGraph(context, new CudaGraphHandle(context, executable, owns: false), []);
    }

    /// <summary>
    /// Queues the graph. A second launch waits for the first, whatever its stream. If the graph was captured from a device in checked mode,
    /// its work is waited for.
    /// </summary>
    /// <param name="stream">The stream.</param>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">Graph or stream was disposed.</exception>
    /// <exception cref="DeviceAssertException">Checked mode: a kernel of the graph met something that can't be, or failed.</exception>
    public void Launch(CudaStream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        nint handle = Handle;
        foreach (IReplayCheck check in _checks)
        {
            check.BeforeReplay(stream);
        }

        Context.MakeCurrent();
        Check(cuGraphLaunch(handle, stream.Handle), nameof(cuGraphLaunch), Context);
        Telemetry.GraphLaunched();
        Exception? found = null;
        foreach (IReplayCheck check in _checks)
        {
            Exception? fault = check.AfterReplay(stream);
            found ??= fault;
        }

        GC.KeepAlive(stream);
        GC.KeepAlive(this);
        if (found is not null)
        {
            throw found;
        }
    }

    /// <summary>Destroys the graph if this library made it. A launch in flight runs to its end.</summary>
    public void Dispose() => _handle.Dispose();
}
