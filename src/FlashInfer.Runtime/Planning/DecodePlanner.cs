using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>The sequences of a step that have query tokens, one element of each span for each of them, in the order of their rows.</summary>
/// <param name="lengths">Tokens of each sequence that its query tokens see, from the first of them on; 0 allowed.</param>
/// <param name="pageOffsets">Where each sequence's pages start in the page table.</param>
/// <param name="queryTokens">Query tokens of each, 1 or more; empty when each has one.</param>
/// <param name="causal">Whether a query token sees no token behind itself; the query tokens are the sequence's last.</param>
/// <param name="begins">The first token that each sequence's query tokens see, a multiple of 16; empty when they see all.</param>
internal readonly ref struct DecodeBatch(
    ReadOnlySpan<int> lengths,
    ReadOnlySpan<int> pageOffsets,
    ReadOnlySpan<int> queryTokens = default,
    bool causal = true,
    ReadOnlySpan<int> begins = default
)
{
    public readonly ReadOnlySpan<int> Lengths = lengths;
    public readonly ReadOnlySpan<int> PageOffsets = pageOffsets;
    public readonly ReadOnlySpan<int> QueryTokens = queryTokens;
    public readonly bool Causal = causal;
    public readonly ReadOnlySpan<int> Begins = begins;
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
    private const int InvariantChunkTokens = 1024;
    private const int SortBuckets = 256;

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
            return Emit(batch, Math.Min(whole, InvariantChunk(longest, limits)), Tail.None, 1, false, total, longest, limits, items);
        }

        bool teamUnits = ChooseTeamUnits(longest, busy, limits);
        int cluster = teamUnits ? 1 : ChooseCluster(total, longest, busy, limits);
        int chunk =
            teamUnits || cluster > 1 || longest <= limits.MinChunk ? whole : ChunkChooser.Choose(lengths, total, longest, busy, limits);
        Tail tail = teamUnits || cluster > 1 || chunk < longest ? Tail.None : ChooseTail(lengths.Length, total, longest, busy, limits);
        return Emit(batch, chunk, tail, cluster, teamUnits, total, longest, limits, items);
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
    private static Tail ChooseTail(int sequences, long total, int longest, int busy, in DecodePlanLimits limits)
    {
        long mean = total / Math.Max(1, busy);
        long rounds = (long)busy * limits.UnitsPerItem / limits.Blocks;
        long left = busy - (rounds * limits.Blocks / limits.UnitsPerItem);
        if (rounds == 0 || left == 0 || longest > mean + (mean / 8))
        {
            return Tail.None;
        }

        Tail best = Tail.None;
        long most = Math.Min(limits.MaxSlots / left, longest / limits.MinChunk);
        double bestCost = longest * Math.Max(SomeLoss * left * limits.UnitsPerItem / limits.Blocks, 1 / FewShare);
        for (int more = 1; more <= 2; more++)
        {
            int parts = (int)Math.Min(more * limits.Blocks / (left * limits.UnitsPerItem), most);
            double cost = ((double)longest * more / Math.Max(1, parts)) + ((more + 2) * limits.PartCost);
            if (parts > more && cost < bestCost)
            {
                (best, bestCost) = (new Tail(sequences - (int)left, RoundUp((longest + parts - 1) / parts, limits)), cost);
            }
        }

        return best;
    }

    private static DecodePlan Emit(
        in DecodeBatch batch,
        int chunk,
        Tail tail,
        int cluster,
        bool teamUnits,
        long total,
        int longest,
        in DecodePlanLimits limits,
        Span<WorkItem> items
    )
    {
        ReadOnlySpan<int> lengths = batch.Lengths;
        ReadOnlySpan<int> pageOffsets = batch.PageOffsets;
        ReadOnlySpan<int> queryTokens = batch.QueryTokens;
        bool invariant = limits.Determinism == Determinism.BatchInvariant;

        // Up to here nothing is cut.
        int uncut = invariant ? InvariantChunkTokens : Math.Min(chunk, tail.ChunkTokens);

        // Counting sort by part length: starts[b] is where the items of bucket b begin, longest bucket first.
        int shift = Math.Max(0, 32 - int.LeadingZeroCount(chunk) - 8);
        Span<int> starts = stackalloc int[SortBuckets];
        starts.Clear();
        if (longest <= uncut)
        {
            foreach (int length in lengths)
            {
                starts[length >> shift]++;
            }
        }
        else
        {
            for (int i = 0; i < lengths.Length; i++)
            {
                int length = lengths[i];
                int parts = length <= uncut ? 1 : Parts(length, i, chunk, tail, limits);
                starts[Bucket(length, parts, shift)] += parts;
            }
        }

        int next = 0;
        for (int bucket = SortBuckets - 1; bucket >= 0; bucket--)
        {
            int count = starts[bucket];
            starts[bucket] = next;
            next += count;
        }

        if (longest <= uncut && queryTokens.IsEmpty && batch.Begins.IsEmpty)
        {
            EmitWhole(lengths, pageOffsets, shift, starts, items);
            return new DecodePlan(next, 0, cluster, teamUnits, chunk, 0, total);
        }

        int slots = 0;
        int split = 0;
        int row = 0;
        for (int i = 0; i < lengths.Length; i++)
        {
            int length = lengths[i];
            int rows = queryTokens.IsEmpty ? 1 : queryTokens[i];
            int first = batch.Begins.IsEmpty ? 0 : batch.Begins[i];
            int visible = first + length + (batch.Causal ? 1 - rows : 0);
            int parts = length <= uncut ? 1 : Parts(length, i, chunk, tail, limits);
            ref int start = ref starts[Bucket(length, parts, shift)];
            if (parts == 1)
            {
                Write(ref items[start++], row, first, first + length, pageOffsets[i], slots, 0, 1, rows, visible);
            }
            else
            {
                // Part p of n begins at block blocks * p / n, rounded down.
                int blockTokens = limits.BlockTokens;
                (int blocks, int rest) = Math.DivRem((int)(((uint)length + (uint)blockTokens - 1) / (uint)blockTokens), parts);
                int carried = 0;
                int begin = first;
                for (int part = 0; part < parts; part++)
                {
                    carried += rest;
                    bool carries = carried >= parts;
                    carried -= carries ? parts : 0;
                    int end = part == parts - 1 ? first + length : begin + ((blocks + (carries ? 1 : 0)) * blockTokens);
                    Write(ref items[start++], row, begin, end, pageOffsets[i], slots, part, parts, rows, visible);
                    begin = end;
                }

                slots += parts;
                split++;
            }

            row += rows;
        }

        return new DecodePlan(next, slots, cluster, teamUnits, chunk, split, total);
    }

    /// <summary>Most steps: one query token a sequence, which sees all of it in one item.</summary>
    private static void EmitWhole(
        ReadOnlySpan<int> lengths,
        ReadOnlySpan<int> pageOffsets,
        int shift,
        Span<int> starts,
        Span<WorkItem> items
    )
    {
        for (int row = 0; row < lengths.Length; row++)
        {
            int length = lengths[row];
            Write(ref items[starts[length >> shift]++], row, 0, length, pageOffsets[row], 0, 0, 1, 1, length);
        }
    }

    private static int Parts(int length, int sequence, int chunk, Tail tail, in DecodePlanLimits limits) =>
        limits.Determinism == Determinism.BatchInvariant
            ? InvariantParts(length, limits)
            : Parts(length, sequence < tail.First ? chunk : tail.ChunkTokens);

    /// <summary>Members in pairs, and those of 16 bits in fours: half as many stores.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(
        ref WorkItem item,
        int row,
        int begin,
        int end,
        int kvStart,
        int partOffset,
        int part,
        int parts,
        int queryTokens,
        int visible
    )
    {
        ref ulong members = ref Unsafe.As<WorkItem, ulong>(ref item);
        members = (uint)row | ((ulong)(uint)begin << 32);
        Unsafe.Add(ref members, 1) = (uint)end | ((ulong)(uint)kvStart << 32);
        Unsafe.Add(ref members, 2) = (uint)partOffset | ((ulong)(uint)part << 32) | ((ulong)(uint)parts << 48);
        Unsafe.Add(ref members, 3) = (uint)queryTokens | ((ulong)(uint)visible << 32);
    }

    /// <summary>The sequences from one on are cut into shorter parts than the others.</summary>
    private readonly record struct Tail(int First, int ChunkTokens)
    {
        public static Tail None => new(int.MaxValue, int.MaxValue);
    }

    private static int Bucket(int length, int parts, int shift) =>
        Math.Min(SortBuckets - 1, (parts == 1 ? length : (int)((uint)length / (uint)parts)) >> shift);
}
