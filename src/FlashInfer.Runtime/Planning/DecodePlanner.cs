using System.Runtime.Intrinsics;
using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>
/// Cuts the sequences of a decode step into items and orders them. Pure functions over spans: no CUDA, no allocation. It works on
/// sequences; the device expands every item over KV heads and tiles of columns, and walker w of n (a block, a cluster or a team)
/// takes units w, 2n-1-w, 2n+w, ... (there and back), so the items stand longest first.
/// </summary>
internal static class DecodePlanner
{
    public const int TileTokens = 16;

    /// <summary>Measured on an H100: up to 16 columns, of tokens of <see cref="PartCostBytes"/> of keys and values.</summary>
    public const double PartCost = 32;

    /// <summary>As <see cref="PartCost"/> says.</summary>
    public const double PartCostBytes = 512;

    /// <summary>
    /// For each column of a KV head, by the byte of an element: the block that merges a sequence reads the partial states of all its parts,
    /// which grow with the columns, as a token's keys and values with their bytes. Measured on an H100 with 8 and 16 columns.
    /// </summary>
    public const double MergeCost = 0.8;

    /// <summary>Up to here a warp has too few tiles of a unit for its block's merge to pay; 200 tokens are 5 % faster so.</summary>
    public const int TeamUnitTokens = 256;

    // Batch-invariant parts are no shorter. By ChunkChooser's model a part costs about 32 tokens for its start and its merge, 3 % of this,
    // and a few dozen blocks draw the whole bandwidth, so that long sequences alone need no shorter ones.
    internal const int InvariantChunkTokens = 1024;

    // What some of the blocks take longer, together, than their share of the bandwidth would; and what each of few draws at most, in such
    // shares. Measured on an H100 with 40 and 76 of 132.
    private const double SomeLoss = 1.2;
    private const double FewShare = 2.3;

    /// <summary>
    /// Bytes of keys and values from which on the kernel that reads them once is faster than the one that reads them so many times, mostly
    /// from the L2 cache, and starts 6 µs sooner. Measured on an H100: benchmarks/decode-notes.md.
    /// </summary>
    public static long WideBytes(int reads) =>
        reads switch
        {
            <= 2 => 96L << 20,
            3 => 40L << 20,
            4 => 32L << 20,
            _ => 16L << 20,
        };

    /// <summary>Items that a plan of this many sequences may need.</summary>
    public static int MaxItems(int sequences, in DecodePlanLimits limits) => sequences + limits.MaxSlots;

    /// <summary>
    /// Slots of the workspace: for chunks down to a quarter of a block's mean load every sequence that is cut has at most twice as many
    /// parts as its share of four rounds of blocks.
    /// </summary>
    public static int SlotsFor(int blocks, int unitsPerItem) => 8 * Math.Max(1, (blocks + unitsPerItem - 1) / unitsPerItem);

    /// <summary>
    /// Slots of the workspace for batch-invariant plans: as many parts as every sequence may have, or as the tokens of a full cache may
    /// come to (a sequence that is cut has at most twice its tokens over the chunk), whichever is less.
    /// </summary>
    public static int InvariantSlots(int maxSequences, long cacheTokens, int blocks, int unitsPerItem) =>
        (int)
            Math.Min(
                int.MaxValue / 2,
                Math.Min((long)maxSequences * InvariantMaxParts(blocks, unitsPerItem), 2 * cacheTokens / InvariantChunkTokens)
            );

    /// <summary>
    /// Parts of a sequence when they may depend on nothing but its length and the kernel: of 1,024 tokens, or as long as lets a sequence
    /// alone occupy every block once: a single long sequence is spread over the whole device, and a large batch pays little.
    /// </summary>
    public static int InvariantParts(int length, in DecodePlanLimits limits) =>
        length <= InvariantChunkTokens ? 1 : Parts(length, InvariantChunk(length, limits));

    /// <summary>Parts that a sequence of up to this many tokens has at most in such a plan.</summary>
    public static int InvariantPartsUpTo(int length, in DecodePlanLimits limits) =>
        Math.Min(Parts(length, InvariantChunkTokens), InvariantMaxParts(limits.Blocks, limits.UnitsPerItem));

