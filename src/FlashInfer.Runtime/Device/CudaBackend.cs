using FlashInfer.Cuda;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer;

/// <summary>
/// A CUDA device: stream-ordered memory, copies and lists. Safe to share between threads. The context is the opener's to dispose, before
/// or after: it stays until the last thing in it is gone.
/// </summary>
internal sealed unsafe class CudaBackend : Backend
{
    private const int MinimumMajor = 8;
    private const int StagingSlots = 4;
    private const int StagingSlotBytes = 2 << 20;

    private readonly Func<AttentionSpec, CudaBackend, AttentionKernels> _loadKernels;
    private readonly nint _pool;
    private readonly CudaStream _allocation;
    private readonly bool _ownsStream;
    private readonly Lock _stagingLock = new();
    private CudaPinnedRing? _staging;
    private bool _disposed;

    /// <param name="context">The device's context.</param>
    /// <param name="stream">The device's own stream, another owner's; null makes one.</param>
    /// <param name="loadKernels">Makes the kernels of a configuration.</param>
    /// <exception cref="DeviceUnavailableException">The device is too old or lacks stream-ordered memory.</exception>
    public CudaBackend(CudaContext context, CudaStream? stream, Func<AttentionSpec, CudaBackend, AttentionKernels> loadKernels)
    {
        if (context.ComputeCapabilityMajor < MinimumMajor)
        {
            throw new DeviceUnavailableException(
                $"CUDA {context.Description} is too old: the kernels need sm_{MinimumMajor}0 (Ampere) or newer."
            );
        }

        if (!context.SupportsMemoryPools)
        {
            throw new DeviceUnavailableException(
                $"CUDA {context.Description} has no stream-ordered memory (cuMemAllocAsync), which this library allocates with. Virtual GPUs lack it when their profile disables unified memory."
            );
        }

        if (stream is not null)
        {
            context.RequireSame(stream.Context, nameof(stream));
        }

        Context = context;
        Architecture = context.Architecture;
        _loadKernels = loadKernels;
        _pool = KeepingPool(context);
        _allocation = new CudaStream(context);
        _ownsStream = stream is null;
        Stream = stream ?? new CudaStream(context);
    }

    /// <summary>The context.</summary>
    public CudaContext Context { get; }

    /// <summary>The device's own stream.</summary>
    public CudaStream Stream { get; }

    /// <summary>The architecture that kernels are compiled for; the device's own unless another was asked for.</summary>
    public string Architecture { get; init; }

    /// <summary>Makes the kernel that merges states of an element type.</summary>
    public Func<DType, CudaBackend, MergeKernel>? MergeKernels { private get; init; }

