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
    private const float Log2E = 1.44269504f;
    private static readonly string s_advice =
        $"The wrapper's constructor takes a larger maxQueryTokens, up to {CudaUnits.QueryTokens[^1]}.";

    private readonly PlannedBatch _batch;
    private readonly DecodePath _own;
    private readonly DecodePath? _wide;
    private DecodeKernel? _teamKernel;
    private readonly PlanList _list;

    // Of each sequence that has query tokens: the tile of the first key that they see, and tokens from there on. Empty without a variant
    // that bounds keys.
    private readonly int[] _begins = [];
    private readonly int[] _seen = [];
    private DecodePath _path;
    private DecodePlan _plan;
    private bool _several;
    private bool _causal;
    private bool _overlaps;
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
        _own = new DecodePath(cache, cache.Kernels.Decode(maxQueryTokens, teamUnits: false), maxSequences, determinism);
        DecodeKernel? wide = cache.Kernels.WideDecode(maxQueryTokens);
        if (wide?.UnitsPerItem < _own.Kernel.UnitsPerItem)
        {
            _wide = new DecodePath(cache, wide, maxSequences, determinism);
        }

        _path = _own;
        int items = Math.Max(
            DecodePlanner.MaxItems(maxSequences, _own.Limits),
            _wide is null ? 0 : DecodePlanner.MaxItems(maxSequences, _wide.Limits)
        );
        _list = new PlanList(cache.Device, items, cache.Spec.Variant);
        if (BoundsKeys)
        {
            _begins = new int[maxSequences];
            _seen = new int[maxSequences];
        }

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
    public long WorkspaceBytes => _own.Workspace.Bytes + (_wide?.Workspace.Bytes ?? 0);

    /// <summary>What the last plan looks like.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public PlanInfo PlanInfo
    {
        get
        {
            _batch.RequirePlan();
            // Planned once more, aside: the items themselves have gone to the device.
            DecodePlanLimits limits = _path.Limits;
            WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(_batch.Lengths.Length, limits)];
            DecodePlan again = DecodePlanner.Plan(Batch, limits, items);
            long units = (long)_plan.Items * limits.UnitsPerItem;
            long shared = _plan.TeamUnits ? (units + limits.Teams - 1) / limits.Teams : units * _plan.Cluster;
            return new PlanInfo(
                Kernel.Name,
                _batch.Planned,
                _batch.Rows,
                _plan.TotalTokens,
                _plan.Items,
                units,
                (int)Math.Min(shared, limits.Blocks),
                _plan.Cluster,
                _plan.TeamUnits ? limits.Teams : 1,
                _plan.ChunkTokens,
                _plan.SplitSequences,
                DecodePlanner.Imbalance(items.AsSpan(0, again.Items), again, limits),
                Determinism
            );
        }
    }

    /// <summary>What plans for the kernel of few columns are made for; benchmarks change it before the first plan.</summary>
    internal DecodePlanLimits Limits
    {
        get => _own.Limits;
        set => _own.Limits = value;
    }

    /// <summary>
    /// Whether every plan is for the kernel of many columns, since a captured graph launches it, or none; null leaves the choice to the
    /// plan. Tests and benchmarks set it before the first plan.
    /// </summary>
    internal bool? Wide { get; set; }

    private DecodeKernel Kernel => _plan.TeamUnits ? _teamKernel! : _path.Kernel;

    private bool BoundsKeys => Cache.Spec.Variant is { } variant && variant.Does(VariantHooks.FirstKey);

    private DecodeBatch Batch
    {
        get
        {
            ReadOnlySpan<int> queryTokens = _several ? _batch.QueryTokens : default;
            int sequences = _batch.Lengths.Length;
            return BoundsKeys
                ? new DecodeBatch(_seen.AsSpan(0, sequences), _batch.PageOffsets, queryTokens, _causal, _begins.AsSpan(0, sequences))
                : new DecodeBatch(_batch.Lengths, _batch.PageOffsets, queryTokens, _causal);
        }
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
        AttentionSpec spec = Cache.Spec;
        KernelTensor.Check(query, nameof(query), Cache, spec.Dtype, _batch.Rows, spec.Heads);
        KernelTensor.Check(output, nameof(output), Cache, spec.Dtype, _batch.Rows, spec.Heads);
        KernelTensor.CheckWritten(output, nameof(output));
        KernelTensor.CheckLse(lse, Cache.Device, "cache", _batch.Rows, spec.Heads);
        DecodeParams args = new()
        {
            Query = query.Address,
            Key = Cache.KeyAddress(layer),
            Value = Cache.ValueAddress(layer),
            Output = output.Address,
            Lse = lse.IsEmpty ? 0 : lse.Address,
            Pages = Cache.Table.Address,
            Plan = _list.Address,
            PartialOutput = _path.Workspace.Output,
            PartialState = _path.Workspace.State,
            Counters = _path.Workspace.Counters,
            QueryRowStride = query.Stride(0),
            QueryHeadStride = query.Stride(1),
            OutputRowStride = output.Stride(0),
            OutputHeadStride = output.Stride(1),
            PageStride = Cache.PageElements,
            TokenStride = Cache.TokenElements,
            HeadStride = Cache.HeadElements,
            KeyPage = 2L * layer * Cache.TotalPages,
            ValuePage = ((2L * layer) + 1) * Cache.TotalPages,
            Fault = _batch.Check?.Record(layer) ?? 0,
            PageCount = Cache.TotalPages,
            KeyScales = Cache.KeyScaleAddress(layer),
            ValueScales = Cache.ValueScaleAddress(layer),
            Variant = _list.VariantAddress,
            KvMap = _path.KvMap,
        };
        _batch.Check?.Before(stream);
        ListLaunch launch = new(_plan.Items, _list.Capacity, _plan.Cluster, _overlaps)
        {
            Rows = _batch.Rows,
            Queue = _path.Workspace.Queue,
        };
        if (Kernel.Run(args, launch, stream))
        {
            _list.Capture();

            // The graph keeps the kernel and the cluster size of its launches: every later plan has to be made for them.
            Wide = _path == _wide;
            _path.Limits = _path.Limits with { Cluster = _plan.Cluster, TeamUnits = _plan.TeamUnits };
        }

        _overlaps = true;
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
        _list.Dispose();
        _own.Dispose();
        _wide?.Dispose();
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

        float scale = smScale ?? (1f / MathF.Sqrt(Cache.Spec.HeadDim));
        if (!float.IsFinite(scale))
        {
            throw new ArgumentOutOfRangeException(nameof(smScale), scale, "smScale must be a finite number, such as 1 / sqrt(headDim).");
        }

        DecodePath path = Choose(sequences, scale);
        CheckSlots(sequences, path.Limits);
        queryTokens = several ? queryTokens : _batch.Ones(sequences);
        _list.Take(arguments, _batch.Shape(sequences, queryTokens));

        // From here on nothing can be wrong with the input. A failure of the device leaves the wrapper without a plan.
        _batch.Begin(sequences, queryTokens, stream);
        _several = several;
        _causal = causal && Cache.Spec.Variant is not { ReplacesCausality: true };
        _path = path;
        FindBegins();
        _plan = DecodePlanner.Plan(Batch, path.Limits, _list.Begin());
        if (_plan.TeamUnits)
        {
            // The one plan that has to wait for a compiler, if the kernel is not in the cache.
            _teamKernel ??= Cache.Kernels.Decode(MaxQueryTokens, teamUnits: true);
        }

        ListHeader header = new()
        {
            ScaleLog2 = scale * Log2E,
            Heads = path.Limits.UnitsPerItem,
            FreshTokens = _batch.FreshTokens,
        };
        _list.Commit(_plan.Items, header, _batch.Attending, stream);
        _overlaps = false;
        _batch.Commit(sequences, stream);
    }

    /// <summary>
    /// The kernel for many columns where the batch is large enough for it to gain; batch-invariant plans must not ask the batch. It can't
    /// take a scale that is not above 0.
    /// </summary>
    private DecodePath Choose(ReadOnlySpan<Sequence> sequences, float smScale)
    {
        if (_wide is null || Wide == false)
        {
            return _own;
        }

        if (!float.IsNormal(smScale * Log2E) || smScale < 0)
        {
            return Wide is null
                ? _own
                : throw new ArgumentOutOfRangeException(
                    nameof(smScale),
                    smScale,
                    "A captured graph launches the kernel for many query heads, which needs an smScale above 0, such as 1 / sqrt(headDim); negate the query for a negative one."
                );
        }

        if (Wide == true || Determinism == Determinism.BatchInvariant)
        {
            return _wide;
        }

        long tokens = 0;
        foreach (Sequence sequence in sequences)
        {
            tokens += sequence.KvLength;
        }

        AttentionSpec spec = Cache.Spec;
        long bytes = 2 * tokens * spec.KvHeads * spec.HeadDim * spec.KvDtype.Size();
        return bytes >= DecodePlanner.WideBytes(_own.Limits.UnitsPerItem / _wide.Limits.UnitsPerItem) ? _wide : _own;
    }

    private void FindBegins()
    {
        if (BoundsKeys)
        {
            KeyBounds bounds = _list.Bounds(_batch.Places);
            for (int i = 0; i < _batch.Lengths.Length; i++)
            {
                int length = _batch.Lengths[i];
                _begins[i] = bounds.Begin(i, 0, _batch.QueryTokens[i], length, length, _path.Limits.BlockTokens);
                _seen[i] = length - _begins[i];
            }
        }
    }

    /// <summary>Batch-invariant plans cut every sequence as if it were alone: the workspace is made for a full cache, not for sequences that stand in a batch twice.</summary>
    private void CheckSlots(ReadOnlySpan<Sequence> sequences, in DecodePlanLimits limits)
    {
        if (Determinism != Determinism.BatchInvariant)
        {
            return;
        }

        long slots = 0;
        foreach (Sequence sequence in sequences)
        {
            // Where keys are bounded there may be fewer tokens, but they may come to more parts.
            int parts = BoundsKeys
                ? DecodePlanner.InvariantPartsUpTo(sequence.KvLength, limits)
                : DecodePlanner.InvariantParts(sequence.KvLength, limits);
            slots += parts > 1 ? parts : 0;
        }

        if (slots > limits.MaxSlots)
        {
            throw new ArgumentException(
                $"The batch has {slots} parts of long sequences; the batch-invariant workspace has room for {limits.MaxSlots}, as many as a full cache can have. Plan sequences that stand in the batch more than once in several batches.",
                nameof(sequences)
            );
        }
    }
}