    /// <summary>Makes the plan.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="limits">Machine and kernel.</param>
    /// <param name="items">Receives the items; at least <see cref="MaxItems"/> long.</param>
    public static DecodePlan Plan(in DecodeBatch batch, in DecodePlanLimits limits, Span<WorkItem> items)
    {
        ReadOnlySpan<int> lengths = batch.Lengths;
        (long total, int longest, int busy) = Measure(lengths);
        int whole = RoundUp(Math.Max(1, longest), limits);
        if (limits.Determinism == Determinism.BatchInvariant)
        {
            DecodeCut invariant = new(Math.Min(whole, InvariantChunk(longest, limits)));
            return DecodeEmitter.Emit(batch, invariant, total, longest, limits, items);
        }

        bool teamUnits = ChooseTeamUnits(longest, busy, limits);
        int cluster = teamUnits ? 1 : ChooseCluster(total, longest, busy, limits);
        int chunk =
            teamUnits || cluster > 1 || longest <= limits.MinChunk ? whole : ChunkChooser.Choose(lengths, total, longest, busy, limits);
        DecodeCut cut = new(chunk, cluster, teamUnits);
        cut = teamUnits || cluster > 1 || chunk < longest ? cut : WithTail(cut, lengths.Length, total, longest, busy, limits);
        return DecodeEmitter.Emit(batch, cut, total, longest, limits, items);
    }

    /// <summary>Tokens of the busiest walker over the mean, 1 at best: what the placement of these items comes to. Not for the hot path.</summary>
    public static double Imbalance(ReadOnlySpan<WorkItem> items, in DecodePlan plan, in DecodePlanLimits limits)
    {
        int walkers =
            plan.Cluster > 1 ? limits.ClustersOf(plan.Cluster)
            : plan.TeamUnits ? limits.Blocks * limits.Teams
            : limits.Blocks;
        long[] loads = new long[walkers];
        long unit = 0;
        foreach (WorkItem item in items)
        {
            for (int expanded = 0; expanded < limits.UnitsPerItem; expanded++, unit++)
            {
                int at = (int)(unit % walkers);
                loads[(unit / walkers & 1) == 0 ? at : walkers - 1 - at] += item.End - item.Begin;
            }
        }

        return plan.TotalTokens == 0 ? 1 : loads.Max() * (double)walkers / (plan.TotalTokens * limits.UnitsPerItem);
    }

    /// <summary>Tokens of all sequences, tokens of the longest, and how many have any.</summary>
    private static (long Total, int Longest, int Busy) Measure(ReadOnlySpan<int> lengths)
    {
        Vector256<long> totals = Vector256<long>.Zero;
        Vector256<int> most = Vector256<int>.Zero;
        Vector256<int> empty = Vector256<int>.Zero;
        int i = 0;
        for (; i <= lengths.Length - Vector256<int>.Count; i += Vector256<int>.Count)
        {
            Vector256<int> some = Vector256.Create(lengths[i..]);
            (Vector256<long> lower, Vector256<long> upper) = Vector256.Widen(some);
            totals += lower + upper;
            most = Vector256.Max(most, some);
            empty -= Vector256.Equals(some, Vector256<int>.Zero);
        }

        long total = Vector256.Sum(totals);
        int longest = 0;
        for (int lane = 0; lane < Vector256<int>.Count; lane++)
        {
            longest = Math.Max(longest, most[lane]);
        }

        int busy = i - Vector256.Sum(empty);
        foreach (int length in lengths[i..])
        {
            total += length;
            longest = Math.Max(longest, length);
            busy += length > 0 ? 1 : 0;
        }

        return (total, longest, busy);
    }

    internal static int Parts(int length, int chunk) => length <= chunk ? 1 : (int)(((uint)length + (uint)chunk - 1) / (uint)chunk);

    internal static int RoundUp(long tokens, in DecodePlanLimits limits)
    {
        int block = limits.BlockTokens;
        return (int)Math.Min(int.MaxValue / block * block, (tokens + block - 1) / block * block);
    }

