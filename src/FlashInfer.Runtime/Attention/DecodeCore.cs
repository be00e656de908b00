using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>What a decode wrapper plans and launches with: the kernels that a plan may choose, their work list, and the last plan.</summary>
internal sealed class DecodeCore : IDisposable
{
    private const float Log2E = 1.44269504f;

    private readonly PagedKvCache _cache;
    private readonly int _maxQueryTokens;
    private readonly Determinism _determinism;
    private readonly DecodePath _own;
    private readonly DecodePath? _wide;
    private readonly TensorMap _ownMap;
    private readonly TensorMap _wideMap;

    // Of each sequence that has query tokens: the tile of the first key that they see, and tokens from there on. Empty without a variant
    // that bounds keys.
    private readonly int[] _begins = [];
    private readonly int[] _seen = [];
    private DecodeKernel? _teamKernel;
    private DecodePath _path;
    private DecodePlan _plan;
    private bool _several;
    private bool _causal;
    private bool _overlaps;
    private bool _isEmpty;

    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="maxQueryTokens">The most query tokens of a sequence.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    public DecodeCore(PagedKvCache cache, int maxSequences, int maxQueryTokens, Determinism determinism)
    {
        _cache = cache;
        _maxQueryTokens = maxQueryTokens;
        _determinism = determinism;
        long kvTokens = (long)cache.TotalPages * cache.Spec.PageSize;
        cache.Kernels.LoadDecode(maxQueryTokens);
        DecodeKernel own = cache.Kernels.Decode(maxQueryTokens, teamUnits: false);
        _own = new DecodePath(cache.Device, cache.Spec, own, kvTokens, maxSequences, determinism);
        try
        {
            DecodeKernel? wide = cache.Kernels.WideDecode(maxQueryTokens);
            if (wide?.UnitsPerItem < _own.Kernel.UnitsPerItem)
            {
                _wide = new DecodePath(cache.Device, cache.Spec, wide, kvTokens, maxSequences, determinism);
                _wideMap = wide.EncodeKvMap(cache);
            }

            _ownMap = own.EncodeKvMap(cache);

            int items = DecodePlanner.MaxItems(maxSequences, _own.Limits);
            items = _wide is null ? items : Math.Max(items, DecodePlanner.MaxItems(maxSequences, _wide.Limits));
            List = new PlanList(cache.Device, items, cache.Spec.Variant);
        }
        catch
        {
            _wide?.Dispose();
            _own.Dispose();
            throw;
        }

        _path = _own;
        if (BoundsKeys)
        {
            _begins = new int[maxSequences];
            _seen = new int[maxSequences];
        }
    }

    /// <summary>The work list.</summary>
    public PlanList List { get; }

    /// <summary>Device memory of the workspaces.</summary>
    public long WorkspaceBytes => _own.Workspace.Bytes + (_wide?.Workspace.Bytes ?? 0);

    /// <summary>What plans for the kernel of few columns are made for; benchmarks change it before the first plan.</summary>
    public DecodePlanLimits Limits
    {
        get => _own.Limits;
        set => _own.Limits = value;
    }

    /// <summary>
    /// Whether every plan is for the kernel of many columns, since a captured graph launches it, or none; null leaves the choice to the
    /// plan.
    /// </summary>
    public bool? Wide { get; set; }

    private DecodeKernel Kernel => _plan.TeamUnits ? _teamKernel! : _path.Kernel;

    private bool BoundsKeys => _cache.Spec.Variant is { } variant && variant.Does(VariantHooks.FirstKey);

    /// <summary>What logits are multiplied by.</summary>
    public float Scale(float? smScale)
    {
        float scale = smScale ?? (1f / MathF.Sqrt(_cache.Spec.HeadDim));
        return float.IsFinite(scale)
            ? scale
            : throw new ArgumentOutOfRangeException(nameof(smScale), scale, "smScale must be a finite number, such as 1 / sqrt(headDim).");
    }

    /// <summary>
    /// The kernel for many columns where the batch is large enough for it to gain; batch-invariant plans must not ask the batch. It can't
    /// take a scale that is not above 0. Throws where the workspace has no room.
    /// </summary>
    public DecodePath Choose(ReadOnlySpan<Sequence> sequences, float smScale)
    {
        DecodePath path = (HasToBeWide(smScale) ?? GainsByWide(sequences)) ? _wide! : _own;
        if (_determinism == Determinism.BatchInvariant)
        {
            CheckSlots(sequences, path.Limits);
        }

        return path;
    }

