using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;
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
/// Query tokens are the sequences' last, as for prefill. Only whole pages before all query tokens are shared with causal attention, which
/// the last level alone has to be. A wrapper belongs to one caller at a time. <c>Append</c> and <c>Run</c> can be captured in a CUDA
/// graph, which then has all levels; a replay after a new <c>Plan</c> reads the new plan. Where nothing is shared that would pay, the step
/// is that of prefill, or of decode where every sequence has one query token.
/// </para>
/// </remarks>
public class MultiLevelCascadeAttention : IDisposable, IExplainsPlan
{
    private const int MostLevels = 8;

    // Decode of 16 sequences with a prefix of 8k tokens and 8 KV heads would read so much once more, and is as fast as a cascade on an
    // H100: what all of them read is in the L2 by then.
    private const long LevelBytes = 512 << 20;
    private const string Advice = "The wrapper's constructor takes a larger maxQueryTokens, the query tokens of all sequences of a step.";

    private readonly PlannedBatch _batch;
    private readonly TensorMap _kvMap;
    private readonly CascadeLevel[] _levels;
    private readonly DecodeCore _decode;
    private readonly LaunchCheck?[] _checks;
    private readonly DeviceMemory _outputs;
    private readonly DeviceMemory _lses;
    private readonly int[] _shared;
    private readonly int[] _ends;
    private int _sharedLevels;
    private bool _decodes;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304. The workspace has an output for each of them and each shared level.</param>
    /// <param name="maxLevels">Levels, 2 to 8: shared ones, and the last, which every sequence has for itself.</param>
    /// <exception cref="ArgumentException">The configuration's variant of attention asks where tokens stand, which levels can't tell.</exception>
    /// <exception cref="FlashInferException">The kernels can't be compiled or loaded, or the memory is not there.</exception>
    public MultiLevelCascadeAttention(PagedKvCache cache, int maxSequences = 1024, int maxQueryTokens = 4096, int maxLevels = 2)
    {
        ArgumentNullException.ThrowIfNull(cache);
        cache.ThrowIfDisposed();
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

        Cache = cache;
        MaxSequences = maxSequences;
        MaxQueryTokens = maxQueryTokens;
        MaxLevels = maxLevels;
        int rowBytes = spec.Heads * spec.HeadDim * spec.Dtype.Size();
        Costs = new CascadeCosts(2 * cache.PageElements * spec.KvDtype.Size(), 2 * rowBytes, LevelBytes);
        _shared = new int[maxSequences];
        _ends = new int[maxSequences * (maxLevels - 1)];
        PrefillKernel kernel = cache.Kernels.Prefill(isPaged: true);
        _ = cache.Device.Backend.MergeStates(spec.Dtype);
        _kvMap = kernel.EncodeKvMap(cache);
        _levels = new CascadeLevel[maxLevels];
        _checks = new LaunchCheck?[maxLevels];
        try
        {
            for (int level = 0; level < maxLevels; level++)
            {
                PrefillCore core = new(
                    cache.Device,
                    spec,
                    kernel,
                    (long)cache.TotalPages * spec.PageSize,
                    maxSequences,
                    maxQueryTokens,
                    Determinism.Reproducible,
                    level == 0 ? null : _levels[0].Core
                );
                _levels[level] = new CascadeLevel(core, maxSequences);
            }

            _decode = new DecodeCore(cache, maxSequences, maxQueryTokens: 1, Determinism.Reproducible);
            _outputs = new DeviceMemory(cache.Device, (maxLevels - 1L) * maxQueryTokens * rowBytes);
            _lses = new DeviceMemory(cache.Device, (long)maxLevels * maxQueryTokens * spec.Heads * sizeof(float));
            _batch = new PlannedBatch(this, nameof(MultiLevelCascadeAttention), cache, maxSequences);
            for (int level = 0; level < maxLevels; level++)
            {
                int l = level;
                _checks[level] = LaunchCheck.Create(
                    cache,
                    $"{nameof(MultiLevelCascadeAttention)}.{nameof(Run)}",
                    _batch.SequenceAt,
                    row => FirstPage(l, _batch.IndexAt(row)) * spec.PageSize
                );
            }
        }
        catch
        {
            Free();
            throw;
        }
    }

    /// <summary>The cache that holds the sequences.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>Sequences of the largest batch.</summary>
    public int MaxSequences { get; }

    /// <summary>Query tokens of all sequences of the largest batch.</summary>
    public int MaxQueryTokens { get; }

    /// <summary>The most levels of a plan, the last included.</summary>
    public int MaxLevels { get; }

    /// <summary>Device memory of the wrapper's workspace, known before any plan and never exceeded by one.</summary>
    public long WorkspaceBytes => _levels[0].Core.WorkspaceBytes + _decode.WorkspaceBytes + _outputs.Bytes + _lses.Bytes;

    /// <summary>What the levels of the last plan look like: the shared ones, from the first pages on, and the last. Sequences of a level are groups.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public IReadOnlyList<PlanInfo> Levels
    {
        get
        {
            _batch.RequirePlan();
            return _decodes ? [_decode.Info(_batch)] : [.. _levels.Take(_sharedLevels).Append(_levels[^1]).Select(level => level.Info)];
        }
    }

