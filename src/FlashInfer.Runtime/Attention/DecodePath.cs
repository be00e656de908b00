using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>One of the kernels that a decode wrapper can plan for, with all that its plans and launches need.</summary>
internal sealed class DecodePath : IDisposable
{
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="kernel">The kernel; not owned.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    public DecodePath(PagedKvCache cache, DecodeKernel kernel, int maxSequences, Determinism determinism)
    {
        Kernel = kernel;
        int slots =
            determinism == Determinism.BatchInvariant
                ? DecodePlanner.InvariantSlots(
                    maxSequences,
                    (long)cache.TotalPages * cache.Spec.PageSize,
                    kernel.Blocks,
                    kernel.UnitsPerItem
                )
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
        KvMap = kernel.EncodeKvMap(cache);
        Workspace = new SplitWorkspace(cache.Device, (long)slots * kernel.UnitsPerItem, kernel.ColumnsPerUnit, cache.Spec.HeadDim);
    }

    /// <summary>The kernel.</summary>
    public DecodeKernel Kernel { get; }

    /// <summary>What plans are made for; a captured graph narrows them.</summary>
    public DecodePlanLimits Limits { get; set; }

    /// <summary>Where the parts of a sequence meet.</summary>
    public SplitWorkspace Workspace { get; }

    /// <summary>The cache as the copy engine sees it, where it is used.</summary>
    public TensorMap KvMap { get; }

    public void Dispose() => Workspace.Dispose();
}
