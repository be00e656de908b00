using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>One of the kernels that decode can plan for, with all that its plans and launches need but keys and values.</summary>
internal sealed class DecodePath : IDisposable
{
    private readonly Device _device;
    private readonly AttentionSpec _spec;

    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration.</param>
    /// <param name="kernel">The kernel; not owned.</param>
    /// <param name="kvTokens">The most tokens that all sequences of a batch have together, but for those that stand in it twice.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    public DecodePath(Device device, AttentionSpec spec, DecodeKernel kernel, long kvTokens, int maxSequences, Determinism determinism)
    {
        _device = device;
        _spec = spec;
        Kernel = kernel;
        int slots =
            determinism == Determinism.BatchInvariant
                ? DecodePlanner.InvariantSlots(maxSequences, kvTokens, kernel.Blocks, kernel.UnitsPerItem)
                : DecodePlanner.SlotsFor(kernel.Blocks, kernel.UnitsPerItem);
        Limits = new DecodePlanLimits(kernel.Blocks, kernel.UnitsPerItem, kernel.MinChunk, slots)
        {
            BlockTokens = kernel.BlockTokens,
            PartCost = kernel.PartCost,
            MergeCost = kernel.MergeCost,
            Teams = kernel.Teams,
            ClustersOf8 = kernel.MaxClusters(8),
            ClustersOf4 = kernel.MaxClusters(4),
            ClustersOf2 = kernel.MaxClusters(2),
            Determinism = determinism,
        };
        long units = (long)slots * kernel.UnitsPerItem;
        Workspace = new SplitWorkspace(device, units, units * kernel.ColumnsPerUnit, spec.HeadDim);
    }

    /// <summary>The kernel.</summary>
    public DecodeKernel Kernel { get; }

    /// <summary>What plans are made for; a captured graph narrows them.</summary>
    public DecodePlanLimits Limits { get; set; }

    /// <summary>Where the parts of a sequence meet.</summary>
    public SplitWorkspace Workspace { get; }

    /// <summary>The arguments of a launch but for keys, values and checks; throws unless the tensors are the plan's.</summary>
    /// <param name="query">[rows, heads, headDim].</param>
    /// <param name="output">[rows, heads, headDim].</param>
    /// <param name="lse">[rows, heads], or none.</param>
    /// <param name="rows">Query tokens of the plan.</param>
    /// <param name="list">The plan's list.</param>
    /// <param name="owner">What the device is asked of, for messages.</param>
    public DecodeParams Arguments(in TensorView query, in TensorView output, in TensorView lse, int rows, PlanList list, string owner)
    {
        KernelTensor.CheckStep(query, output, lse, rows, _spec, _device, owner);
        return new DecodeParams
        {
            Query = query.Address,
            Output = output.Address,
            Lse = lse.IsEmpty ? 0 : lse.Address,
            Plan = list.Address,
            PartialOutput = Workspace.Output,
            PartialState = Workspace.State,
            Counters = Workspace.Counters,
            QueryRowStride = query.Stride(0),
            QueryHeadStride = query.Stride(1),
            OutputRowStride = output.Stride(0),
            OutputHeadStride = output.Stride(1),
            Variant = list.VariantAddress,
        };
    }

    /// <summary>What a plan looks like.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="kernel">The kernel that it runs.</param>
    /// <param name="batch">What was planned.</param>
    /// <param name="sequences">Sequences of the batch, those without query tokens too.</param>
    /// <param name="rows">Query tokens of all.</param>
    public PlanInfo Info(in DecodePlan plan, DecodeKernel kernel, in DecodeBatch batch, int sequences, int rows)
    {
        // Planned once more, aside: the items themselves have gone to the device.
        WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(batch.Lengths.Length, Limits)];
        DecodePlan again = DecodePlanner.Plan(batch, Limits, items);
        long units = (long)plan.Items * Limits.UnitsPerItem;
        long shared = plan.TeamUnits ? (units + Limits.Teams - 1) / Limits.Teams : units * plan.Cluster;
        return new PlanInfo(
            kernel.Name,
            sequences,
            rows,
            plan.TotalTokens,
            plan.Items,
            units,
            (int)Math.Min(shared, Limits.Blocks),
            plan.Cluster,
            plan.TeamUnits ? Limits.Teams : 1,
            plan.ChunkTokens,
            plan.SplitSequences,
            DecodePlanner.Imbalance(items.AsSpan(0, again.Items), again, Limits),
            Limits.Determinism
        );
    }

    public void Dispose() => Workspace.Dispose();
}
