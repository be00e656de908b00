using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>
/// Where memory lives and kernels run: one implementation for CUDA, one for the CPU. Everything above it (cache, planner, wrappers) is
/// written once. An address is a device pointer on CUDA and a native pointer on the CPU. A null stream means the device's own.
/// </summary>
internal abstract class Backend : IDisposable
{
    private readonly KernelSlot<MergeKernel> _mergeHalf;
    private readonly KernelSlot<MergeKernel> _mergeBFloat16;
    private readonly KernelSlot<MergeKernel> _mergeSingle;

    protected Backend()
    {
        _mergeHalf = new(() => LoadMergeKernel(DType.Float16));
        _mergeBFloat16 = new(() => LoadMergeKernel(DType.BFloat16));
        _mergeSingle = new(() => LoadMergeKernel(DType.Float32));
    }

    /// <summary>Whether the device is in checked mode.</summary>
    public bool IsChecked { get; init; }

    /// <summary>Allocates memory aligned to 256 bytes, contents undefined.</summary>
    public abstract nint Allocate(long bytes);

    /// <summary>Frees what <see cref="Allocate"/> gave, once the work queued on the device's own stream is done.</summary>
    public abstract void Free(nint address);

    /// <summary>Gives the memory back to the system that was freed and is kept for what is allocated next.</summary>
    public virtual void TrimMemory() { }

    /// <summary>Bytes that are allocated, and bytes kept for what is allocated next; null where none are kept, after disposal, and when the device has failed.</summary>
    public virtual (long Used, long Kept)? Memory => null;

    /// <summary>Copies host memory to the device in stream order. The source may be reused on return.</summary>
    public abstract void CopyIn(nint destination, ReadOnlySpan<byte> source, CudaStream? stream);

    /// <summary>Copies device memory to the host in stream order and waits for it.</summary>
    public abstract void CopyOut(Span<byte> destination, nint source, CudaStream? stream);

    /// <summary>Copies inside the device in stream order.</summary>
    public abstract void Copy(nint destination, nint source, long bytes, CudaStream? stream);

    /// <summary>Sets every byte in stream order.</summary>
    public abstract void Fill(nint destination, byte value, long bytes, CudaStream? stream);

    /// <summary>Waits for everything queued on the device.</summary>
    public abstract void Synchronize();

    /// <summary>Whether work queued on the stream now is recorded into a graph instead of run.</summary>
    public virtual bool IsCapturing(CudaStream? stream) => false;

    /// <summary>Has the graph that is captured from the stream do a check at each launch.</summary>
    public virtual void CheckReplays(IReplayCheck check, CudaStream? stream) { }

    /// <summary>Finds misuse of streams, for one cache of a checked device; null where there are none.</summary>
    public virtual StreamCheck? CreateStreamCheck() => null;

    /// <summary>Makes a list that the host writes and kernels read.</summary>
    public abstract UploadBuffer CreateUploadBuffer(int capacityBytes);

    /// <summary>Compiles or loads the kernels of a configuration. Called once per configuration and device.</summary>
    public abstract AttentionKernels LoadKernels(AttentionSpec spec);

    /// <summary>The kernel that merges states of attention, loaded when it is first asked for.</summary>
    /// <param name="dtype">Of the states' outputs: <see cref="DType.Float16"/>, <see cref="DType.BFloat16"/> or <see cref="DType.Float32"/>.</param>
    public MergeKernel MergeStates(DType dtype) =>
        dtype switch
        {
            DType.Float16 => _mergeHalf.Get(),
            DType.BFloat16 => _mergeBFloat16.Get(),
            _ => _mergeSingle.Get(),
        };

    /// <inheritdoc/>
    public virtual void Dispose()
    {
        _mergeHalf.Dispose();
        _mergeBFloat16.Dispose();
        _mergeSingle.Dispose();
    }

    /// <summary>Compiles or loads the kernel that merges states of attention of an element type.</summary>
    protected abstract MergeKernel LoadMergeKernel(DType dtype);
}

/// <summary>
/// Device memory at a fixed address that the host refills step by step. On CUDA the host writes into a ring of pinned slots, each guarded
/// by an event, so that a slot is never overwritten while its copy is in flight; on the CPU it writes the memory itself.
/// </summary>
internal abstract class UploadBuffer : IDisposable
{
    /// <summary>The fixed device address.</summary>
    public abstract nint Address { get; }

    /// <summary>Bytes at <see cref="Address"/>.</summary>
    public abstract int Capacity { get; }

    /// <summary>Host memory to write, <see cref="Capacity"/> bytes, contents undefined; the same memory until the next <see cref="Commit"/>. Waits only when every slot is in flight.</summary>
    public abstract Span<byte> Begin();

    /// <summary>Makes the first bytes visible at <see cref="Address"/> to everything queued on the stream from now on.</summary>
    public abstract void Commit(int bytes, CudaStream? stream);

    /// <inheritdoc/>
    public abstract void Dispose();
}
