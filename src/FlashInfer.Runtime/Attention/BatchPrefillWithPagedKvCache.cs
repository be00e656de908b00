using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch prefill: any number of query tokens for each sequence over its pages. Whole prompts, chunks of prompts behind what is cached,
/// and single tokens of running sequences can stand in one batch. Generated configurations derive a typed wrapper from it.
/// </summary>
public class BatchPrefillWithPagedKvCache : PagedAttention
{
    private readonly PlannedBatch _batch;
    private readonly PrefillCore _core;
    private readonly StagedPrefill? _staged;
    private readonly SingleTokens? _singles;
    private readonly LaunchCheck? _stagingCheck;
    private readonly TensorMap _kvMap;
    private float _scaleLog2;
    private bool _causal;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304: rows of query and output.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    /// <param name="maxStagedTokens">
    /// Tokens of a batch whose keys and values may be staged, which <see cref="WorkspaceBytes"/> then has room for: 0 for none. Only where
    /// <see cref="PlanInfo.StagedTokens"/> can be above 0: on Hopper, with pages that are no multiple of 8 tokens, a quantised cache, or RoPE,
    /// unless plans are batch-invariant. The room is taken when it is first needed.
    /// </param>
    /// <exception cref="FlashInferException">The kernels can't be compiled or loaded, or the memory is not there.</exception>
    public BatchPrefillWithPagedKvCache(
        PagedKvCache cache,
        int maxSequences = 1024,
        int maxQueryTokens = PrefillCore.DefaultQueryTokens,
        Determinism determinism = Determinism.Reproducible,
        int maxStagedTokens = StagedPrefill.DefaultTokens
    )
        : this(cache, maxSequences, maxQueryTokens, determinism, maxStagedTokens, staged: null) { }

    /// <summary>As the public one, with a kernel in place of the device's own: tests have one for the CPU.</summary>
    internal BatchPrefillWithPagedKvCache(
        PagedKvCache cache,
        int maxSequences,
        int maxQueryTokens,
        Determinism determinism,
        int maxStagedTokens,
        StagedPrefillKernel? staged
    )
        : base(cache, maxSequences, maxQueryTokens, PrefillCore.Advice)
    {
        cache.Spec.RequirePrefill(nameof(cache));
        PrefillCore.CheckLimits(maxSequences, maxQueryTokens, determinism);
        ArgumentOutOfRangeException.ThrowIfNegative(maxStagedTokens);
        staged = StagedPrefillKernel.Choose(cache.Kernels, KernelKinds.PrefillPaged, determinism, maxStagedTokens, staged);
        PrefillKernel kernel = cache.Kernels.Prefill(isPaged: true);
        _kvMap = kernel.EncodeKvMap(cache);
        long cacheTokens = (long)cache.TotalPages * cache.Spec.PageSize;
        try
        {
            _core = new PrefillCore(
                cache.Device,
                cache.Spec,
                kernel,
                cacheTokens,
                maxSequences,
                maxQueryTokens,
                determinism,
                borrower: staged?.Prefill
            );
            _batch = new PlannedBatch(this, nameof(BatchPrefillWithPagedKvCache), cache, maxSequences);
            Lists = [_core.List];
            if (staged is not null)
            {
                _staged = new StagedPrefill(
                    cache.Device,
                    cache.Spec,
                    staged,
                    _core,
                    isPaged: true,
                    maxSequences,
                    maxQueryTokens,
                    (int)Math.Min(maxStagedTokens, cacheTokens)
                );
                _stagingCheck = LaunchCheck.Create(cache, $"{_batch.Name}.{nameof(Run)}", StagedSequenceAt);
                Lists = [_core.List, _staged.List];
                if (cache.Spec.Shape.IsQuantised)
                {
                    _singles = new SingleTokens(cache, maxSequences);
                    Lists = [_core.List, _staged.List, _singles.Core.List];
                }
            }
        }
        catch
        {
            Free();
            throw;
        }
    }

    /// <summary>On what the bits of a sequence's results may depend.</summary>
    public Determinism Determinism => _core.Limits.Determinism;