    private static int InvariantMaxParts(int blocks, int unitsPerItem) => Math.Max(1, blocks / unitsPerItem);

    private static int InvariantChunk(int length, in DecodePlanLimits limits)
    {
        int parts = InvariantMaxParts(limits.Blocks, limits.UnitsPerItem);
        return Math.Max(InvariantChunkTokens, RoundUp(((long)length + parts - 1) / parts, limits));
    }

    /// <summary>
    /// Units of short sequences have too little for all warps of a block: each warp is then a team that takes its own, where there are
    /// enough for all. A captured graph leaves no choice.
    /// </summary>
    private static bool ChooseTeamUnits(int longest, int busy, in DecodePlanLimits limits) =>
        limits.TeamUnits
        ?? limits.Teams > 1
            && limits.Cluster <= 1
            && longest <= limits.TeamUnitTokens
            && (long)busy * limits.UnitsPerItem >= (long)limits.Blocks * limits.Teams;

    /// <summary>
    /// Sharing a unit inside a cluster spares the way through the workspace, about a microsecond; it pays where the units are few and alike,
    /// so that every cluster has as much to do. The smallest cluster that leaves its blocks up to 256 tokens each was the fastest, since a
    /// launch with blocks to spare lets the next one begin; but a larger one where the units are so few that it leaves room for two launches:
    /// of eight from 512 tokens on, else of four. Many units of more tokens still gain from two blocks. Measured on an H100:
    /// benchmarks/decode-notes.md.
    /// </summary>
    private static int ChooseCluster(long total, int longest, int busy, in DecodePlanLimits limits)
    {
        if (limits.Cluster > 0)
        {
            return limits.Cluster;
        }

        long units = (long)busy * limits.UnitsPerItem;
        long mean = total / Math.Max(1, busy);
        if (units == 0 || longest > mean + (mean / 8) || mean < 256 || (mean < 512 && 3 * units > limits.Blocks))
        {
            return 1;
        }

        int smallest =
            mean >= 512 && 2 * units <= limits.ClustersOf(8) ? 8
            : 2 * units <= limits.ClustersOf(4) ? 4
            : 2;
        for (int cluster = smallest; cluster <= 8; cluster *= 2)
        {
            if (units <= limits.ClustersOf(cluster) && mean <= 256 * cluster)
            {
                return cluster;
            }
        }

        return units >= limits.Blocks / 4 - 1 && units <= limits.ClustersOf(2) && mean <= 8192 ? 2 : 1;
    }

    /// <summary>
    /// What whole sequences of about one length leave over after whole rounds of blocks: a few units, which draw less than the whole
    /// bandwidth while all other blocks are done. They are cut so that every block gets a part or two.
    /// </summary>
    private static DecodeCut WithTail(in DecodeCut cut, int sequences, long total, int longest, int busy, in DecodePlanLimits limits)
    {
        long mean = total / Math.Max(1, busy);
        long rounds = (long)busy * limits.UnitsPerItem / limits.Blocks;
        long left = busy - (rounds * limits.Blocks / limits.UnitsPerItem);
        if (rounds == 0 || left == 0 || longest > mean + (mean / 8))
        {
            return cut;
        }

        DecodeCut best = cut;
        long most = Math.Min(limits.MaxSlots / left, longest / limits.MinChunk);
        double bestCost = longest * Math.Max(SomeLoss * left * limits.UnitsPerItem / limits.Blocks, 1 / FewShare);
        for (int more = 1; more <= 2; more++)
        {
            int parts = (int)Math.Min(more * limits.Blocks / (left * limits.UnitsPerItem), most);
            double cost = ((double)longest * more / Math.Max(1, parts)) + ((more + 2) * limits.PartCost);
            if (parts > more && cost < bestCost)
            {
                int tokens = RoundUp((longest + parts - 1) / parts, limits);
                (best, bestCost) = (cut with { TailFirst = sequences - (int)left, TailTokens = tokens }, cost);
            }
        }

        return best;
    }
}
