using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer.Cpu;

/// <summary>
/// The CPU as a device: its memory is native memory, and every call has done its work when it returns. Safe to use from several threads;
/// kernels that they launch run one after the other.
/// </summary>
internal sealed unsafe class CpuBackend : Backend
{
    private const int Alignment = 256;

    private readonly Lock _lock = new();
    private readonly Dictionary<nint, long> _allocations = [];
    private readonly CpuWorkerPool _pool;
    private bool _disposed;

    /// <summary>Starts the worker threads.</summary>
    /// <param name="workers">Threads that kernels run on, the caller's included.</param>
    public CpuBackend(int workers) => _pool = new CpuWorkerPool(workers);

    /// <summary>Allocations not freed yet.</summary>
    public int LiveAllocations
    {
        get
        {
            lock (_lock)
            {
                return _allocations.Count;
            }
        }
    }

    /// <summary>Throws unless the stream is null.</summary>
    public static void RefuseStream(CudaStream? stream)
    {
        if (stream is not null)
        {
            throw new ArgumentException(
                "The CPU device has no streams: its calls return when their work is done. Pass null.",
                nameof(stream)
            );
        }
    }

    /// <inheritdoc/>
    public override nint Allocate(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            nint address;
            try
            {
                address = (nint)NativeMemory.AlignedAlloc((nuint)Math.Max(bytes, 1), Alignment);
            }
            catch (OutOfMemoryException exception)
            {
                throw new FlashInferException($"The CPU device cannot allocate {bytes} bytes.", exception);
            }

            _allocations.Add(address, bytes);
            return address;
        }
    }

    /// <inheritdoc/>
    public override void Free(nint address)
    {
        lock (_lock)
        {
            if (_allocations.Remove(address))
            {
                NativeMemory.AlignedFree((void*)address);
                return;
            }

            // A tensor may be disposed after its device, which has freed everything.
            if (!_disposed)
            {
                throw new ArgumentException(
                    $"0x{address:x} is no live allocation of this device: it was freed before or belongs to another.",
                    nameof(address)
                );
            }
        }
    }

    /// <inheritdoc/>
    public override void CopyIn(nint destination, ReadOnlySpan<byte> source, CudaStream? stream)
    {
        Check(stream);
        source.CopyTo(new Span<byte>((void*)destination, source.Length));
    }

    /// <inheritdoc/>
    public override void CopyOut(Span<byte> destination, nint source, CudaStream? stream)
    {
        Check(stream);
        new ReadOnlySpan<byte>((void*)source, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    public override void Copy(nint destination, nint source, long bytes, CudaStream? stream)
    {
        Check(stream);
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        Buffer.MemoryCopy((void*)source, (void*)destination, bytes, bytes);
    }

    /// <inheritdoc/>
    public override void Fill(nint destination, byte value, long bytes, CudaStream? stream)
    {
        Check(stream);
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        NativeMemory.Fill((void*)destination, (nuint)bytes, value);
    }

    /// <inheritdoc/>
    public override void Synchronize() => ObjectDisposedException.ThrowIf(_disposed, this);

    /// <inheritdoc/>
    public override UploadBuffer CreateUploadBuffer(int capacityBytes) => new CpuUploadBuffer(this, capacityBytes);

    /// <inheritdoc/>
    public override AttentionKernels LoadKernels(AttentionSpec spec)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return new CpuAttentionKernels(spec, _pool, CpuAttentionKernels.BestVectorBits);
    }

    /// <summary>Joins the threads and frees all memory, that of tensors not disposed included.</summary>
    public override void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            base.Dispose();
            _pool.Dispose();
            foreach (nint address in _allocations.Keys)
            {
                NativeMemory.AlignedFree((void*)address);
            }

            _allocations.Clear();
        }
    }

    /// <inheritdoc/>
    protected override MergeKernel LoadMergeKernel(DType dtype)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return dtype switch
        {
            DType.Float16 => new CpuMergeKernel<HalfElement>(_pool),
            DType.BFloat16 => new CpuMergeKernel<BFloat16Element>(_pool),
            _ => new CpuMergeKernel<SingleElement>(_pool),
        };
    }

    private void Check(CudaStream? stream)
    {
        RefuseStream(stream);
        ObjectDisposedException.ThrowIf(_disposed, this);
    }
}
