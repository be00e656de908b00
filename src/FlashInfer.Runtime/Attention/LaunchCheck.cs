using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>
/// Checked mode: what surrounds the launches of one kernel by one cache or wrapper. Every layer has a fault record of its own, so that a
/// replayed graph tells its layers apart.
/// </summary>
internal sealed class LaunchCheck : IReplayCheck, IDisposable
{
    private readonly PagedKvCache _cache;
    private readonly string _operation;
    private readonly Func<int, Sequence?> _sequenceOf;
    private readonly Func<int, int>? _tokensBefore;
    private readonly DeviceMemory _records;
    private readonly KernelFault[] _faults;
    private bool _captured;
    private bool _disposed;

    private LaunchCheck(PagedKvCache cache, string operation, Func<int, Sequence?> sequenceOf, Func<int, int>? tokensBefore)
    {
        _cache = cache;
        _operation = operation;
        _sequenceOf = sequenceOf;
        _tokensBefore = tokensBefore;
        _faults = new KernelFault[cache.Layers];
        _records = new DeviceMemory(cache.Device, (long)cache.Layers * Unsafe.SizeOf<KernelFault>());
        Clear(null);
        // The first launch may go to any stream, which knows nothing of the fill on the device's own.
        cache.Device.Synchronize();
    }

    /// <summary>Makes the check of a kernel; null when the device is not in checked mode.</summary>
    /// <param name="cache">The cache that the kernel works on.</param>
    /// <param name="operation">The call, for messages.</param>
    /// <param name="sequenceOf">Which sequence a row of the kernel's input belongs to.</param>
    /// <param name="tokensBefore">Tokens of its sequence that the kernel does not know of, since they lie before its own; null for none.</param>
    public static LaunchCheck? Create(
        PagedKvCache cache,
        string operation,
        Func<int, Sequence?> sequenceOf,
        Func<int, int>? tokensBefore = null
    ) => cache.Device.IsChecked ? new LaunchCheck(cache, operation, sequenceOf, tokensBefore) : null;

    /// <summary>Where the kernel notes a layer's first violation.</summary>
    public nint Record(int layer) => _records.Address + ((nint)layer * Unsafe.SizeOf<KernelFault>());

    /// <summary>Before work is queued: throws when the stream does not wait for the work before it, and for what a graph launched by other means left.</summary>
    public void Before(CudaStream? stream)
    {
        if (_cache.Device.Backend.IsCapturing(stream))
        {
            return;
        }

        _cache.Streams?.Before(stream);
        if (_captured && Inspect(stream) is { } fault)
        {
            throw fault;
        }
    }

    /// <summary>After a launch: waits for it and throws what it met; in a capture, has the graph do so after each of its launches.</summary>
    public void After(int layer, CudaStream? stream)
    {
        if (_cache.Device.Backend.IsCapturing(stream))
        {
            _captured = true;
            _cache.Device.Backend.CheckReplays(this, stream);
            return;
        }

        DeviceAssertException? fault = Inspect(stream, layer);
        _cache.Streams?.After(stream);
        if (fault is not null)
        {
            throw fault;
        }
    }

    /// <inheritdoc/>
    public void BeforeReplay(CudaStream stream)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _cache.ThrowIfDisposed();
        _cache.Streams?.Before(stream);
    }

    /// <inheritdoc/>
    public Exception? AfterReplay(CudaStream stream)
    {
        DeviceAssertException? fault = Inspect(stream);
        _cache.Streams?.After(stream);
        return fault;
    }

    public void Dispose()
    {
        _disposed = true;
        _records.Dispose();
    }

    /// <summary>Waits for the stream, reads the records (of one layer or of all) and clears them if one was written.</summary>
    private DeviceAssertException? Inspect(CudaStream? stream, int? only = null)
    {
        int first = only ?? 0;
        Span<KernelFault> faults = only is null ? _faults : _faults.AsSpan(first, 1);
        try
        {
            _cache.Device.Backend.CopyOut(MemoryMarshal.AsBytes(faults), Record(first), stream);
        }
        catch (CudaDriverException e)
        {
            string layers = only is null ? "in a replayed graph" : $"of layer {first}";
            throw new DeviceAssertException($"{_operation} {layers}, or work queued before it, failed on the device. {e.Message}", e)
            {
                Operation = _operation,
                Layer = only,
            };
        }

        for (int i = 0; i < faults.Length; i++)
        {
            if (faults[i].Kind != KernelFaultKind.None)
            {
                Clear(stream);
                return Describe(first + i, faults[i]);
            }
        }

        return null;
    }

    private void Clear(CudaStream? stream) => _cache.Device.Backend.Fill(_records.Address, 0, _records.Bytes, stream);

    private DeviceAssertException Describe(int layer, in KernelFault fault)
    {
        Sequence? sequence = _sequenceOf(fault.Row);
        int token = fault.Token + (sequence is null ? 0 : _tokensBefore?.Invoke(fault.Row) ?? 0);
        int index = token / _cache.Spec.PageSize;
        string expected =
            sequence is not null && index < sequence.PageCount ? $"; the cache has put page {sequence.Pages[index]} there" : "";
        return new DeviceAssertException(
            $"{_operation} of layer {layer} found page {fault.Value} in the page table for token {token} of {sequence?.ToString() ?? "an unknown sequence"} (row {fault.Row}). The cache has {_cache.TotalPages} pages, 0 to {_cache.TotalPages - 1}{expected}. Only the cache writes the table, so something else has written over it: look for a kernel or a copy that leaves its own memory (compute-sanitizer finds them), and make the cache anew. What the call has written is not to be used."
        )
        {
            Operation = _operation,
            Layer = layer,
            Sequence = sequence,
            Token = token,
            Page = fault.Value,
        };
    }
}
