using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>What the prefill wrappers share: the kernel, its work list, its workspace, and the last plan.</summary>
internal sealed class PrefillCore : IDisposable
{
    /// <summary>What constructors take when the caller does not say.</summary>
    public const int DefaultQueryTokens = 16_384;

    /// <summary>What to do where a batch has too many query tokens.</summary>
    public const string Advice = "The wrapper's constructor takes a larger maxQueryTokens, the query tokens of all sequences of a step.";

    private const float Log2E = 1.44269504f;
    private const int MostSequences = 65_536;
    private const int MostQueryTokens = 1 << 22;

    private readonly Device _device;
    private readonly AttentionSpec _spec;
    private readonly SplitWorkspace _workspace;
    private readonly TiledSequence[] _scratch;
    private PrefillPlan _plan;
    private readonly bool _ownsWorkspace;
    private bool _overlaps;
    private bool _isEmpty;
    private bool _disposed;

    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration.</param>
    /// <param name="kernel">Its prefill kernel.</param>
    /// <param name="cacheTokens">Tokens that a cache has room for; 0 when there is none, and batch-invariant plans cut nothing.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="maxQueryTokens">Query tokens of the largest batch.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    /// <param name="lender">
    /// One whose workspace and arguments are used: of kernels that follow each other in a stream, only one is at work in it. Of the same
    /// kernel, or made with its <paramref name="borrower"/>.
    /// </param>
    /// <param name="borrower">Another kernel that the workspace has room for.</param>
    public PrefillCore(
        Device device,
        AttentionSpec spec,
        PrefillKernel kernel,
        long cacheTokens,
        int maxSequences,
        int maxQueryTokens,
        Determinism determinism,
        PrefillCore? lender = null,
        PrefillKernel? borrower = null
    )
    {
        _device = device;
        _spec = spec;
        Kernel = kernel;
        int maxParts =
            determinism == Determinism.BatchInvariant
                ? PrefillPlanner.InvariantPartsFor(maxSequences, cacheTokens, kernel.Blocks, kernel.HeadTiles)
                : PrefillPlanner.PartsFor(kernel.Blocks);
        DType stored = cacheTokens > 0 ? spec.KvDtype : spec.Dtype;
        Limits = new PrefillPlanLimits(
            kernel.Blocks,
            kernel.HeadTiles,
            spec.KvHeads,
            kernel.TileTokens,
            kernel.BlockTokens,
            (spec.HeadDim + spec.ValueDim) * stored.Size(),
            maxParts,
            PrefillPlanner.MaxItems(maxSequences, maxQueryTokens, kernel.TileTokens, spec.KvHeads, maxParts)
        )
        {
            Determinism = determinism,
        };
        _scratch = new TiledSequence[2 * maxSequences];
        List = new PlanList(device, Limits.MaxItems, spec.Variant, lender?.List);
        try
        {
            _ownsWorkspace = lender is null;
            int borrowed = borrower is null ? 0 : PrefillPlanner.PartsFor(borrower.Blocks);
            _workspace =
                lender?._workspace
                ?? new SplitWorkspace(
                    device,
                    Math.Max(maxParts, borrowed),
                    Math.Max((long)maxParts * kernel.TileRows, (long)borrowed * (borrower?.TileRows ?? 0)),
                    spec.ValueDim
                );
        }
        catch
        {
            List.Dispose();
            throw;
        }
    }

    /// <summary>The work list.</summary>
    public PlanList List { get; }

    /// <summary>The kernel.</summary>
    public PrefillKernel Kernel { get; }

    /// <summary>What plans are made for; benchmarks change it before the first plan.</summary>
    public PrefillPlanLimits Limits { get; set; }

    /// <summary>Whether a graph holds the list: the next plan changes what it does.</summary>
    public bool IsCaptured { get; private set; }

    /// <summary>Device memory of the workspace.</summary>
    public long WorkspaceBytes => _workspace.Bytes;