    /// <summary>Plans the step and sends the list to the device.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="path">What <see cref="Choose"/> gave.</param>
    /// <param name="several">Whether a sequence may have other than one query token.</param>
    /// <param name="causal">Whether a query token sees no token behind itself.</param>
    /// <param name="scale">What logits are multiplied by.</param>
    /// <param name="stream">The stream.</param>
    public void Plan(PlannedBatch batch, DecodePath path, bool several, bool causal, float scale, CudaStream? stream)
    {
        _several = several;
        _causal = causal && _cache.Spec.Variant is not { ReplacesCausality: true };
        Plan(Describe(batch), batch.Attending, batch.Places, path, batch.FreshTokens, scale * Log2E, stream);
    }

    /// <summary>Plans single tokens of a step of prefill, which is not batch-invariant.</summary>
    /// <param name="batch">Sequences with a query token each.</param>
    /// <param name="freshTokens">As <see cref="PlannedBatch.FreshTokens"/>.</param>
    /// <param name="scaleLog2">What <see cref="PrefillCore.Scale"/> gave.</param>
    /// <param name="stream">The stream.</param>
    public void Plan(in PrefillBatch batch, int freshTokens, float scaleLog2, CudaStream? stream)
    {
        long tokens = 0;
        int longest = 0;
        foreach (int length in batch.Lengths)
        {
            tokens += length;
            longest = Math.Max(longest, length);
        }

        DecodePath path = (HasToBeWide(scaleLog2 / Log2E) ?? GainsByWide(tokens, longest)) ? _wide! : _own;
        PlannedSequences sequences = new(default, batch.Lengths, batch.Places, batch.Rows);
        Plan(Describe(batch), sequences, batch.Places, path, freshTokens, scaleLog2, stream);
    }

    /// <summary>Empties the list, for a step that other kernels do: a captured graph launches this one all the same.</summary>
    public void Clear(CudaStream? stream)
    {
        if (_isEmpty)
        {
            return;
        }

        _path = Wide == true ? _wide! : _own;
        _plan = new DecodePlan(0, 0, Math.Max(1, _path.Limits.Cluster), _path.Limits.TeamUnits == true, 0, 0, 0);
        _ = List.Begin();
        List.Commit(0, default, default, stream);
        _overlaps = false;
        _isEmpty = true;
    }

    /// <summary>Launches the plan's kernel over its list; throws unless the tensors are the plan's.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="query">[rows, heads, headDim].</param>
    /// <param name="output">[rows, heads, headDim].</param>
    /// <param name="lse">[rows, heads], or none.</param>
    /// <param name="rows">Query tokens of the plan.</param>
    /// <param name="check">The check of the launch.</param>
    /// <param name="stream">The stream.</param>
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
        DecodeParams args = Arguments(layer, query, output, lse, rows);
        args.Fault = check?.Record(layer) ?? 0;
        check?.Before(stream);
        ListLaunch launch = new(_plan.Items, List.Capacity, _plan.Cluster, _overlaps) { Rows = rows, Queue = _path.Workspace.Queue };
        if (Kernel.Run(args, launch, stream))
        {
            List.Capture();
            _cache.Table.IsCaptured = true;

            // The graph keeps the kernel and the cluster size of its launches: every later plan has to be made for them.
            Wide = _path == _wide;
            _path.Limits = _path.Limits with { Cluster = _plan.Cluster, TeamUnits = _plan.TeamUnits };
        }

