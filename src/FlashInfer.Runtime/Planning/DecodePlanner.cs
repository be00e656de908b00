using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>What the planner must know of the machine and the kernel.</summary>
/// <param name="Blocks">Blocks that run at once.</param>
/// <param name="UnitsPerItem">Units of work that one item expands to on the device (KV heads times group tiles).</param>
/// <param name="MinChunk">The shortest part worth cutting a sequence into, in tokens; a multiple of 16.</param>
/// <param name="MaxSlots">Partial-state slots that the workspace has.</param>
internal readonly record struct DecodePlanLimits(int Blocks, int UnitsPerItem, int MinChunk, int MaxSlots)
{
    /// <summary>Clusters of 8 blocks that run at once; 0 when they may not be used.</summary>
    public int ClustersOf8 { get; init; }

    /// <summary>Clusters of 2 blocks that run at once; 0 when they may not be used.</summary>
    public int ClustersOf2 { get; init; }

    /// <summary>The cluster size that every plan must have, since a captured graph launches with it; 0 leaves the choice to the planner.</summary>
    public int Cluster { get; init; }
}

/// <summary>What a plan looks like; its items are in the span that the planner filled.</summary>
/// <param name="Items">Items written.</param>
/// <param name="Slots">Partial-state slots used.</param>
/// <param name="Cluster">Blocks of a cluster, which share each unit of work; 1 without clusters.</param>
/// <param name="ChunkTokens">No item is longer than this.</param>
/// <param name="SplitSequences">Sequences of more than one part.</param>
/// <param name="TotalTokens">Tokens of all sequences.</param>
internal readonly record struct DecodePlan(int Items, int Slots, int Cluster, int ChunkTokens, int SplitSequences, long TotalTokens);

/// <summary>
/// Cuts the sequences of a decode step into items and orders them. Pure functions over spans: no CUDA, no allocation. It works on
/// sequences; the device expands every item over KV heads, and block b of n takes units b, 2n-1-b, 2n+b, ... (there and back), so the
/// items stand longest first.
/// </summary>
internal static class DecodePlanner
{
    public const int TileTokens = 16;
    private const int SortBuckets = 256;

    /// <summary>Items that a plan of this many sequences may need.</summary>
    public static int MaxItems(int sequences, in DecodePlanLimits limits) => sequences + limits.MaxSlots;

    /// <summary>
    /// Slots of the workspace: for chunks down to a quarter of a block's mean load every sequence that is cut has at most twice as many
    /// parts as its share of four rounds of blocks.
    /// </summary>
    public static int SlotsFor(int blocks, int unitsPerItem) => 8 * Math.Max(1, (blocks + unitsPerItem - 1) / unitsPerItem);

    /// <summary>Makes the plan.</summary>
    /// <param name="lengths">Tokens of each sequence, 0 allowed.</param>
    /// <param name="pageOffsets">Where each sequence's pages start in the page table.</param>
    /// <param name="limits">Machine and kernel.</param>
    /// <param name="items">Receives the items; at least <see cref="MaxItems"/> long.</param>
    public static DecodePlan Plan(
        ReadOnlySpan<int> lengths,
        ReadOnlySpan<int> pageOffsets,
        in DecodePlanLimits limits,
        Span<DecodeItem> items
    )
    {
        long total = 0;
        int longest = 0;
        int busy = 0;
        foreach (int length in lengths)
        {
            total += length;
            longest = Math.Max(longest, length);
            busy += length > 0 ? 1 : 0;
        }

        int cluster = ChooseCluster(total, longest, busy, limits);
        int whole = RoundUp(Math.Max(1, longest));
        int chunk = cluster > 1 || longest <= limits.MinChunk ? whole : ChunkChooser.Choose(lengths, total, longest, busy, limits);
        return Emit(lengths, pageOffsets, chunk, cluster, total, items);
    }