    /// <inheritdoc/>
    public override long WorkspaceBytes => _core.WorkspaceBytes + (_staged?.Bytes ?? 0) + (_singles?.Core.WorkspaceBytes ?? 0);

    /// <summary>What the last plan looks like.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public PlanInfo PlanInfo
    {
        get
        {
            _batch.RequirePlan();
            PrefillBatch batch = Prefill;
            PlanInfo? info = null;
            if (_staged is { Stages: true })
            {
                info = _staged.Info(batch, _batch.Planned, _batch.Rows);
                batch = _staged.Others(batch);
            }

            PrefillBatch others = _singles is null ? batch : _singles.Others(batch);
            if (info is null && _singles is not { Any: true } || !others.Lengths.IsEmpty)
            {
                info = PlanInfo.Then(info, _core.Info(others, _batch.Planned, _batch.Rows));
            }

            return _singles is { Any: true } ? PlanInfo.Then(info, _singles.Info(batch, _batch.Planned, _batch.Rows)) : info!.Value;
        }
    }

    /// <summary>What plans are made for; benchmarks change it before the first plan.</summary>
    internal PrefillPlanLimits Limits
    {
        get => _core.Limits;
        set => _core.Limits = value;
    }

    /// <summary>Whether plans stage what fits, where there is a kernel for it; null leaves the choice to the planner. Tests change it before the first plan.</summary>
    internal bool? Stages { get; set; }

    /// <summary>Of <see cref="WorkspaceBytes"/>, what staged keys and values have taken so far.</summary>
    internal long StagedBytes => _staged?.TakenBytes ?? 0;

    private protected override PlannedBatch Batch => _batch;

    private protected override PlanList[] Lists { get; }

    private PrefillBatch Prefill =>
        new(_batch.QueryTokens, _batch.Lengths, _batch.PageOffsets, _batch.FirstRows, _causal, _core.List.Bounds, _batch.Places);

    /// <summary>
    /// Plans a step whose query tokens are those of each sequence's open forward: from here on <c>Append</c> and <c>Run</c> mean these
    /// sequences as they are now, in this order.
    /// </summary>
    /// <param name="sequences">Sequences of the cache. One without an open forward has no row.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0; 1 / sqrt(headDim) when null.</param>
    /// <param name="causal">Whether a query token sees the tokens up to its own only, else all of the sequence.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(ReadOnlySpan<Sequence> sequences, float? smScale = null, bool causal = true, CudaStream? stream = null) =>
        PlanStep<NoArguments>(sequences, given: false, default, default, smScale, causal, stream);