        _overlaps = true;
        check?.After(layer, stream);
    }

    private DecodeParams Arguments(int layer, in TensorView query, in TensorView output, in TensorView lse, int rows)
    {
        DecodeParams args = _path.Arguments(query, output, lse, rows, List, "cache");
        args.Key = _cache.KeyAddress(layer);
        args.Value = _cache.ValueAddress(layer);
        args.Pages = _cache.Table.Address;
        args.PageStride = _cache.PageElements;
        args.TokenStride = _cache.TokenElements;
        args.HeadStride = _cache.HeadElements;
        args.KeyPage = 2L * layer * _cache.TotalPages;
        args.ValuePage = args.KeyPage + _cache.TotalPages;
        args.PageCount = _cache.TotalPages;
        args.KeyScales = _cache.KeyScaleAddress(layer);
        args.ValueScales = _cache.ValueScaleAddress(layer);
        args.KvMap = _path == _own ? _ownMap : _wideMap;
        return args;
    }

    /// <summary>What the last plan, that of the batch, looks like.</summary>
    public PlanInfo Info(PlannedBatch batch) => Info(Describe(batch), batch.Planned, batch.Rows);

    /// <summary>The same of a part of a step.</summary>
    public PlanInfo Info(in PrefillBatch batch, int sequences, int rows) => Info(Describe(batch), sequences, rows);

    public void Dispose()
    {
        List.Dispose();
        _own.Dispose();
        _wide?.Dispose();
    }

    private void Plan(
        in DecodeBatch batch,
        in PlannedSequences sequences,
        ReadOnlySpan<int> places,
        DecodePath path,
        int freshTokens,
        float scaleLog2,
        CudaStream? stream
    )
    {
        _path = path;
        FindBegins(batch, places);
        _plan = DecodePlanner.Plan(Bounded(batch), path.Limits, List.Begin());
        if (_plan.TeamUnits)
        {
            // The one plan that has to wait for a compiler, if the kernel is not in the cache.
            _teamKernel ??= _cache.Kernels.Decode(_maxQueryTokens, teamUnits: true);
        }

        ListHeader header = new()
        {
            ScaleLog2 = scaleLog2,
            Heads = path.Limits.UnitsPerItem,
            FreshTokens = freshTokens,
        };
        List.Commit(_plan.Items, header, sequences, stream);
        _overlaps = false;
        _isEmpty = false;
    }

    private DecodeBatch Describe(PlannedBatch batch)
    {
        ReadOnlySpan<int> queryTokens = _several ? batch.QueryTokens : default;
        return new DecodeBatch(batch.Lengths, batch.PageOffsets, queryTokens, _causal);
    }

    private static DecodeBatch Describe(in PrefillBatch batch) => new(batch.Lengths, batch.Starts, causal: batch.Causal, rows: batch.Rows);

    private PlanInfo Info(in DecodeBatch batch, int sequences, int rows) => _path.Info(_plan, Kernel, Bounded(batch), sequences, rows);

    /// <summary>The batch from the first keys on that are seen, once <see cref="FindBegins"/> has found them.</summary>
    private DecodeBatch Bounded(in DecodeBatch batch)
    {
        int sequences = batch.Lengths.Length;
        return BoundsKeys ? batch.From(_seen.AsSpan(0, sequences), _begins.AsSpan(0, sequences)) : batch;
    }

    private void FindBegins(in DecodeBatch batch, ReadOnlySpan<int> places)
    {
        if (BoundsKeys)
        {
            KeyBounds bounds = List.Bounds;
            for (int i = 0; i < batch.Lengths.Length; i++)
            {
                int length = batch.Lengths[i];
                int queryTokens = batch.QueryTokens.IsEmpty ? 1 : batch.QueryTokens[i];
                _begins[i] = bounds.Begin(places[i], 0, queryTokens, length, length, _path.Limits.BlockTokens);
                _seen[i] = length - _begins[i];
            }
        }
    }

    /// <summary>Whether a plan is for the kernel of many columns, or must not be; null where it may.</summary>
    private bool? HasToBeWide(float smScale)
    {
        if (_wide is null || Wide == false)
        {
            return false;
        }

        if (!float.IsNormal(smScale * Log2E) || smScale < 0)
        {
            return Wide is null
                ? false
                : throw new ArgumentOutOfRangeException(
                    nameof(smScale),
                    smScale,
                    "A captured graph launches the kernel for many query heads, which needs an smScale above 0, such as 1 / sqrt(headDim); negate the query for a negative one."
                );
        }

        return Wide == true || _determinism == Determinism.BatchInvariant ? true : null;
    }

    private bool GainsByWide(ReadOnlySpan<Sequence> sequences)
    {
        long tokens = 0;
        int longest = 0;
        foreach (Sequence sequence in sequences)
        {
            tokens += sequence.KvLength;
            longest = Math.Max(longest, sequence.KvLength);
        }

        return GainsByWide(tokens, longest);
    }

    private bool GainsByWide(long tokens, int longest)
    {
        AttentionSpec spec = _cache.Spec;
        long bytes = 2 * tokens * spec.KvHeads * spec.HeadDim * spec.KvDtype.Size();
        return longest > _wide!.Kernel.ShortTokens
            && bytes >= DecodePlanner.WideBytes(_own.Limits.UnitsPerItem / _wide.Limits.UnitsPerItem);
    }

    /// <summary>Batch-invariant plans cut every sequence as if it were alone: the workspace is made for a full cache, not for sequences that stand in a batch twice.</summary>
    private void CheckSlots(ReadOnlySpan<Sequence> sequences, in DecodePlanLimits limits)
    {
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
