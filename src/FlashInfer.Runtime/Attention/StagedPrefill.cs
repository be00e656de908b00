using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>
/// Prefill over keys and values that are staged first: a kernel takes them from their pages once, as the other one wants to have them, where
/// else each tile that walks them would have to.
/// </summary>
internal sealed class StagedPrefill : IDisposable
{
    /// <summary>What constructors take when the caller does not say.</summary>
    public const int DefaultTokens = 32_768;

    private readonly PagedKvCache _cache;
    private readonly StagedPrefillKernel _kernel;
    private readonly int _maxTokens;
    private readonly int _leastWalks;
    private readonly int[] _starts;
    private readonly PrefillCore _core;
    private readonly UploadList<StageItem> _list;
    private readonly DeviceMemory _keys;
    private readonly DeviceMemory _values;
    private readonly LaunchCheck? _check;

    // -1 before there is a list.
    private int _items = -1;
    private bool _overlaps;

    /// <param name="batch">The wrapper's batch.</param>
    /// <param name="kernel">The two kernels.</param>
    /// <param name="prepares">What prefill does with plans that stage nothing, made with this one's kernel as borrower.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="maxQueryTokens">Query tokens of the largest batch.</param>
    /// <param name="maxTokens">Tokens that there is room for, at most.</param>
    public StagedPrefill(
        PlannedBatch batch,
        StagedPrefillKernel kernel,
        PrefillCore prepares,
        int maxSequences,
        int maxQueryTokens,
        int maxTokens
    )
    {
        AttentionSpec spec = batch.Cache.Spec;
        _cache = batch.Cache;
        _kernel = kernel;
        _maxTokens = (int)Math.Min(maxTokens, (long)_cache.TotalPages * spec.PageSize);
        _leastWalks = PrefillStaging.LeastWalks(spec.Shape, prepares.Kernel.IsHopper);
        _starts = new int[maxSequences];
        try
        {
            _core = new PrefillCore(
                _cache.Device,
                spec,
                kernel.Prefill,
                cacheTokens: 0,
                maxSequences,
                maxQueryTokens,
                Determinism.Reproducible,
                prepares
            );
            _list = new UploadList<StageItem>(_cache.Device.Backend, PrefillStaging.MaxItems(maxSequences, _maxTokens));
            _keys = new DeviceMemory(_cache.Device, (long)_maxTokens * spec.KvHeads * spec.HeadDim * spec.Dtype.Size());
            _values = new DeviceMemory(_cache.Device, _keys.Bytes);
            _check = LaunchCheck.Create(_cache, $"{batch.Name}.{nameof(Run)}", row => SequenceAt(batch, row));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The list of the prefill kernel.</summary>
    public PlanList List => _core.List;

    /// <summary>Device memory of staged keys and values.</summary>
    public long Bytes => _keys.Bytes + _values.Bytes;

    /// <summary>Tokens that the last plan stages; 0 when it stages nothing.</summary>
    public int Tokens { get; private set; }

    /// <summary>Plans the step and sends the lists to the device, if all that is to be staged has room and that pays; else empty ones.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="causal">Whether attention is causal.</param>
    /// <param name="scaleLog2">The factor of the logits.</param>
    /// <param name="stages">Whether to stage whatever has room, or nothing; null leaves it to the planner.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the step is planned.</returns>
    public bool TryPlan(PlannedBatch batch, bool causal, float scaleLog2, bool? stages, CudaStream? stream)
    {
        _check?.Before(stream);
        PrefillBatch paged = new(batch.QueryTokens, batch.Lengths, batch.PageOffsets, causal, List.Bounds(batch.Places));
        long tokens = PrefillStaging.Tokens(paged, _core.Limits);
        bool fits = tokens > 0 && tokens <= _maxTokens;
        if (!fits || !(stages ?? PrefillStaging.Pays(paged, _core.Limits, tokens, _leastWalks)))
        {
            Clear(stream);
            return false;
        }

        _items = PrefillStaging.List(paged, _core.Limits, _starts, _list.Begin());
        _list.Commit(_items, stream);
        _core.Plan(Staged(batch, causal), batch.Attending, scaleLog2, stream);
        Tokens = (int)tokens;
        _overlaps = false;
        return true;
    }

    /// <summary>Stages a layer and attends to it; parameters as <see cref="DecodeCore.Run"/>.</summary>
    public void Run(
        int layer,
        in TensorView query,
        in TensorView output,
        in TensorView lse,
        int rows,
        LaunchCheck? check,
        CudaStream? stream
    )
    {
        PrefillParams args = _core.Arguments(query, output, lse, rows, "cache");
        AttentionSpec spec = _cache.Spec;
        args.Key = _keys.Address;
        args.Value = _values.Address;
        args.KeyTokenStride = args.ValueTokenStride = spec.KvHeads * spec.HeadDim;
        args.KeyHeadStride = args.ValueHeadStride = spec.HeadDim;
        args.KeyScales = _cache.KeyScaleAddress(layer);
        args.ValueScales = _cache.ValueScaleAddress(layer);
        Stage(layer, stream);
        check?.Before(stream);
        _core.Run(ref args, rows, keyRows: _maxTokens, stream);
        check?.After(layer, stream);
    }

    /// <summary>What the last plan looks like, if it stages.</summary>
    public PlanInfo Info(PlannedBatch batch, bool causal) =>
        _core.Info(Staged(batch, causal), batch.Planned, batch.Rows) with
        {
            StagedTokens = Tokens,
        };

    public void Dispose()
    {
        _check?.Dispose();
        _values?.Dispose();
        _keys?.Dispose();
        _list?.Dispose();
        _core?.Dispose();
    }

    private PrefillBatch Staged(PlannedBatch batch, bool causal) =>
        new(batch.QueryTokens, batch.Lengths, _starts.AsSpan(0, batch.Lengths.Length), causal, List.Bounds(batch.Places));

    private void Clear(CudaStream? stream)
    {
        _core.Clear(stream);
        if (_items != 0)
        {
            _items = 0;
            _list.Commit(0, stream);
            _overlaps = false;
        }

        Tokens = 0;
    }

    private void Stage(int layer, CudaStream? stream)
    {
        StageParams args = new()
        {
            Key = _cache.KeyAddress(layer),
            Value = _cache.ValueAddress(layer),
            StagedKey = _keys.Address,
            StagedValue = _values.Address,
            Pages = _cache.Table.Address,
            Plan = _list.Address,
            PageStride = _cache.PageElements,
            TokenStride = _cache.TokenElements,
            HeadStride = _cache.HeadElements,
            Fault = _check?.Record(layer) ?? 0,
            PageCount = _cache.TotalPages,
            Variant = List.VariantAddress,
        };
        _check?.Before(stream);
        _cache.Table.IsCaptured |= _kernel.Stage(args, new ListLaunch(_items, _list.Capacity, 1, _overlaps), stream);
        _overlaps = true;
        _check?.After(layer, stream);
    }

    /// <summary>The sequence that a staged row belongs to.</summary>
    private Sequence? SequenceAt(PlannedBatch batch, int row)
    {
        int i = 0;
        while (i < batch.Lengths.Length && row >= _starts[i] + batch.Lengths[i])
        {
            i++;
        }

        return i < batch.Lengths.Length ? batch.Attends(i) : null;
    }
}
