using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>
/// Slots of page-locked host memory that are filled and copied to the device in turn. An event guards each slot, so that it is never
/// written while its copy is in flight. One caller at a time; allocates nothing after construction.
/// </summary>
internal sealed unsafe class CudaPinnedRing : IDisposable
{
    private readonly CudaContext _context;
    private readonly CudaPinnedHandle _memory;
    private readonly CudaEvent[] _copied;
    private readonly byte* _base;
    private readonly long _stride;
    private int _slot;

    // Slots from the next on whose copies are known to be over, and commits in a row, up to the last, on one stream.
    private int _free;
    private int _inOrder;
    private CudaStream? _last;
    private bool _begun;
    private bool _disposed;

    /// <param name="context">The context.</param>
    /// <param name="slots">Slots.</param>
    /// <param name="slotBytes">Bytes of each.</param>
    public CudaPinnedRing(CudaContext context, int slots, int slotBytes)
    {
        _context = context;
        SlotBytes = slotBytes;
        _stride = ((long)Math.Max(slotBytes, 1) + 255) / 256 * 256;
        context.MakeCurrent();
        void* memory;
        using (RelaxedCapture.Enter())
        {
            int result = cuMemHostAlloc(&memory, (nuint)(_stride * slots), 0);
            if (result != CudaResult.Success)
            {
                Throw(result, nameof(cuMemHostAlloc), context, subject: $"{_stride * slots:N0} bytes of page-locked host memory");
            }
        }

        _memory = new CudaPinnedHandle(context, (nint)memory);
        _base = (byte*)memory;
        _copied = new CudaEvent[slots];
        _free = slots;
        try
        {
            for (int i = 0; i < slots; i++)
            {
                _copied[i] = new CudaEvent(context);
            }
        }
        catch
        {
            _memory.Dispose();
            throw;
        }
    }

    /// <summary>Bytes of one slot.</summary>
    public int SlotBytes { get; }

    /// <summary>The next slot. Waits only if its last copy is still in flight; the same slot again until it is committed.</summary>
    public Span<byte> Begin()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (!_begun)
        {
            if (_free == 0)
            {
                Reclaim();
            }

            _begun = true;
        }

        return new Span<byte>(_base + _slot * _stride, SlotBytes);
    }

    /// <summary>Queues the copy of the slot's first bytes and turns to the next slot.</summary>
    public void Commit(nint destination, int bytes, CudaStream stream)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (stream.IsCapturing)
        {
            throw new InvalidOperationException(
                "The stream is being captured into a graph, which would replay a copy from host memory that has long been overwritten. Plan, list updates and copies from the host belong outside the capture: plan before the replay, and the graph reads the new list."
            );
        }

        if (bytes > 0)
        {
            nint handle = stream.Handle;
            Check(
                cuMemcpyHtoDAsync((ulong)destination, _base + _slot * _stride, (nuint)bytes, handle),
                nameof(cuMemcpyHtoDAsync),
                _context
            );
            Check(cuEventRecord(_copied[_slot].Handle, handle), nameof(cuEventRecord), _context);
            _inOrder = stream == _last ? _inOrder + 1 : 1;
            _last = stream;
            _free--;
            _slot = (_slot + 1) % _copied.Length;
            _begun = false;
        }
    }

    /// <summary>
    /// Finds slots whose copies are over, most often all: copies on one stream are over with the last of them, so that a driver call for
    /// each lap is enough.
    /// </summary>
    private void Reclaim()
    {
        // The events were recorded outside of any capture, so that waiting for them does a capture of this thread no harm.
        using RelaxedCapture relaxed = RelaxedCapture.Enter();
        int slots = _copied.Length;
        if (_inOrder >= slots && _copied[(_slot + slots - 1) % slots].IsCompleted)
        {
            _free = slots;
            return;
        }

        CudaEvent copied = _copied[_slot];
        if (!copied.IsCompleted)
        {
            copied.Synchronize();
        }

        _free = 1;
    }

    /// <summary>Waits for copies in flight, then frees the memory.</summary>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        if (cuCtxSetCurrent(_context.SafeHandle.DangerousGetHandle()) == CudaResult.Success)
        {
            using RelaxedCapture relaxed = RelaxedCapture.Enter();
            foreach (CudaEvent copied in _copied)
            {
                // A lost context answers with its error: there is no copy in flight any more.
                _ = cuEventSynchronize(copied.Handle);
                copied.Dispose();
            }
        }

        _memory.Dispose();
    }
}
