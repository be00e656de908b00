using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer;

/// <summary>
/// Checked mode: finds work of one cache on two streams of which the second does not wait for the first. It judges by what has happened,
/// not by what was called, so that every way of waiting counts, other libraries' too, and there are no false alarms.
/// </summary>
/// <remarks>
/// Each call holds its stream for a millisecond after its work, then records an event. When a call comes on another stream, that stream
/// is waited for first: whatever it was made to wait for is then over. If the event is not, nothing made it wait. Without the hold
/// the work, which checked mode waits for, would be over in any case.
/// </remarks>
internal sealed unsafe class StreamCheck(CudaBackend backend) : IDisposable
{
    private readonly Lock _lock = new();
    private readonly CudaEvent _done = new(backend.Context);
    private nint? _last;

    /// <summary>Throws when work of this cache on another stream is not waited for.</summary>
    public void Before(CudaStream? stream)
    {
        CudaStream next = backend.Resolve(stream);
        lock (_lock)
        {
            if (_last is not { } last || last == next.Handle || next.IsCapturing)
            {
                return;
            }

            // Neither stream is being captured, so that waiting does a capture of this thread no harm.
            using RelaxedCapture relaxed = RelaxedCapture.Enter();
            next.Synchronize();
            if (!_done.IsCompleted)
            {
                throw new InvalidOperationException(
                    $"The cache, or a wrapper of it, was last used on stream 0x{last:x}; this call is on stream 0x{next.Handle:x}, which does not wait for that work. Record an event on the first stream after its last call and let the second wait for it (CudaEvent.Record, CudaStream.Wait), or synchronise the first."
                );
            }
        }
    }

    /// <summary>Marks the end of what a call has queued.</summary>
    public void After(CudaStream? stream)
    {
        CudaStream used = backend.Resolve(stream);
        lock (_lock)
        {
            if (used.IsCapturing)
            {
                return;
            }

            Check(cuLaunchHostFunc(used.Handle, &Hold, null), nameof(cuLaunchHostFunc), backend.Context);
            _done.Record(used);
            _last = used.Handle;
        }
    }

    public void Dispose() => _done.Dispose();

    [UnmanagedCallersOnly]
    private static void Hold(void* data) => Thread.Sleep(1);
}
