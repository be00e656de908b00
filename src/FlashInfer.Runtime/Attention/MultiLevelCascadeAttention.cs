using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch attention that reads what sequences share once for all of them: sequences made with <see cref="PagedKvCache.Fork(Sequence, int, CudaStream?)"/>
/// begin with the same pages, and those that stand next to each other in a batch attend to these pages together, then each to its own,
/// and the states are merged. Results are those of <see cref="BatchPrefillWithPagedKvCache"/> over the same sequences, but for rounding,
/// and it is used like it: decode steps and prompts behind a shared prefix alike. Generated configurations derive a typed wrapper from it.
/// </summary>
/// <remarks>
/// <para>
/// <c>Plan</c> finds out what is shared: nothing has to be said but the sequences, of which those that share more should stand closer to
/// each other. With two levels a batch has one shared level, whose prefixes may differ from group to group; every further level lets prefixes
/// fork again: a system prompt, a document behind it, a conversation about that.
/// </para>
/// <para>
/// Only whole pages before all query tokens are shared with causal attention, which the last level alone has to be. Where nothing is shared
/// that would pay, the step is that of prefill, or of decode where every sequence has one query token. A CUDA graph has all of these
/// kernels, whatever its plan was when it was captured; those that a later plan does not need find nothing to do.
/// </para>
/// </remarks>
public class MultiLevelCascadeAttention : PagedAttention
{
    private const int MostLevels = 8;

