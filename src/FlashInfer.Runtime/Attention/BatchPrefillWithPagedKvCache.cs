using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch prefill: any number of query tokens for each sequence over its pages. Whole prompts, chunks of prompts behind what is cached,
/// and single tokens of running sequences can stand in one batch. <c>Plan</c> once a step, for all layers; then for each layer
/// <c>Append</c> (when the step brings new tokens) and <c>Run</c>. Generated configurations derive a typed wrapper from it.
/// </summary>
/// <remarks>
/// The query tokens are the sequence's last, those of an open forward included: with causal attention the very last one sees all tokens,
/// the one before it all but one. A wrapper belongs to one caller at a time. <c>Append</c> and <c>Run</c> can be captured in a CUDA graph;
/// a replay after a new <c>Plan</c> reads the new plan.
/// </remarks>
public class BatchPrefillWithPagedKvCache : IDisposable, IExplainsPlan
{
    private const string Advice = "The wrapper's constructor takes a larger maxQueryTokens, the query tokens of all sequences of a step.";

    private readonly PlannedBatch _batch;
    private readonly PrefillCore _core;
    private readonly TensorMap _kvMap;
    private bool _causal;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304: rows of query and output.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    /// <exception cref="FlashInferException">The kernel can't be compiled or loaded, or the memory is not there.</exception>
    public BatchPrefillWithPagedKvCache(
        PagedKvCache cache,
        int maxSequences = 1024,
        int maxQueryTokens = PrefillCore.DefaultQueryTokens,
        Determinism determinism = Determinism.Reproducible
    )
    {
        ArgumentNullException.ThrowIfNull(cache);
        cache.ThrowIfDisposed();
        cache.Spec.RequirePrefill(nameof(cache));
        PrefillCore.CheckLimits(maxSequences, maxQueryTokens, determinism);
        Cache = cache;
        MaxSequences = maxSequences;
        MaxQueryTokens = maxQueryTokens;
        PrefillKernel kernel = cache.Kernels.Prefill(isPaged: true);
        _kvMap = kernel.EncodeKvMap(cache);
        long cacheTokens = (long)cache.TotalPages * cache.Spec.PageSize;
        _core = new PrefillCore(cache.Device, cache.Spec, kernel, cacheTokens, maxSequences, maxQueryTokens, determinism);
        _batch = new PlannedBatch(this, nameof(BatchPrefillWithPagedKvCache), cache, maxSequences);
    }

    /// <summary>The cache that holds the sequences.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>Sequences of the largest batch.</summary>
    public int MaxSequences { get; }

    /// <summary>Query tokens of all sequences of the largest batch.</summary>
    public int MaxQueryTokens { get; }

    /// <summary>On what the bits of a sequence's results may depend.</summary>
    public Determinism Determinism => _core.Limits.Determinism;

    /// <summary>Device memory of the wrapper's workspace, known before any plan and never exceeded by one.</summary>
    public long WorkspaceBytes => _core.WorkspaceBytes;

    /// <summary>What the last plan looks like.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public PlanInfo PlanInfo
    {
        get
        {
            _batch.RequirePlan();
            return _core.Info(Batch, _batch.Planned, _batch.Rows);
        }
    }

    /// <summary>What plans are made for; benchmarks change it before the first plan.</summary>
    internal PrefillPlanLimits Limits
    {
        get => _core.Limits;
        set => _core.Limits = value;
    }

    private PrefillBatch Batch => new(_batch.QueryTokens, _batch.Lengths, _batch.PageOffsets, _causal, _core.Bounds(_batch.Places));

    /// <summary>
    /// Plans a step whose query tokens are those of each sequence's open forward: from here on <c>Append</c> and <c>Run</c> mean these
    /// sequences as they are now, in this order.
    /// </summary>
    /// <param name="sequences">Sequences of the cache. One without an open forward has no row.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0; 1 / sqrt(headDim) when null.</param>
    /// <param name="causal">Whether a query token sees the tokens up to its own only, else all of the sequence.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(ReadOnlySpan<Sequence> sequences, float? smScale = null, bool causal = true, CudaStream? stream = null)
    {
        using UseGuard.Use use = _batch.Enter();
        Plan<NoArguments>(sequences, given: false, default, default, smScale, causal, stream);
    }

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
        where TArguments : allows ref struct
    {
        using UseGuard.Use use = _batch.Enter();
        Plan(sequences, given: false, default, arguments, smScale, causal, stream);
    }