    /// <summary>What plans weigh; tests change it before the first plan.</summary>
    internal CascadeCosts Costs { get; set; }

    /// <summary>
    /// Plans a step whose query tokens are those of each sequence's open forward: from here on <c>Append</c> and <c>Run</c> mean these
    /// sequences as they are now, in this order.
    /// </summary>
    /// <param name="sequences">Sequences of the cache, those that share pages next to each other. One without an open forward has no row.</param>
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
    /// <param name="sequences">Sequences of the cache, those that share pages next to each other. One without an open forward may stand in the batch more than once.</param>
    /// <param name="queryTokens">
    /// Query tokens of each sequence, 0 or more, together at most <see cref="MaxQueryTokens"/>; as of
    /// <see cref="BatchPrefillWithPagedKvCache.Plan(ReadOnlySpan{Sequence}, ReadOnlySpan{int}, float?, bool, CudaStream?)"/>.
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

        // A graph must do for every plan that it may replay: it has all levels, of which some have nothing to do.
        bool captures = Cache.Device.Backend.IsCapturing(stream);
        int shared = captures ? MaxLevels - 1 : _sharedLevels;
        int last = MaxLevels - 1;
        if (_decodes && !captures)
        {
            DecodeParams decode = _decode.Arguments(layer, query, output, lse, _batch.Rows);
            decode.Fault = _checks[last]?.Record(layer) ?? 0;
            _checks[last]?.Before(stream);
            _decode.Run(decode, _batch.Rows, stream);
            _checks[last]?.After(layer, stream);
            return;
        }

        TensorView ownLse = lse.IsEmpty && shared > 0 ? LevelLse(last) : lse;
        PrefillParams own = Arguments(last, layer, query, output, ownLse);
        for (int level = 0; level < shared; level++)
        {
            PrefillParams args = Arguments(level, layer, query, LevelOutput(level), LevelLse(level));
            Launch(level, layer, ref args, stream);
        }

