namespace FlashInfer.Planning;

/// <summary>The sequences of a step that have query tokens, one element of each span for each of them, in the order of their rows.</summary>
/// <param name="lengths">Tokens of each sequence that its query tokens see, from the first of them on; 0 allowed.</param>
/// <param name="pageOffsets">Where each sequence's pages start in the page table.</param>
/// <param name="queryTokens">Query tokens of each, 1 or more; empty when each has one.</param>
/// <param name="causal">Whether a query token sees no token behind itself; the query tokens are the sequence's last.</param>
/// <param name="begins">The first token that each sequence's query tokens see, a multiple of 16; empty when they see all.</param>
/// <param name="rows">The row of each sequence's first query token; empty when they stand one behind the other.</param>
internal readonly ref struct DecodeBatch(
    ReadOnlySpan<int> lengths,
    ReadOnlySpan<int> pageOffsets,
    ReadOnlySpan<int> queryTokens = default,
    bool causal = true,
    ReadOnlySpan<int> begins = default,
    ReadOnlySpan<int> rows = default
)
{
    public readonly ReadOnlySpan<int> Lengths = lengths;
    public readonly ReadOnlySpan<int> PageOffsets = pageOffsets;
    public readonly ReadOnlySpan<int> QueryTokens = queryTokens;
    public readonly bool Causal = causal;
    public readonly ReadOnlySpan<int> Begins = begins;
    public readonly ReadOnlySpan<int> Rows = rows;

    /// <summary>The same, of which the query tokens see less.</summary>
    /// <param name="lengths">As of the constructor.</param>
    /// <param name="begins">As of the constructor.</param>
    public DecodeBatch From(ReadOnlySpan<int> lengths, ReadOnlySpan<int> begins) =>
        new(lengths, PageOffsets, QueryTokens, Causal, begins, Rows);
}

/// <summary>What the planner must know of the machine and the kernel.</summary>
/// <param name="Blocks">Blocks that run at once.</param>
/// <param name="UnitsPerItem">Units of work that one item expands to on the device (KV heads times tiles of columns).</param>
/// <param name="MinChunk">The shortest part worth cutting a sequence into, in tokens; a multiple of <see cref="BlockTokens"/>.</param>
/// <param name="MaxSlots">Partial-state slots that the workspace has.</param>
internal readonly record struct DecodePlanLimits(int Blocks, int UnitsPerItem, int MinChunk, int MaxSlots)
{
    /// <summary>Teams of a block that can take units of their own.</summary>
    public int Teams { get; init; } = 1;

    /// <summary>The longest sequence of a batch whose units are taken by teams; benchmarks set it to find its value.</summary>
    public int TeamUnitTokens { get; init; } = DecodePlanner.TeamUnitTokens;

    /// <summary>Clusters of 8 blocks that run at once; 0 when they may not be used.</summary>
    public int ClustersOf8 { get; init; }

    /// <summary>Clusters of 4 blocks that run at once; 0 when they may not be used.</summary>
    public int ClustersOf4 { get; init; }

    /// <summary>Clusters of 2 blocks that run at once; 0 when they may not be used.</summary>
    public int ClustersOf2 { get; init; }

    /// <summary>Parts of a sequence begin at multiples of it.</summary>
    public int BlockTokens { get; init; } = DecodePlanner.TileTokens;

    /// <summary>What the way of a partial state through the workspace costs, in tokens that a block reads in the same time.</summary>
    public double PartCost { get; init; } = DecodePlanner.PartCost;

    /// <summary>What each part of a sequence adds to the merge at its end, in such tokens.</summary>
    public double MergeCost { get; init; }

    /// <summary>The cluster size that every plan must have, since a captured graph launches with it; 0 leaves the choice to the planner.</summary>
    public int Cluster { get; init; }

    /// <summary>Whether teams take units of their own in every plan, since a captured graph launches the kernel for that, or in none; null leaves the choice to the planner.</summary>
    public bool? TeamUnits { get; init; }

    /// <summary>What a sequence's cut may depend on.</summary>
    public Determinism Determinism { get; init; }

    /// <summary>Clusters of 2, 4 or 8 blocks that run at once; 0 when they may not be used.</summary>
    public int ClustersOf(int blocks) =>
        blocks switch
        {
            2 => ClustersOf2,
            4 => ClustersOf4,
            _ => ClustersOf8,
        };
}

/// <summary>What a plan looks like; its items are in the span that the planner filled.</summary>
/// <param name="Items">Items written.</param>
/// <param name="Slots">Partial-state slots used.</param>
/// <param name="Cluster">Blocks of a cluster, which share each unit of work; 1 without clusters.</param>
/// <param name="TeamUnits">Whether every team (a warp) takes units of its own.</param>
/// <param name="ChunkTokens">No item is longer than this.</param>
/// <param name="SplitSequences">Sequences of more than one part.</param>
/// <param name="TotalTokens">Tokens of all sequences.</param>
internal readonly record struct DecodePlan(
    int Items,
    int Slots,
    int Cluster,
    bool TeamUnits,
    int ChunkTokens,
    int SplitSequences,
    long TotalTokens
);
