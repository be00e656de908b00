using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;

namespace FlashInfer;

/// <summary>
/// What the wrappers over a paged cache have in common. <c>Plan</c> once a step, for all layers; then for each layer <c>Append</c> (when
/// the step brings new tokens) and <c>Run</c>.
/// </summary>
/// <remarks>
/// <para>
/// The query tokens are the sequences' last, those of an open forward included: with causal attention the very last one sees all tokens,
/// the one before it all but one. A wrapper belongs to one caller at a time. <c>Append</c> and <c>Run</c> can be captured in a CUDA graph;
/// a replay after a new <c>Plan</c> reads the new plan.
/// </para>
/// <para>
/// Keys and values come into the cache in one of two ways. The wrapper's <c>Append</c> is the one for a step: <c>BeginForward</c>,
/// <c>Plan</c>, then <c>Append</c> and <c>Run</c> for each layer, then <c>EndForward</c>. It writes the tokens of the planned sequences'
/// open forwards in the plan's order, sends nothing to the device but the launch, and can be captured. The cache's <c>Append</c> needs no
/// plan and names its sequences: use it for tokens that no query of this wrapper asks about, such as a prompt whose keys and values are
/// there already, or for a part of the batch.
/// </para>
/// </remarks>
public abstract class PagedAttention : IDisposable, IExplainsPlan
{
    private readonly string _advice;

    private protected PagedAttention(PagedKvCache cache, int maxSequences, int maxQueryTokens, string advice)
    {
        ArgumentNullException.ThrowIfNull(cache);
        cache.ThrowIfDisposed();
        Cache = cache;
        MaxSequences = maxSequences;
        MaxQueryTokens = maxQueryTokens;
        _advice = advice;
    }

    /// <summary>The cache that holds the sequences.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>Sequences of the largest batch.</summary>
    public int MaxSequences { get; }

    /// <summary>The most query tokens: of a sequence for decode, else of all sequences of a batch.</summary>
    public int MaxQueryTokens { get; }

    /// <summary>Device memory of the wrapper's workspace, known before any plan and never exceeded by one. Room for staged keys and values is taken when it is first needed.</summary>
    public abstract long WorkspaceBytes { get; }

    /// <summary>What is known of the planned sequences.</summary>
    private protected abstract PlannedBatch Batch { get; }

    /// <summary>The lists that a plan fills.</summary>
    private protected abstract PlanList[] Lists { get; }

    /// <summary>
    /// Plans a step with a number of query tokens for each sequence, its last ones. Their rows in query and output stand one behind the
    /// other, those of the first sequence first.
    /// </summary>
    /// <param name="sequences">Sequences of the cache; empty ones give output 0 and LSE -infinity. One without an open forward may stand in the batch more than once.</param>
    /// <param name="queryTokens">
    /// Query tokens of each sequence, 0 or more; as many as <see cref="MaxQueryTokens"/> allows. A sequence with 0 has no row; <c>Append</c>
    /// writes its new tokens all the same. There may be more than the sequence has tokens.
    /// </param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0 but for decode; 1 / sqrt(headDim) when null.</param>
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
    ) => PlanStep<NoArguments>(sequences, given: true, queryTokens, default, smScale, causal, stream);

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
        where TArguments : allows ref struct => PlanStep(sequences, given: true, queryTokens, arguments, smScale, causal, stream);

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
        using UseGuard.Use use = Batch.Enter();
        Batch.Append(layer, key, value, stream);
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
        using UseGuard.Use use = Batch.Enter();
        Cache.CheckLayer(layer);
        Batch.RequireFreshPlan();
        Cache.Device.CheckStream(stream);
        Launch(layer, query, output, lse, stream);
    }

    /// <summary>The plan in words: kernel, rows, work items, longest of them, who shares them, imbalance.</summary>
    public string Explain() => Batch.Planned < 0 ? "no plan" : Describe();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the workspace.</summary>
    /// <param name="disposing">Whether <see cref="Dispose()"/> was called.</param>
    protected abstract void Dispose(bool disposing);

    /// <summary>Plans a step.</summary>
    /// <param name="sequences">The batch.</param>
    /// <param name="given">Whether <paramref name="queryTokens"/> are given.</param>
    /// <param name="queryTokens">Query tokens of each sequence.</param>
    /// <param name="arguments">The arguments of the variant.</param>
    /// <param name="smScale">What logits are multiplied by.</param>
    /// <param name="causal">Whether attention is causal.</param>
    /// <param name="stream">The stream.</param>
    private protected void PlanStep<TArguments>(
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
        using UseGuard.Use use = Batch.Enter();
        using UseGuard.Use cacheUse = Cache.Enter();
        Cache.Device.CheckStream(stream);
        Batch.CheckSequences(sequences);
        if (given)
        {
            PlannedBatch.CheckQueryTokens(sequences, queryTokens, MaxQueryTokens, _advice);
        }
        else
        {
            queryTokens = QueryTokensOf(sequences);
        }

        CheckStep(sequences, queryTokens, smScale);
        foreach (PlanList list in Lists)
        {
            list.Take(arguments, Batch.Shape(sequences, queryTokens));
        }

        // From here on nothing can be wrong with the input. A failure of the device leaves the wrapper without a plan.
        Batch.Begin(sequences, queryTokens, stream);
        PlanChecked(sequences, given, causal, stream);
        Batch.Commit(sequences, stream);
    }

    /// <summary>The query tokens of a plan that is given none.</summary>
    private protected abstract ReadOnlySpan<int> QueryTokensOf(ReadOnlySpan<Sequence> sequences);

    /// <summary>Throws unless the step can be planned, and keeps what <see cref="PlanChecked"/> needs; the last plan stays as it is.</summary>
    private protected abstract void CheckStep(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens, float? smScale);

    /// <summary>Plans what <see cref="CheckStep"/> found right, and sends the lists to the device.</summary>
    private protected abstract void PlanChecked(ReadOnlySpan<Sequence> sequences, bool given, bool causal, CudaStream? stream);

    /// <summary>Launches a fresh plan's kernels.</summary>
    private protected abstract void Launch(int layer, in TensorView query, in TensorView output, in TensorView lse, CudaStream? stream);

    /// <summary>A plan in words.</summary>
    private protected abstract string Describe();
}