    /// <summary>As the overload without <paramref name="arguments"/>, for a configuration whose variant of attention takes some.</summary>
    /// <typeparam name="TArguments">As of the variant.</typeparam>
    /// <param name="sequences">As there.</param>
    /// <param name="arguments">The arguments of the variant, which are copied.</param>
    /// <param name="smScale">As there.</param>
    /// <param name="causal">As there.</param>
    /// <param name="stream">As there.</param>
    public void Plan<TArguments>(
        ReadOnlySpan<Sequence> sequences,
        VariantArguments<TArguments> arguments,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    )
        where TArguments : allows ref struct => PlanStep(sequences, given: false, default, arguments, smScale, causal, stream);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            Free();
        }
    }

    private protected override ReadOnlySpan<int> QueryTokensOf(ReadOnlySpan<Sequence> sequences) => _batch.ForwardTokens(sequences);

    private protected override void CheckStep(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens, float? smScale)
    {
        PlannedBatch.CheckRows(queryTokens, MaxQueryTokens, PrefillCore.Advice);
        if (Determinism == Determinism.BatchInvariant)
        {
            CheckStates(sequences, queryTokens);
        }

        _scaleLog2 = PrefillCore.Scale(Cache.Spec, smScale);
    }

    private protected override void PlanChecked(ReadOnlySpan<Sequence> sequences, bool given, bool causal, CudaStream? stream)
    {
        _causal = causal && Cache.Spec.Variant is not { ReplacesCausality: true };
        _stagingCheck?.Before(stream);
        PrefillBatch batch = Prefill;
        batch = _staged is null ? batch : _staged.Plan(batch, _scaleLog2, Stages, stream);
        batch = _singles is null ? batch : _singles.Plan(batch, _batch.FreshTokens, _scaleLog2, stream);
        _core.Plan(batch, _scaleLog2, stream);
    }

    private protected override void Launch(int layer, in TensorView query, in TensorView output, in TensorView lse, CudaStream? stream)
    {
        // A graph must do for every plan that it may replay: it has all kernels.
        PrefillParams args = _core.Arguments(query, output, lse, _batch.Rows, "cache");
        bool captures = _staged is not null && Cache.Device.Backend.IsCapturing(stream);
        if (captures || _staged is { Stages: true })
        {
            LaunchStaged(layer, _staged!.Arguments(args), stream);
        }

        if (captures || _staged is null || !_core.IsEmpty)
        {
            PrefillCore.SetCache(ref args, Cache, _kvMap, layer);
            args.Fault = _batch.Check?.Record(layer) ?? 0;
            _batch.Check?.Before(stream);
            Cache.Table.IsCaptured |= _core.Run(ref args, _batch.Rows, keyRows: 0, stream);
            _batch.Check?.After(layer, stream);
        }

        if (_singles is not null && (captures || _singles.Any))
        {
            _singles.Core.Run(layer, query, output, lse, _batch.Rows, _batch.Check, stream);
        }
    }

    private protected override string Describe() => PlanInfo.ToString();

    private void LaunchStaged(int layer, PrefillParams args, CudaStream? stream)
    {
        if (_staged!.HasStager)
        {
            PrefillCore.SetCache(ref args, Cache, default, layer);
            args.Fault = _stagingCheck?.Record(layer) ?? 0;
            _stagingCheck?.Before(stream);
            Cache.Table.IsCaptured |= _staged.Run(ref args, _batch.Rows, valueRows: 0, stream);
            _stagingCheck?.After(layer, stream);
            return;
        }

        args.KeyScales = Cache.KeyScaleAddress(layer);
        args.ValueScales = Cache.ValueScaleAddress(layer);
        StageParams stage = new()
        {
            Key = Cache.KeyAddress(layer),
            Value = Cache.ValueAddress(layer),
            Pages = Cache.Table.Address,
            PageStride = Cache.PageElements,
            TokenStride = Cache.TokenElements,
            HeadStride = Cache.HeadElements,
            Fault = _stagingCheck?.Record(layer) ?? 0,
            PageCount = Cache.TotalPages,
        };
        _stagingCheck?.Before(stream);
        Cache.Table.IsCaptured |= _staged.Stage(ref stage, stream);
        _stagingCheck?.After(layer, stream);
        _batch.Check?.Before(stream);
        _staged.Run(ref args, _batch.Rows, valueRows: 0, stream);
        _batch.Check?.After(layer, stream);
    }

    private Sequence? StagedSequenceAt(int row) => _staged!.PlaceAt(row, Prefill) is var place and >= 0 ? _batch.At(place) : null;

    private void Free()
    {
        _stagingCheck?.Dispose();
        _singles?.Dispose();
        _staged?.Dispose();
        _batch?.Dispose();
        _core?.Dispose();
    }

    /// <summary>Batch-invariant plans cut every sequence as if it were alone: the workspace is made for a full cache, not for sequences that stand in a batch twice.</summary>
    private void CheckStates(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens)
    {
        long states = 0;
        for (int i = 0; i < queryTokens.Length; i++)
        {
            states += PrefillPlanner.InvariantStates(sequences[i].KvLength, queryTokens[i], _core.Limits);
        }

        if (states > _core.Limits.MaxParts)
        {
            throw new ArgumentException(
                $"The batch has {states} partial states of long sequences; the batch-invariant workspace has room for {_core.Limits.MaxParts}, as many as a full cache can have. Plan sequences that stand in the batch more than once in several batches.",
                nameof(sequences)
            );
        }
    }
}
