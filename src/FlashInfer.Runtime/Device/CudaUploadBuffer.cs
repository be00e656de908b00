using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>A list in device memory at a fixed address, filled through a ring of page-locked slots. One caller at a time.</summary>
internal sealed class CudaUploadBuffer : UploadBuffer
{
    private const int Slots = 4;

    // The driver writes a short copy into its own commands, word by word: on the hosts of three H100s that takes it 1.7 to 2.6 µs for 1 KB and 4
    // for 24. A longer one it leaves to the copy engine, in 1.3 to 2.0, and a kernel behind it begins no later. So copies are made as long as
    // that, but for the shortest.
    private const int ShortBytes = 1 << 10;
    private const int EngineBytes = 48 << 10;

    private readonly CudaBackend _backend;
    private readonly CudaPinnedRing _ring;
    private bool _begun;
    private bool _disposed;

    public CudaUploadBuffer(CudaBackend backend, int capacity)
    {
        _backend = backend;
        Capacity = capacity;
        int room = Copied(capacity);
        _ring = new CudaPinnedRing(backend.Context, Slots, room);
        try
        {
            Address = backend.Allocate(room);
        }
        catch
        {
            _ring.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override nint Address { get; }

    /// <inheritdoc/>
    public override int Capacity { get; }

    /// <inheritdoc/>
    public override Span<byte> Begin()
    {
        Span<byte> slot = _ring.Begin();
        _begun = true;
        return slot[..Capacity];
    }

    /// <inheritdoc/>
    public override void Commit(int bytes, CudaStream? stream)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytes, Capacity);
        if (!_begun)
        {
            throw new InvalidOperationException("Commit needs a Begin before it: the slot may still be in flight.");
        }

        _ring.Commit(Address, Copied(bytes), _backend.Resolve(stream));
        _begun = false;
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        // The ring waits for its copies, so that none writes into the memory after it is freed. All or nothing: a Dispose that is refused
        // during a capture can be tried again after it.
        _backend.RefuseCapture();
        _ring.Dispose();
        _backend.Free(Address);
        _disposed = true;
    }

    /// <summary>What a copy of so many bytes copies.</summary>
    private static int Copied(int bytes) => bytes < ShortBytes ? bytes : Math.Max(bytes, EngineBytes);
}
