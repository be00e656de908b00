using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch decode: one query token for each sequence, or a few (speculative decoding), over its pages. <c>Plan</c> once a step, for all
/// layers; then for each layer <c>Append</c> (when the step brings new tokens) and <c>Run</c>. Generated configurations derive a typed
/// wrapper from it.
/// </summary>
/// <remarks>
/// <para>
/// The query tokens are the sequence's last, those of an open forward included: the very last one sees all tokens, the one before it all
/// but one. A wrapper belongs to one caller at a time. <c>Append</c> and <c>Run</c> can be captured in a CUDA graph; a replay after a new
/// <c>Plan</c> reads the new plan.
/// </para>
/// <para>
/// Keys and values come into the cache in one of two ways. The wrapper's <c>Append</c> is the one for a step: <c>BeginForward</c>,
/// <c>Plan</c>, then <c>Append</c> and <c>Run</c> for each layer, then <c>EndForward</c>. It writes the tokens of the planned sequences'
/// open forwards in the plan's order, sends nothing to the device but the launch, and can be captured. The cache's <c>Append</c> needs no
/// plan and names its sequences: use it for tokens that no query of this wrapper asks about, such as a prompt whose keys and values are
/// there already, or for a part of the batch.
/// </para>
/// </remarks>
public class BatchDecodeWithPagedKvCache : IDisposable, IExplainsPlan
{
    private static readonly string s_advice =
        $"The wrapper's constructor takes a larger maxQueryTokens, up to {CudaUnits.QueryTokens[^1]}.";

    private readonly PlannedBatch _batch;
    private readonly DecodeCore _core;
    private bool _disposed;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    /// <param name="maxQueryTokens">
    /// The most query tokens of a sequence, 1 to 8. There is a kernel for 1, 2, 4 and 8, and the smallest that is enough runs every plan
    /// of the wrapper; where it is not compiled yet, this waits for it.
    /// </param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    /// <exception cref="FlashInferException">The kernel can't be compiled or loaded, or the memory is not there.</exception>
    public BatchDecodeWithPagedKvCache(
        PagedKvCache cache,
        int maxSequences = 1024,
        int maxQueryTokens = 1,
        Determinism determinism = Determinism.Reproducible
    )
    {
        ArgumentNullException.ThrowIfNull(cache);
        cache.ThrowIfDisposed();
        ArgumentOutOfRangeException.ThrowIfLessThan(maxSequences, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxSequences, 65_536);
        int most = CudaUnits.QueryTokens[^1];
        if (maxQueryTokens < 1 || maxQueryTokens > most)
        {
            throw new ArgumentOutOfRangeException(
                nameof(maxQueryTokens),
                maxQueryTokens,
                $"Decode serves 1 to {most} query tokens a sequence; append longer stretches of a prompt to the cache in several steps."
            );
        }

        determinism.Check();
        Cache = cache;
        MaxSequences = maxSequences;
        MaxQueryTokens = maxQueryTokens;
        Determinism = determinism;
        _core = new DecodeCore(cache, maxSequences, maxQueryTokens, determinism);
        _batch = new PlannedBatch(this, nameof(BatchDecodeWithPagedKvCache), cache, maxSequences);
    }

    /// <summary>The cache that holds the sequences.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>Sequences of the largest batch.</summary>
    public int MaxSequences { get; }

    /// <summary>The most query tokens of a sequence.</summary>
    public int MaxQueryTokens { get; }

    /// <summary>On what the bits of a sequence's results may depend.</summary>
    public Determinism Determinism { get; }

    /// <summary>Device memory of the wrapper's workspace, known before any plan and never exceeded by one.</summary>
    public long WorkspaceBytes => _core.WorkspaceBytes;

    /// <summary>What the last plan looks like.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public PlanInfo PlanInfo
    {
        get
        {
            _batch.RequirePlan();
            return _core.Info(_batch);
        }
    }

    /// <summary>What plans for the kernel of few columns are made for; benchmarks change it before the first plan.</summary>
    internal DecodePlanLimits Limits
    {
        get => _core.Limits;
        set => _core.Limits = value;
    }