    private readonly PlannedBatch _batch;
    private readonly CascadeLevels _levels;
    private readonly CascadeStates _states;
    private readonly DecodeCore _decode;
    private readonly LaunchCheck?[] _checks;
    private float _scale;
    private float _scaleLog2;
    private DecodePath? _path;
    private bool _decodes;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304. The workspace has an output for each of them and each shared level.</param>
    /// <param name="maxLevels">Levels, 2 to 8: shared ones, and the last, which every sequence has for itself.</param>
    /// <exception cref="ArgumentException">The configuration's variant of attention asks where tokens stand, which levels can't tell.</exception>
    /// <exception cref="FlashInferException">The kernels can't be compiled or loaded, or the memory is not there.</exception>
    public MultiLevelCascadeAttention(PagedKvCache cache, int maxSequences = 1024, int maxQueryTokens = 4096, int maxLevels = 2)
        : base(cache, maxSequences, maxQueryTokens, PrefillCore.Advice)
    {
        cache.Spec.RequirePrefill(nameof(cache));
        PrefillCore.CheckLimits(maxSequences, maxQueryTokens, Determinism.Reproducible);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxLevels, 2);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxLevels, MostLevels);
        AttentionSpec spec = cache.Spec;
        if (spec.Variant is { IsPositionFree: false })
        {
            throw new ArgumentException(
                $"The cache's variant of attention, {spec.Variant}, may ask where tokens stand and whose they are, which is not the same in all levels of a cascade; expected none, or {nameof(AttentionOptions.LogitsSoftCap)} alone. Use {nameof(BatchPrefillWithPagedKvCache)} or {nameof(BatchDecodeWithPagedKvCache)}, which take forked sequences as well.",
                nameof(cache)
            );
        }

        MaxLevels = maxLevels;
        cache.Kernels.LoadCascade();
        _checks = new LaunchCheck?[maxLevels];
        try
        {
            _levels = new CascadeLevels(cache, maxSequences, maxQueryTokens, maxLevels);
            _states = new CascadeStates(cache.Device, spec, maxQueryTokens, maxLevels);
            _decode = new DecodeCore(cache, maxSequences, maxQueryTokens: 1, Determinism.Reproducible);
            Lists = [.. _levels.Lists, _decode.List];
            _batch = new PlannedBatch(this, nameof(MultiLevelCascadeAttention), cache, maxSequences);
            for (int level = 0; level < maxLevels; level++)
            {
                int l = level;
                _checks[level] = LaunchCheck.Create(
                    cache,
                    $"{nameof(MultiLevelCascadeAttention)}.{nameof(Run)}",
                    _batch.SequenceAt,
                    row => _levels.FirstPage(l, _batch.IndexAt(row)) * spec.PageSize
                );
            }
        }
        catch
        {
            Free();
            throw;
        }
    }

    /// <summary>The most levels of a plan, the last included.</summary>
    public int MaxLevels { get; }

    /// <inheritdoc/>
    public override long WorkspaceBytes => _levels.WorkspaceBytes + _decode.WorkspaceBytes + _states.Bytes;

    /// <summary>What the levels of the last plan look like: the shared ones, from the first pages on, and the last. Sequences of a level are groups.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public IReadOnlyList<PlanInfo> Levels
    {
        get
        {
            _batch.RequirePlan();
            return _decodes ? [_decode.Info(_batch)] : _levels.Infos;
        }
    }

    /// <summary>What plans weigh; tests change it before the first plan.</summary>
    internal CascadeCosts Costs
    {
        get => _levels.Costs;
        set => _levels.Costs = value;
    }

    private protected override PlannedBatch Batch => _batch;

    private protected override PlanList[] Lists { get; }

    /// <summary>
    /// Plans a step whose query tokens are those of each sequence's open forward: from here on <c>Append</c> and <c>Run</c> mean these
    /// sequences as they are now, in this order.
    /// </summary>
    /// <param name="sequences">Sequences of the cache, those that share pages next to each other. One without an open forward has no row.</param>
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
        _scaleLog2 = PrefillCore.Scale(Cache.Spec, smScale);
        _scale = _decode.Scale(smScale);
        _path = _decode.Choose(sequences, _scale);
    }

    private protected override void PlanChecked(ReadOnlySpan<Sequence> sequences, bool given, bool causal, CudaStream? stream)
    {
        _levels.Choose(_batch, sequences, causal);
        _decodes = _levels.Shared == 0 && _batch.Rows > 0 && !_batch.QueryTokens.ContainsAnyExcept(1);
        if (_decodes)
        {
            _levels.Clear(stream);
            _decode.Plan(_batch, _path!, several: false, causal, _scale, stream);
        }
        else
        {
            _levels.Plan(_batch, causal, _scaleLog2, stream);
            _decode.Clear(stream);
        }

        _states.Merges(_levels.Shared > 0, stream);
    }

    private protected override void Launch(int layer, in TensorView query, in TensorView output, in TensorView lse, CudaStream? stream)
    {
        // A graph must do for every plan that it may replay: it has all kernels.
        bool captures = Cache.Device.Backend.IsCapturing(stream);
        int shared = captures ? MaxLevels - 1 : _levels.Shared;
        int last = MaxLevels - 1;
        int rows = _batch.Rows;
        TensorView ownLse = lse.IsEmpty && shared > 0 ? _states.LastLse(rows) : lse;
        if (captures || !_decodes)
        {
            PrefillParams own = _levels.Arguments(last, layer, query, output, ownLse, rows);
            for (int level = 0; level < shared; level++)
            {
                PrefillParams args = _levels.Arguments(level, layer, query, _states.Output(level, rows), _states.Lse(level, rows), rows);
                Launch(level, layer, ref args, stream);
            }

            Launch(last, layer, ref own, stream);
        }

        if (captures || _decodes)
        {
            _decode.Run(layer, query, output, ownLse, rows, _checks[last], stream);
        }

        if (shared > 0)
        {
            _states.Merge(shared, output, ownLse, rows, stream);
        }
    }

    private protected override string Describe() =>
        string.Join('\n', Levels.Select((info, i) => $"level {i + 1} of {_levels.Shared + 1}: {info}"));

    private void Launch(int level, int layer, ref PrefillParams args, CudaStream? stream)
    {
        args.Fault = _checks[level]?.Record(layer) ?? 0;
        _checks[level]?.Before(stream);
        _levels.Run(level, ref args, _batch.Rows, stream);
        _checks[level]?.After(layer, stream);
    }

    private void Free()
    {
        _batch?.Dispose();
        foreach (LaunchCheck? check in _checks)
        {
            check?.Dispose();
        }

        _levels?.Dispose();
        _states?.Dispose();
        _decode?.Dispose();
    }
}