    /// <summary>Tokens of the busiest block over the mean, 1 at best: what the placement of these items comes to. Not for the hot path.</summary>
    public static double Imbalance(ReadOnlySpan<DecodeItem> items, in DecodePlan plan, in DecodePlanLimits limits)
    {
        int walkers =
            plan.Cluster == 8 ? limits.ClustersOf8
            : plan.Cluster == 2 ? limits.ClustersOf2
            : limits.Blocks;
        long[] loads = new long[walkers];
        long unit = 0;
        foreach (DecodeItem item in items)
        {
            for (int expanded = 0; expanded < limits.UnitsPerItem; expanded++, unit++)
            {
                int at = (int)(unit % walkers);
                loads[(unit / walkers & 1) == 0 ? at : walkers - 1 - at] += item.End - item.Begin;
            }
        }

        return plan.TotalTokens == 0 ? 1 : loads.Max() * (double)walkers / (plan.TotalTokens * limits.UnitsPerItem);
    }

    internal static int Parts(int length, int chunk) => length <= chunk ? 1 : (int)(((uint)length + (uint)chunk - 1) / (uint)chunk);

    internal static int RoundUp(long tokens) =>
        (int)Math.Min(int.MaxValue / TileTokens * TileTokens, (tokens + TileTokens - 1) / TileTokens * TileTokens);

    /// <summary>
    /// Sharing a unit inside a cluster spares the way through the workspace, about a microsecond; it pays where the units are few and alike,
    /// so that every cluster has as much to do. Measured on an H100: benchmarks/results.
    /// </summary>
    private static int ChooseCluster(long total, int longest, int busy, in DecodePlanLimits limits)
    {
        if (limits.Cluster > 0)
        {
            return limits.Cluster;
        }

        long units = (long)busy * limits.UnitsPerItem;
        long mean = total / Math.Max(1, busy);
        if (units == 0 || longest > mean + (mean / 8) || mean < 256)
        {
            return 1;
        }

        return units <= limits.ClustersOf8 && mean <= 2048 ? 8
            : units >= limits.Blocks / 4 - 1 && units <= limits.ClustersOf2 && mean <= 8192 ? 2
            : 1;
    }

    private static DecodePlan Emit(
        ReadOnlySpan<int> lengths,
        ReadOnlySpan<int> pageOffsets,
        int chunk,
        int cluster,
        long total,
        Span<DecodeItem> items
    )
    {
        // Counting sort by part length: starts[b] is where the items of bucket b begin, longest bucket first.
        int shift = Math.Max(0, 32 - int.LeadingZeroCount(chunk) - 8);
        Span<int> starts = stackalloc int[SortBuckets];
        starts.Clear();
        foreach (int length in lengths)
        {
            int parts = Parts(length, chunk);
            starts[Bucket(length, parts, shift)] += parts;
        }

        int next = 0;
        for (int bucket = SortBuckets - 1; bucket >= 0; bucket--)
        {
            int count = starts[bucket];
            starts[bucket] = next;
            next += count;
        }

        int slots = 0;
        int split = 0;
        for (int row = 0; row < lengths.Length; row++)
        {
            int length = lengths[row];
            int parts = Parts(length, chunk);
            ref int at = ref starts[Bucket(length, parts, shift)];
            if (parts == 1)
            {
                items[at++] = new DecodeItem
                {
                    Row = row,
                    End = length,
                    PageOffset = pageOffsets[row],
                    Parts = 1,
                    QueryTokens = 1,
                    Visible = length,
                };
                continue;
            }

            long tiles = ((long)length + TileTokens - 1) / TileTokens;
            int begin = 0;
            for (int part = 0; part < parts; part++)
            {
                int end = (int)Math.Min(length, tiles * (part + 1) / parts * TileTokens);
                items[at++] = new DecodeItem
                {
                    Row = row,
                    Begin = begin,
                    End = end,
                    PageOffset = pageOffsets[row],
                    PartOffset = slots,
                    Part = (ushort)part,
                    Parts = (ushort)parts,
                    QueryTokens = 1,
                    Visible = length,
                };
                begin = end;
            }

            slots += parts;
            split++;
        }

        return new DecodePlan(next, slots, cluster, chunk, split, total);
    }

    private static int Bucket(int length, int parts, int shift) =>
        Math.Min(SortBuckets - 1, (parts == 1 ? length : (int)((uint)length / (uint)parts)) >> shift);
}