    /// <summary>
    /// Whether every plan is for the kernel of many columns, since a captured graph launches it, or none; null leaves the choice to the
    /// plan. Tests and benchmarks set it before the first plan.
    /// </summary>
    internal bool? Wide
    {
        get => _core.Wide;
        set => _core.Wide = value;
    }

    /// <summary>
    /// Plans a step with one query token for each sequence, its last: from here on <c>Append</c> and <c>Run</c> mean these sequences as they
    /// are now, in this order.
    /// </summary>
    /// <param name="sequences">Sequences of the cache; empty ones give output 0 and LSE -infinity. One without an open forward may stand in the batch more than once.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax; 1 / sqrt(headDim) when null.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(ReadOnlySpan<Sequence> sequences, float? smScale = null, CudaStream? stream = null)
    {
        using UseGuard.Use use = _batch.Enter();
        Plan<NoArguments>(sequences, several: false, default, default, smScale, causal: true, stream);
    }

    /// <summary>As the overload without <paramref name="arguments"/>, for a configuration whose variant of attention takes some.</summary>
    /// <typeparam name="TArguments">As of the variant.</typeparam>
    /// <param name="sequences">As there.</param>
    /// <param name="arguments">The arguments of the variant, which are copied.</param>
    /// <param name="smScale">As there.</param>
    /// <param name="stream">As there.</param>
    public void Plan<TArguments>(
        ReadOnlySpan<Sequence> sequences,
        VariantArguments<TArguments> arguments,
        float? smScale = null,
        CudaStream? stream = null
    )
        where TArguments : allows ref struct
    {
        using UseGuard.Use use = _batch.Enter();
        Plan(sequences, several: false, default, arguments, smScale, causal: true, stream);
    }

    /// <summary>
    /// Plans a step with several query tokens for each sequence, its last ones: the verification of drafted tokens, say. Their rows in query
    /// and output stand one behind the other, those of the first sequence first.
    /// </summary>
    /// <param name="sequences">As in the overload without <paramref name="queryTokens"/>.</param>
    /// <param name="queryTokens">Query tokens of each sequence, 0 to <see cref="MaxQueryTokens"/>. A sequence with 0 has no row; <c>Append</c> writes its new tokens all the same.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax; 1 / sqrt(headDim) when null.</param>
    /// <param name="causal">
    /// Whether a query token sees the tokens up to its own only: the last of n sees all of the sequence, the first all but the last n - 1.
    /// One that comes before the sequence's first token sees none and gives output 0 and LSE -infinity. When false each sees all.
    /// </param>
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
        Plan<NoArguments>(sequences, several: true, queryTokens, default, smScale, causal, stream);
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
        Plan(sequences, several: true, queryTokens, arguments, smScale, causal, stream);
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
        DecodeParams args = _core.Arguments(layer, query, output, lse, _batch.Rows);
        args.Fault = _batch.Check?.Record(layer) ?? 0;
        _batch.Check?.Before(stream);
        _core.Run(args, _batch.Rows, stream);
        _batch.Check?.After(layer, stream);
    }

    /// <summary>The plan in words: kernel, rows, work items, chunk, who shares them, imbalance.</summary>
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
        if (_disposed || !disposing)
        {
            return;
        }

        _disposed = true;
        _batch.Dispose();
        _core.Dispose();
    }

    private void Plan<TArguments>(
        ReadOnlySpan<Sequence> sequences,
        bool several,
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
        if (several)
        {
            PlannedBatch.CheckQueryTokens(sequences, queryTokens, MaxQueryTokens, s_advice);
        }

        float scale = _core.Scale(smScale);
        DecodePath path = _core.Choose(sequences, scale);
        queryTokens = several ? queryTokens : _batch.Ones(sequences);
        _core.Take(arguments, _batch.Shape(sequences, queryTokens));

        // From here on nothing can be wrong with the input. A failure of the device leaves the wrapper without a plan.
        _batch.Begin(sequences, queryTokens, stream);
        _core.Plan(_batch, path, several, causal, scale, stream);
        _batch.Commit(sequences, stream);
    }
}