    /// <inheritdoc/>
    public override nint Allocate(long bytes)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);

        // On a stream that does nothing else, and waited for: the memory is then valid on every stream, the caller's included. Memory
        // freed on the device's stream is reused once that stream has passed the free; only when the device is full does the driver make
        // this stream wait for it. Relaxed, so that a buffer can be made while this thread captures: it belongs to no graph.
        Context.MakeCurrent();
        using RelaxedCapture relaxed = RelaxedCapture.Enter();
        ulong address;
        Check(
            cuMemAllocAsync(&address, (nuint)Math.Max(bytes, 1), _allocation.Handle),
            nameof(cuMemAllocAsync),
            Context,
            Math.Max(bytes, 1)
        );
        _allocation.Synchronize();
        return (nint)address;
    }

    /// <inheritdoc/>
    public override void Free(nint address)
    {
        if (address == 0)
        {
            return;
        }

        ObjectDisposedException.ThrowIf(_disposed, this);
        RefuseCapture();
        Check(cuMemFreeAsync((ulong)address, Stream.Handle), nameof(cuMemFreeAsync), Context);
    }

    /// <inheritdoc/>
    public override void TrimMemory()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (Stream.IsCapturing)
        {
            throw new InvalidOperationException(
                "The device's stream is being captured into a graph, so nothing can wait for it: trim memory before the capture or after it."
            );
        }

        // The pool cannot give back what the stream has yet to pass the free of.
        using RelaxedCapture relaxed = RelaxedCapture.Enter();
        Stream.Synchronize();
        Check(cuMemPoolTrimTo(_pool, 0), nameof(cuMemPoolTrimTo), Context);
    }

    /// <inheritdoc/>
    public override (long Used, long Kept)? Memory
    {
        get
        {
            // Asked by whoever measures, on a thread of its own: also while the device is disposed, and when its GPU has failed.
            lock (_stagingLock)
            {
                long used;
                long reserved;
                return
                    !_disposed
                    && cuMemPoolGetAttribute(_pool, CudaFlag.PoolUsedMemory, &used) == CudaResult.Success
                    && cuMemPoolGetAttribute(_pool, CudaFlag.PoolReservedMemory, &reserved) == CudaResult.Success
                    ? (used, reserved - used)
                    : null;
            }
        }
    }

    /// <inheritdoc/>
    public override void CopyIn(nint destination, ReadOnlySpan<byte> source, CudaStream? stream)
    {
        CudaStream target = Resolve(stream);
        if (source.IsEmpty)
        {
            return;
        }

        // Through page-locked memory of our own, whatever the source is: the driver stages pageable memory itself, but reads page-locked
        // memory, and on some systems any memory, after the call has returned, when the caller may have changed it.
        lock (_stagingLock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _staging ??= new CudaPinnedRing(Context, StagingSlots, StagingSlotBytes);
            while (!source.IsEmpty)
            {
                int bytes = Math.Min(source.Length, _staging.SlotBytes);
                source[..bytes].CopyTo(_staging.Begin());
                _staging.Commit(destination, bytes, target);
                source = source[bytes..];
                destination += bytes;
            }
        }
    }

    /// <inheritdoc/>
    public override void CopyOut(Span<byte> destination, nint source, CudaStream? stream)
    {
        CudaStream from = Resolve(stream);
        if (destination.IsEmpty)
        {
            return;
        }

        if (from.IsCapturing)
        {
            throw new InvalidOperationException(
                "The stream is being captured into a graph: nothing runs until the graph is launched, so there is nothing to read yet. Read after the replay."
            );
        }

        fixed (byte* host = destination)
        {
            Check(cuMemcpyDtoHAsync(host, (ulong)source, (nuint)destination.Length, from.Handle), nameof(cuMemcpyDtoHAsync), Context);
            from.Synchronize();
        }
    }

    /// <inheritdoc/>
    public override void Copy(nint destination, nint source, long bytes, CudaStream? stream)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        CudaStream target = Resolve(stream);
        if (bytes > 0)
        {
            Context.MakeCurrent();
            Check(cuMemcpyDtoDAsync((ulong)destination, (ulong)source, (nuint)bytes, target.Handle), nameof(cuMemcpyDtoDAsync), Context);
        }
    }

    /// <inheritdoc/>
    public override void Fill(nint destination, byte value, long bytes, CudaStream? stream)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        CudaStream target = Resolve(stream);
        if (bytes > 0)
        {
            Context.MakeCurrent();
            Check(cuMemsetD8Async((ulong)destination, value, (nuint)bytes, target.Handle), nameof(cuMemsetD8Async), Context);
        }
    }

    /// <inheritdoc/>
    public override void Synchronize()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Context.Synchronize();
    }

    /// <inheritdoc/>
    public override bool IsCapturing(CudaStream? stream) => Resolve(stream).IsCapturing;

    /// <inheritdoc/>
    public override void CheckReplays(IReplayCheck check, CudaStream? stream) => Resolve(stream).CheckReplays(check);

    /// <inheritdoc/>
    public override StreamCheck? CreateStreamCheck() => IsChecked ? new StreamCheck(this) : null;

    /// <inheritdoc/>
    public override UploadBuffer CreateUploadBuffer(int capacityBytes)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(capacityBytes);
        return new CudaUploadBuffer(this, capacityBytes);
    }

    /// <inheritdoc/>
    public override AttentionKernels LoadKernels(AttentionSpec spec)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _loadKernels(spec, this);
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        lock (_stagingLock)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            _staging?.Dispose();
        }

        base.Dispose();
        _allocation.Dispose();
        if (_ownsStream)
        {
            Stream.Dispose();
        }
    }

    /// <summary>The stream to work on: the given one, if it belongs to this device, else the device's own.</summary>
    public CudaStream Resolve(CudaStream? stream)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (stream is null)
        {
            return Stream;
        }

        Context.RequireSame(stream.Context, nameof(stream));
        return stream;
    }

    /// <summary>Throws while the device's own stream is captured: a free would become part of the graph.</summary>
    public void RefuseCapture()
    {
        if (Stream.IsCapturing)
        {
            throw new InvalidOperationException(
                "The device's stream is being captured into a graph: dispose tensors and caches before the capture or after it, and those that the graph uses after the graph."
            );
        }
    }

    /// <inheritdoc/>
    protected override MergeKernel LoadMergeKernel(DType dtype)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return MergeKernels?.Invoke(dtype, this) ?? throw new InvalidOperationException("This backend was made without kernels.");
    }

    /// <summary>The device's pool, which from now on keeps freed memory: by default it would go back to the system at each synchronisation.</summary>
    private static nint KeepingPool(CudaContext context)
    {
        context.MakeCurrent();
        nint pool;
        Check(cuDeviceGetDefaultMemPool(&pool, context.Device), nameof(cuDeviceGetDefaultMemPool), context);
        ulong threshold = ulong.MaxValue;
        Check(cuMemPoolSetAttribute(pool, CudaFlag.PoolReleaseThreshold, &threshold), nameof(cuMemPoolSetAttribute), context);
        return pool;
    }
}