        Launch(last, layer, ref own, stream);
        if (shared > 0)
        {
            Merge(shared, output, ownLse, stream);
        }
    }

    /// <summary>The plan in words, level by level.</summary>
    public string Explain() =>
        _batch.Planned < 0 ? "no plan" : string.Join('\n', Levels.Select((info, i) => $"level {i + 1} of {_sharedLevels + 1}: {info}"));

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
            Free();
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

        CheckRows(queryTokens);
        float scaleLog2 = _levels[0].Core.Scale(smScale);
        foreach (CascadeLevel level in _levels)
        {
            level.Core.Take(arguments, _batch.Shape(sequences, queryTokens));
        }

        float scale = _decode.Scale(smScale);
        DecodePath path = _decode.Choose(sequences, scale);
        _decode.Take(arguments, _batch.Shape(sequences, queryTokens));

        // From here on nothing can be wrong with the input. A failure of the device leaves the wrapper without a plan.
        _batch.Begin(sequences, queryTokens, stream);
        FindShared(sequences, causal);
        CascadePlanner planner = new(_shared.AsSpan(0, _batch.Places.Length), _batch.QueryTokens, Costs);
        _sharedLevels = planner.Choose(MaxLevels - 1, _ends.AsSpan(0, (MaxLevels - 1) * _batch.Places.Length));
        for (int level = 0; level < MaxLevels - 1; level++)
        {
            Share(level);
            _levels[level].Plan(scaleLog2, stream);
        }

        Own(causal);
        _levels[^1].Plan(scaleLog2, stream);
        _decodes = _sharedLevels == 0 && _batch.Rows > 0 && !_batch.QueryTokens.ContainsAnyExcept(1);
        if (_decodes)
        {
            _decode.Plan(_batch, path, several: false, causal, scale, stream);
        }

        _batch.Commit(sequences, stream);
    }

    /// <summary>The first pages that each sequence has in common with the one before it, all of them before the query tokens.</summary>
    private void FindShared(ReadOnlySpan<Sequence> sequences, bool causal)
    {
        int most = 0;
        for (int i = 0; i < _batch.Places.Length; i++)
        {
            int before = causal ? Math.Max(0, _batch.Lengths[i] - _batch.QueryTokens[i]) : _batch.Lengths[i];
            int pages = before / Cache.Spec.PageSize;
            _shared[i] = i == 0 ? 0 : Common(sequences[_batch.Places[i - 1]], sequences[_batch.Places[i]], Math.Min(most, pages));
            most = pages;
        }
    }

    private static int Common(Sequence a, Sequence b, int most)
    {
        // Most often it is known without a look at the pages.
        int known = Math.Min(most, a.KnownShared(b));
        return known + a.Pages[known..most].CommonPrefixLength(b.Pages[known..most]);
    }

    /// <summary>Runs of sequences that have the same pages in a level; those that have none are together, and see nothing.</summary>
    private void Share(int index)
    {
        CascadeLevel level = _levels[index];
        level.Begin(causal: false);
        (int Begin, int End) last = default;
        for (int i = 0; i < _batch.Places.Length; i++)
        {
            (int begin, int end) = (FirstPage(index, i), FirstPage(index + 1, i));
            bool joins = i > 0 && (begin == end ? last.Begin == last.End : (begin, end) == last && _shared[i] >= end);
            if (joins)
            {
                level.Extend(_batch.QueryTokens[i]);
            }
            else
            {
                level.Add(_batch.QueryTokens[i], _batch.PageOffsets[i] + begin, (end - begin) * Cache.Spec.PageSize);
            }

            last = (begin, end);
        }
    }

    private void Own(bool causal)
    {
        CascadeLevel level = _levels[^1];
        level.Begin(causal);
        for (int i = 0; i < _batch.Places.Length; i++)
        {
            int begin = FirstPage(MaxLevels - 1, i);
            level.Add(_batch.QueryTokens[i], _batch.PageOffsets[i] + begin, _batch.Lengths[i] - (begin * Cache.Spec.PageSize));
        }
    }

    /// <summary>Where a level of a sequence begins.</summary>
    private int FirstPage(int level, int sequence) => level == 0 ? 0 : _ends[((level - 1) * _batch.Places.Length) + sequence];

    private PrefillParams Arguments(int level, int layer, in TensorView query, in TensorView output, in TensorView lse)
    {
        PrefillParams args = _levels[level].Core.Arguments(query, output, lse, _batch.Rows, "cache");
        PrefillCore.SetCache(ref args, Cache, _kvMap, layer);
        args.Fault = _checks[level]?.Record(layer) ?? 0;
        return args;
    }

    private void Launch(int level, int layer, ref PrefillParams args, CudaStream? stream)
    {
        _checks[level]?.Before(stream);
        Cache.Table.IsCaptured |= _levels[level].Core.Run(ref args, _batch.Rows, keyRows: 0, stream);
        _checks[level]?.After(layer, stream);
    }

    /// <summary>Merges the states of shared levels into that of the last.</summary>
    private void Merge(int shared, in TensorView output, in TensorView lse, CudaStream? stream)
    {
        AttentionSpec spec = Cache.Spec;
        long row = (long)spec.Heads * spec.HeadDim;
        MergeStatesParams args = new()
        {
            First = output.Address,
            FirstLse = lse.Address,
            Other = _outputs.Address,
            OtherLse = _lses.Address,
            Output = output.Address,
            Lse = lse.Address,
            FirstRowStride = output.Stride(0),
            FirstHeadStride = output.Stride(1),
            FirstLseRowStride = spec.Heads,
            FirstLseHeadStride = 1,
            OtherRowStride = row,
            OtherStateStride = MaxQueryTokens * row,
            OtherHeadStride = spec.HeadDim,
            OtherLseRowStride = spec.Heads,
            OtherLseStateStride = (long)MaxQueryTokens * spec.Heads,
            OtherLseHeadStride = 1,
            OutputRowStride = output.Stride(0),
            OutputHeadStride = output.Stride(1),
            LseRowStride = spec.Heads,
            LseHeadStride = 1,
            Rows = _batch.Rows,
            Others = shared,
            Heads = spec.Heads,
            HeadDim = spec.HeadDim,
        };
        if (args.Rows > 0)
        {
            Cache.Device.Backend.MergeStates(spec.Dtype).Run(args, stream);
        }
    }

    private TensorView LevelOutput(int level)
    {
        AttentionSpec spec = Cache.Spec;
        TensorShape shape = new(_batch.Rows, spec.Heads, spec.HeadDim);
        nint offset = checked((nint)((long)level * MaxQueryTokens * spec.Heads * spec.HeadDim * spec.Dtype.Size()));
        return new TensorView(Cache.Device, _outputs, _outputs.Address + offset, spec.Dtype, shape, TensorStrides.Contiguous(shape));
    }

    private TensorView LevelLse(int level)
    {
        TensorShape shape = new(_batch.Rows, Cache.Spec.Heads);
        nint offset = checked((nint)((long)level * MaxQueryTokens * Cache.Spec.Heads * sizeof(float)));
        return new TensorView(Cache.Device, _lses, _lses.Address + offset, DType.Float32, shape, TensorStrides.Contiguous(shape));
    }

    private void CheckRows(ReadOnlySpan<int> queryTokens)
    {
        long rows = 0;
        foreach (int tokens in queryTokens)
        {
            rows += tokens;
        }

        if (rows > MaxQueryTokens)
        {
            throw new ArgumentException(
                $"The {queryTokens.Length} sequences have {rows} query tokens; expected at most {MaxQueryTokens}. {Advice}",
                nameof(queryTokens)
            );
        }
    }

    private void Free()
    {
        _batch?.Dispose();
        foreach (LaunchCheck? check in _checks)
        {
            check?.Dispose();
        }

        // The first lends its workspace to the others.
        for (int level = MaxLevels - 1; level >= 0; level--)
        {
            _levels[level]?.Dispose();
        }

        _decode?.Dispose();
        _outputs?.Dispose();
        _lses?.Dispose();
    }
}
