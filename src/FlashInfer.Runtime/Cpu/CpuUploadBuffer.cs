using FlashInfer.Cuda;

namespace FlashInfer.Cpu;

/// <summary>A list in native memory that host and kernels share: what the host writes is there.</summary>
internal sealed unsafe class CpuUploadBuffer : UploadBuffer
{
    private readonly CpuBackend _backend;
    private bool _disposed;

    public CpuUploadBuffer(CpuBackend backend, int capacityBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(capacityBytes);
        _backend = backend;
        Address = backend.Allocate(capacityBytes);
        Capacity = capacityBytes;
    }

    /// <inheritdoc/>
    public override nint Address { get; }

    /// <inheritdoc/>
    public override int Capacity { get; }

    /// <inheritdoc/>
    public override Span<byte> Begin()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return new Span<byte>((void*)Address, Capacity);
    }

    /// <inheritdoc/>
    public override void Commit(int bytes, CudaStream? stream)
    {
        CpuBackend.RefuseStream(stream);
        ObjectDisposedException.ThrowIf(_disposed, this);
        if ((uint)bytes > (uint)Capacity)
        {
            throw new ArgumentOutOfRangeException(
                nameof(bytes),
                bytes,
                $"bytes is {bytes}; expected 0 to {Capacity}, the buffer's capacity."
            );
        }
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _backend.Free(Address);
        }
    }
}