    /// <summary>Plans a step with a number of query tokens for each sequence, its last ones.</summary>
    /// <param name="sequences">Sequences of the cache. One without an open forward may stand in the batch more than once.</param>
    /// <param name="queryTokens">
    /// Query tokens of each sequence, 0 or more, together at most <see cref="MaxQueryTokens"/>. A sequence with 0 has no row;
    /// <c>Append</c> writes its new tokens all the same. There may be more than the sequence has tokens: with causal attention the first
    /// then see none and give output 0 and LSE -infinity.
    /// </param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0; 1 / sqrt(headDim) when null.</param>
    /// <param name="causal">Whether a query token sees the tokens up to its own only, else all of the sequence.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(
        ReadOnlySpan<Sequence> sequences,
        ReadOnlySpan<int> queryTokens,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    )
    {
        using UseGuard.Use use = _batch.Enter();
        Plan<NoArguments>(sequences, given: true, queryTokens, default, smScale, causal, stream);
    }

    /// <summary>As the overload without <paramref name="arguments"/>, for a configuration whose variant of attention takes some.</summary>
    /// <typeparam name="TArguments">As of the variant.</typeparam>
    /// <param name="sequences">As there.</param>
    /// <param name="queryTokens">As there.</param>
    /// <param name="arguments">The arguments of the variant, which are copied.</param>
    /// <param name="smScale">As there.</param>
    /// <param name="causal">As there.</param>
    /// <param name="stream">As there.</param>
    public void Plan<TArguments>(
        ReadOnlySpan<Sequence> sequences,
        ReadOnlySpan<int> queryTokens,
        VariantArguments<TArguments> arguments,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    )
        where TArguments : allows ref struct
    {
        using UseGuard.Use use = _batch.Enter();
        Plan(sequences, given: true, queryTokens, arguments, smScale, causal, stream);
    }

    /// <summary>
    /// Writes the keys and values of the planned sequences' open forwards into one layer; the cache's own <c>Append</c> does it without a
    /// plan, for sequences that it is given.
    /// </summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="key">[tokens, kvHeads, headDim] of <see cref="AttentionSpec.Dtype"/>: the new tokens of the first planned sequence, then of the second, ...</param>
    /// <param name="value">As <paramref name="key"/>.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">None of the planned sequences has a forward open, or one was ended since.</exception>
    /// <exception cref="StalePlanException">There is no plan, or its sequences changed.</exception>
    public void Append(int layer, TensorView key, TensorView value, CudaStream? stream = null)
    {
        using UseGuard.Use use = _batch.Enter();
        _batch.Append(layer, key, value, stream);
    }

    /// <summary>Attends with the query tokens of the planned sequences.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="query">[rows, heads, headDim]: a row for each query token, in the order of the plan.</param>
    /// <param name="output">[rows, heads, headDim]; every element is written.</param>
    /// <param name="lse">float [rows, heads], contiguous: receives the base-2 LSE; none when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="StalePlanException">There is no plan, or its sequences changed.</exception>
    public void Run(int layer, TensorView query, TensorView output, TensorView lse = default, CudaStream? stream = null)
    {
        using UseGuard.Use use = _batch.Enter();
        Cache.CheckLayer(layer);
        _batch.RequireFreshPlan();
        Cache.Device.CheckStream(stream);
        PrefillParams args = _core.Arguments(query, output, lse, _batch.Rows, "cache");
        PrefillCore.SetCache(ref args, Cache, _kvMap, layer);
        args.Fault = _batch.Check?.Record(layer) ?? 0;
        _batch.Check?.Before(stream);
        Cache.Table.IsCaptured |= _core.Run(ref args, _batch.Rows, keyRows: 0, stream);
        _batch.Check?.After(layer, stream);
    }

    /// <summary>The plan in words: kernel, rows, work items, longest range, imbalance.</summary>
    public string Explain() => _batch.Planned < 0 ? "no plan" : PlanInfo.ToString();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the workspace.</summary>
    /// <param name="disposing">Whether <see cref="Dispose()"/> was called.</param>
    protected virtual void Dispose(bool disposing)
    {
        if (disposing)
        {
            _batch.Dispose();
            _core.Dispose();
        }
    }

    private void Plan<TArguments>(
        ReadOnlySpan<Sequence> sequences,
        bool given,
        ReadOnlySpan<int> queryTokens,
        scoped in VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal,
        CudaStream? stream
    )
        where TArguments : allows ref struct
    {
        using UseGuard.Use cacheUse = Cache.Enter();
        Cache.Device.CheckStream(stream);
        _batch.CheckSequences(sequences);
        if (given)
        {
            PlannedBatch.CheckQueryTokens(sequences, queryTokens, MaxQueryTokens, Advice);
        }
        else
        {
            queryTokens = _batch.ForwardTokens(sequences);
        }

        CheckRows(sequences, queryTokens);
        float scaleLog2 = _core.Scale(smScale);
        _core.Take(arguments, _batch.Shape(sequences, queryTokens));

        // From here on nothing can be wrong with the input. A failure of the device leaves the wrapper without a plan.
        _batch.Begin(sequences, queryTokens, stream);
        _causal = causal && Cache.Spec.Variant is not { ReplacesCausality: true };
        _core.Plan(Batch, _batch.Attending, scaleLog2, stream);
        _batch.Commit(sequences, stream);
    }

    private void CheckRows(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens)
    {
        long rows = 0;
        long states = 0;
        for (int i = 0; i < queryTokens.Length; i++)
        {
            rows += queryTokens[i];
            states +=
                Determinism == Determinism.BatchInvariant
                    ? PrefillPlanner.InvariantStates(sequences[i].KvLength, queryTokens[i], _core.Limits)
                    : 0;
        }

        if (rows > MaxQueryTokens)
        {
            throw new ArgumentException(
                $"The {queryTokens.Length} sequences have {rows} query tokens; expected at most {MaxQueryTokens}. {Advice}",
                nameof(queryTokens)
            );
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
