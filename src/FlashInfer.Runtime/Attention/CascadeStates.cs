using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>The states that the shared levels of a cascade leave for each row, and how they come into the last level's.</summary>
internal sealed class CascadeStates : IDisposable
{
    private readonly Device _device;
    private readonly AttentionSpec _spec;
    private readonly int _maxRows;
    private readonly int _lastLevel;
    private readonly MergeKernel _kernel;
    private readonly DeviceMemory _outputs;
    private readonly DeviceMemory _lses;
    private readonly DeviceMemory _mask;
    private bool? _merges;

    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration.</param>
    /// <param name="maxRows">Rows of the largest batch.</param>
    /// <param name="levels">Levels, the last included.</param>
    public CascadeStates(Device device, AttentionSpec spec, int maxRows, int levels)
    {
        _device = device;
        _spec = spec;
        _maxRows = maxRows;
        _lastLevel = levels - 1;
        _kernel = device.Backend.MergeStates(spec.Dtype);
        try
        {
            _outputs = new DeviceMemory(device, (levels - 1L) * maxRows * RowElements * spec.Dtype.Size());
            _lses = new DeviceMemory(device, (long)levels * maxRows * spec.Heads * sizeof(float));
            _mask = new DeviceMemory(device, (long)maxRows * sizeof(int));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Device memory of all of it.</summary>
    public long Bytes => _outputs.Bytes + _lses.Bytes + _mask.Bytes;

    private long RowElements => (long)_spec.Heads * _spec.HeadDim;

    /// <summary>A shared level's output.</summary>
    public TensorView Output(int level, int rows)
    {
        TensorShape shape = new(rows, _spec.Heads, _spec.HeadDim);
        nint offset = checked((nint)(level * _maxRows * RowElements * _spec.Dtype.Size()));
        return new TensorView(_device, _outputs, _outputs.Address + offset, _spec.Dtype, shape, TensorStrides.Contiguous(shape));
    }

    /// <summary>A level's LSE; that of the last level where the caller wants none.</summary>
    public TensorView Lse(int level, int rows)
    {
        TensorShape shape = new(rows, _spec.Heads);
        nint offset = checked((nint)((long)level * _maxRows * _spec.Heads * sizeof(float)));
        return new TensorView(_device, _lses, _lses.Address + offset, DType.Float32, shape, TensorStrides.Contiguous(shape));
    }

    /// <summary>As <see cref="Lse(int, int)"/>, of the last level.</summary>
    public TensorView LastLse(int rows) => Lse(_lastLevel, rows);

    /// <summary>Says whether the plan to come has shared levels: a captured graph merges all the same, and finds nothing to do.</summary>
    public void Merges(bool merges, CudaStream? stream)
    {
        if (_merges != merges)
        {
            _device.Backend.Fill(_mask.Address, merges ? (byte)1 : (byte)0, _mask.Bytes, stream);
            _merges = merges;
        }
    }

    /// <summary>Merges the states of the first shared levels into the last level's.</summary>
    /// <param name="shared">Shared levels.</param>
    /// <param name="output">Output of the last level; receives the result.</param>
    /// <param name="lse">Its LSE; the same.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="stream">The stream.</param>
    public void Merge(int shared, in TensorView output, in TensorView lse, int rows, CudaStream? stream)
    {
        if (rows == 0)
        {
            return;
        }

        MergeStatesParams args = new()
        {
            First = output.Address,
            FirstLse = lse.Address,
            Other = _outputs.Address,
            OtherLse = _lses.Address,
            Output = output.Address,
            Lse = lse.Address,
            Mask = _mask.Address,
            FirstRowStride = output.Stride(0),
            FirstHeadStride = output.Stride(1),
            FirstLseRowStride = _spec.Heads,
            FirstLseHeadStride = 1,
            OtherRowStride = RowElements,
            OtherStateStride = _maxRows * RowElements,
            OtherHeadStride = _spec.HeadDim,
            OtherLseRowStride = _spec.Heads,
            OtherLseStateStride = (long)_maxRows * _spec.Heads,
            OtherLseHeadStride = 1,
            OutputRowStride = output.Stride(0),
            OutputHeadStride = output.Stride(1),
            LseRowStride = _spec.Heads,
            LseHeadStride = 1,
            Rows = rows,
            Others = shared,
            Heads = _spec.Heads,
            HeadDim = _spec.HeadDim,
        };
        _kernel.Run(args, stream);
    }

    public void Dispose()
    {
        _outputs?.Dispose();
        _lses?.Dispose();
        _mask?.Dispose();
    }
}