    /// <summary>Throws unless a wrapper can be made with these.</summary>
    public static void CheckLimits(int maxSequences, int maxQueryTokens, Determinism determinism)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxSequences, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxSequences, MostSequences);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxQueryTokens, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxQueryTokens, MostQueryTokens);
        determinism.Check();
    }

    /// <summary>The factor of the logits that the list's header holds.</summary>
    public static float Scale(AttentionSpec spec, float? smScale)
    {
        float scale = smScale ?? (1f / MathF.Sqrt(spec.HeadDim));
        float log2 = scale * Log2E;
        return float.IsFinite(log2) && float.IsNormal(log2) && log2 > 0
            ? log2
            : throw new ArgumentOutOfRangeException(
                nameof(smScale),
                scale,
                "Prefill needs a finite smScale above 0, such as 1 / sqrt(headDim); negate the query for a negative one."
            );
    }

    /// <summary>Whether the last plan has no sequence: there is nothing to run but for a graph.</summary>
    public bool IsEmpty => _isEmpty;

    /// <summary>Plans the step and sends the list to the device.</summary>
    /// <param name="batch">The sequences; none where other kernels have them all.</param>
    /// <param name="scaleLog2">The factor of the logits.</param>
    /// <param name="stream">The stream.</param>
    public void Plan(in PrefillBatch batch, float scaleLog2, CudaStream? stream)
    {
        if (batch.Lengths.IsEmpty)
        {
            Clear(stream);
            return;
        }

        _plan = PrefillPlanner.Plan(batch, Limits, List.Begin(), _scratch);
        PlannedSequences sequences = new(batch.QueryTokens, batch.Lengths, batch.Places, batch.Rows);
        List.Commit(_plan.Items, new ListHeader { ScaleLog2 = scaleLog2, Heads = _plan.Heads }, sequences, stream);
        _overlaps = false;
        _isEmpty = false;
    }

    /// <summary>As <see cref="DecodeCore.Clear"/>.</summary>
    public void Clear(CudaStream? stream)
    {
        if (_isEmpty && List.HasRoom)
        {
            return;
        }

        _plan = default;
        _ = List.Begin();
        List.Commit(0, new ListHeader { Heads = Limits.HeadTiles }, default, stream);
        _overlaps = false;
        _isEmpty = true;
    }

    /// <summary>The arguments of a launch but for keys, values and checks; throws unless the tensors are the plan's.</summary>
    /// <param name="query">[rows, heads, headDim].</param>
    /// <param name="output">[rows, heads, valueDim].</param>
    /// <param name="lse">[rows, heads], or none.</param>
    /// <param name="rows">Query tokens of the plan.</param>
    /// <param name="owner">What the device is asked of, for messages.</param>
    public PrefillParams Arguments(in TensorView query, in TensorView output, in TensorView lse, int rows, string owner)
    {
        KernelTensor.CheckStep(query, output, lse, rows, _spec, _device, owner);
        return new PrefillParams
        {
            Query = query.Address,
            Output = output.Address,
            Lse = lse.IsEmpty ? 0 : lse.Address,
            Plan = List.Address,
            PartialOutput = _workspace.Output,
            PartialState = _workspace.State,
            Counters = _workspace.Counters,
            Queue = _workspace.Queue,
            QueryRowStride = query.Stride(0),
            QueryHeadStride = query.Stride(1),
            OutputRowStride = output.Stride(0),
            OutputHeadStride = output.Stride(1),
            Variant = List.VariantAddress,
        };
    }

    /// <summary>Adds what a layer of a paged cache brings to a launch's arguments.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="cache">The cache.</param>
    /// <param name="map">What the kernel's <see cref="PrefillKernel.EncodeKvMap"/> made of it.</param>
    /// <param name="layer">The layer.</param>
    public static void SetCache(ref PrefillParams args, PagedKvCache cache, in TensorMap map, int layer)
    {
        int groups = cache.Spec.PageSize / KvTensorMap.GroupTokens;
        bool headsFirst = cache.Spec.KvLayout == KvLayout.Hnd;
        args.Key = cache.KeyAddress(layer);
        args.Value = cache.ValueAddress(layer);
        args.Pages = cache.Table.Address;
        args.KeyTokenStride = args.ValueTokenStride = cache.TokenElements;
        args.KeyHeadStride = args.ValueHeadStride = cache.HeadElements;
        args.KeyPageStride = args.ValuePageStride = cache.PageElements;
        args.KeyPage = 2L * layer * cache.TotalPages;
        args.ValuePage = args.KeyPage + cache.TotalPages;
        args.PageGroups = headsFirst ? cache.Spec.KvHeads * groups : groups;
        args.HeadGroups = headsFirst ? groups : 0;
        args.KeyScales = cache.KeyScaleAddress(layer);
        args.ValueScales = cache.ValueScaleAddress(layer);
        args.PageCount = cache.TotalPages;
        args.KeyMap = args.ValueMap = map;
    }

    /// <summary>Launches the kernel over the plan's list.</summary>
    /// <param name="args">All arguments.</param>
    /// <param name="rows">Rows of query and output.</param>
    /// <param name="keyRows">Ragged: rows of keys and values; paged: 0.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public bool Run(ref PrefillParams args, int rows, int keyRows, CudaStream? stream)
    {
        // A graph must do for any list: it launches as many blocks as run at once.
        int units = (int)Math.Min(int.MaxValue, (long)_plan.Items * _plan.Heads);
        ListLaunch launch = new(units, Limits.Blocks, 1, _overlaps) { Rows = rows, KeyRows = keyRows };
        bool captured = Kernel.Run(ref args, launch, stream);
        if (captured)
        {
            List.Capture();
            IsCaptured = true;
        }

        _overlaps = true;
        return captured;
    }

    /// <summary>What the last plan looks like.</summary>
    public PlanInfo Info(in PrefillBatch batch, int sequences, int rows)
    {
        // Planned once more, aside: the items themselves have gone to the device.
        WorkItem[] items = new WorkItem[Limits.MaxItems];
        PrefillPlan again = PrefillPlanner.Plan(batch, Limits, items, _scratch);
        long units = (long)_plan.Items * _plan.Heads;
        return new PlanInfo(
            Kernel.Name,
            sequences,
            rows,
            _plan.TotalTokens,
            _plan.Items,
            units,
            (int)Math.Min(units, Limits.Blocks),
            1,
            1,
            _plan.ChunkTokens,
            _plan.SplitSequences,
            PrefillPlanner.Imbalance(items.AsSpan(0, again.Items), again, Limits.Blocks),
            Limits.Determinism
        );
    }

    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            List.Dispose();
            if (_ownsWorkspace)
            {
                _workspace.Dispose();
            }
        }
    }
}
