using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch decode: one query token for each sequence, or a few (speculative decoding), over its pages. Generated configurations derive a
/// typed wrapper from it.
/// </summary>
public class BatchDecodeWithPagedKvCache : PagedAttention
{
    private static readonly string s_advice =
        $"The wrapper's constructor takes a larger maxQueryTokens, up to {CudaUnits.QueryTokens[^1]}.";

    private readonly PlannedBatch _batch;
    private readonly DecodeCore _core;
    private DecodePath? _path;
    private float _scale;
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
        : base(cache, maxSequences, maxQueryTokens, s_advice)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxSequences, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxSequences, 65_536);
        int most = CudaUnits.QueryTokens[^1];
        if (maxQueryTokens < 1 || maxQueryTokens > most)
        {
            throw new ArgumentOutOfRangeException(
                nameof(maxQueryTokens),
                maxQueryTokens,
                $"Decode serves 1 to {most} query tokens a sequence; {(cache.Spec.HasPrefill ? "BatchPrefillWithPagedKvCache takes any number" : "take longer stretches of a prompt in several steps")}."
            );
        }

        determinism.Check();
        Determinism = determinism;
        _core = new DecodeCore(cache, maxSequences, maxQueryTokens, determinism);
        Lists = [_core.List];
        try
        {
            _batch = new PlannedBatch(this, nameof(BatchDecodeWithPagedKvCache), cache, maxSequences);
        }
        catch
        {
            _core.Dispose();
            throw;
        }
    }

    /// <summary>On what the bits of a sequence's results may depend.</summary>
    public Determinism Determinism { get; }

    /// <inheritdoc/>
    public override long WorkspaceBytes => _core.WorkspaceBytes;

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

    private protected override PlannedBatch Batch => _batch;

    private protected override PlanList[] Lists { get; }

    /// <summary>
    /// Plans a step with one query token for each sequence, its last: from here on <c>Append</c> and <c>Run</c> mean these sequences as they
    /// are now, in this order.
    /// </summary>
    /// <param name="sequences">Sequences of the cache; empty ones give output 0 and LSE -infinity. One without an open forward may stand in the batch more than once.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax; 1 / sqrt(headDim) when null.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(ReadOnlySpan<Sequence> sequences, float? smScale = null, CudaStream? stream = null) =>
        PlanStep<NoArguments>(sequences, given: false, default, default, smScale, causal: true, stream);

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
        where TArguments : allows ref struct => PlanStep(sequences, given: false, default, arguments, smScale, causal: true, stream);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (_disposed || !disposing)
        {
            return;
        }

        _disposed = true;
        _batch.Dispose();
        _core.Dispose();
    }

    private protected override ReadOnlySpan<int> QueryTokensOf(ReadOnlySpan<Sequence> sequences) => _batch.Ones(sequences);

    private protected override void CheckStep(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens, float? smScale)
    {
        _scale = _core.Scale(smScale);
        _path = _core.Choose(sequences, _scale);
    }

    private protected override void PlanChecked(ReadOnlySpan<Sequence> sequences, bool given, bool causal, CudaStream? stream) =>
        _core.Plan(_batch, _path!, several: given, causal, _scale, stream);

    private protected override void Launch(int layer, in TensorView query, in TensorView output, in TensorView lse, CudaStream? stream) =>
        _core.Run(layer, query, output, lse, _batch.Rows, _batch.Check, stream);

    private protected override string Describe() => PlanInfo.ToString();
}
