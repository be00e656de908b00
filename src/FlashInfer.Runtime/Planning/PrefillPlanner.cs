using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>The sequences of a prefill step, or some of them, one element of each span for each of them, in the order of their rows.</summary>
/// <param name="queryTokens">Query tokens of each sequence, its last ones; 0 allowed.</param>
/// <param name="lengths">Tokens of each sequence, 0 allowed, also fewer than its query tokens.</param>
/// <param name="starts">Where each sequence's keys and values start, as <see cref="WorkItem.KvStart"/>.</param>
/// <param name="rows">The row of each sequence's first query token.</param>
/// <param name="causal">Whether a query token sees no token behind itself.</param>
/// <param name="bounds">Which keys query tokens do not see.</param>
/// <param name="places">Place of each sequence in the batch that a variant of attention knows; empty when they are all of it.</param>
internal readonly ref struct PrefillBatch(
    ReadOnlySpan<int> queryTokens,
    ReadOnlySpan<int> lengths,
    ReadOnlySpan<int> starts,
    ReadOnlySpan<int> rows,
    bool causal = true,
    KeyBounds bounds = default,
    ReadOnlySpan<int> places = default
)
{
    public readonly ReadOnlySpan<int> QueryTokens = queryTokens;
    public readonly ReadOnlySpan<int> Lengths = lengths;
    public readonly ReadOnlySpan<int> Starts = starts;
    public readonly ReadOnlySpan<int> Rows = rows;
    public readonly ReadOnlySpan<int> Places = places;
    public readonly bool Causal = causal;
    private readonly KeyBounds _bounds = bounds;

    /// <summary>
    /// Tokens that all query tokens of a sequence see: query token n sees n + 1 more with causal attention. Below 0 when there are more
    /// query tokens than tokens.
    /// </summary>
    public int Before(int sequence) => Causal ? Lengths[sequence] - QueryTokens[sequence] : Lengths[sequence];

    /// <summary>The same with keys and values that start elsewhere.</summary>
    public PrefillBatch At(ReadOnlySpan<int> starts) => new(QueryTokens, Lengths, starts, Rows, Causal, _bounds, Places);

    /// <summary>Other sequences, of which the same is known.</summary>
    /// <param name="queryTokens">As of the constructor.</param>
    /// <param name="lengths">As of the constructor.</param>
    /// <param name="starts">As of the constructor.</param>
    /// <param name="rows">As of the constructor.</param>
    /// <param name="places">Place of each sequence in the batch.</param>
    public PrefillBatch Of(
        ReadOnlySpan<int> queryTokens,
        ReadOnlySpan<int> lengths,
        ReadOnlySpan<int> starts,
        ReadOnlySpan<int> rows,
        ReadOnlySpan<int> places
    ) => new(queryTokens, lengths, starts, rows, Causal, _bounds, places);

    /// <summary>Place of a sequence in the batch that a variant of attention knows.</summary>
    public int Place(int sequence) => Places.IsEmpty ? sequence : Places[sequence];

    /// <summary>Whether every query token sees its sequence from the first token on, all of it.</summary>
    public bool SeesBeginnings => _bounds.IsEmpty;

    /// <summary>The tokens that a tile of a sequence's query tokens walks.</summary>
    /// <param name="sequence">The sequence.</param>
    /// <param name="token">The tile's first query token.</param>
    /// <param name="limits">Says how long tiles and blocks are.</param>
    public TileRange Range(int sequence, int token, in PrefillPlanLimits limits)
    {
        int queryTokens = QueryTokens[sequence];
        int length = Lengths[sequence];
        int block = limits.BlockTokens;
        int end = Math.Max(0, Before(sequence) + (Causal ? Math.Min(token + limits.TileTokens, queryTokens) : 0));
        int begin = _bounds.Begin(Place(sequence), token, queryTokens, length, end, block);

        // As PrefillTile::skipped_by: whole blocks that the tile's first row does not see, but one at least.
        (int first, int seen) = _bounds.Skipped(Place(sequence), token, queryTokens, length);
        int blocks = (end - begin + block - 1) / block;
        int before = Math.Max(0, first - begin + block - 1) / block;
        int skipped = Math.Min(Math.Min(blocks, Math.Max(0, seen - begin) / block) - before, blocks - 1);
        return new TileRange(begin, end, before * block, Math.Max(0, skipped) * block);
    }

    /// <summary>Tokens that all tiles of a sequence's query tokens walk, of one head tile.</summary>
    /// <param name="sequence">The sequence.</param>
    /// <param name="limits">As of <see cref="Range"/>.</param>
    public long Walked(int sequence, in PrefillPlanLimits limits)
    {
        int queryTokens = QueryTokens[sequence];
        long length = Lengths[sequence];
        if (!SeesBeginnings)
        {
            long walked = 0;
            for (int token = 0; token < queryTokens; token += limits.TileTokens)
            {
                walked += Range(sequence, token, limits).Tokens;
            }

            return walked;
        }

        if (queryTokens <= limits.TileTokens)
        {
            return length;
        }

        int tiles = PrefillPlanner.Tiles(queryTokens, limits);
        if (!Causal)
        {
            return tiles * length;
        }

        // Without the tokens that come before the sequence's first: their tiles see nothing.
        long seen = Math.Min(queryTokens, length);
        return tiles * (length - seen) + (long)(seen * (seen + limits.TileTokens) / (2.0 * limits.TileTokens));
    }
}

/// <summary>Tokens that a tile of query tokens walks.</summary>
/// <param name="Begin">The first, where a block begins.</param>
/// <param name="End">Behind the last that is seen.</param>
/// <param name="Before">Tokens before those that are left out.</param>
/// <param name="Skipped">Tokens that are left out between others, whole blocks of them.</param>
internal readonly record struct TileRange(int Begin, int End, int Before, int Skipped)
{
    /// <summary>Tokens that are walked.</summary>
    public int Tokens => End - Begin - Skipped;

    /// <summary>Where so many of them, whole blocks, end.</summary>
    public int EndOf(int tokens) => Begin + tokens + (tokens > Before ? Skipped : 0);
}

/// <summary>What the planner must know of the machine and the kernel.</summary>
/// <param name="Blocks">Blocks that run at once.</param>
/// <param name="HeadTiles">Head tiles of all query heads; a multiple of the KV heads.</param>
/// <param name="KvHeads">Key/value heads.</param>
/// <param name="TileTokens">Query tokens of an item at most.</param>
/// <param name="BlockTokens">Parts of a sequence begin at multiples of it.</param>
/// <param name="TokenBytes">Bytes of a token's key and value in one KV head.</param>
/// <param name="MaxParts">Partial states that the workspace has room for: parts times head tiles; 0 for none.</param>
/// <param name="MaxItems">Items that the list has room for; at least <see cref="PrefillPlanner.MaxItems"/>.</param>
internal readonly record struct PrefillPlanLimits(
    int Blocks,
    int HeadTiles,
    int KvHeads,
    int TileTokens,
    int BlockTokens,
    int TokenBytes,
    int MaxParts,
    int MaxItems
)
{
    /// <summary>What a sequence's cut may depend on.</summary>
    public Determinism Determinism { get; init; }

    /// <summary>Keys and values that blocks work on at about the same time; 0 leaves it to the planner. Benchmarks set it.</summary>
    public long SectionBytes { get; init; }

    /// <summary>Whether sequences whose keys and values are read once are spread among the others; benchmarks turn it off.</summary>
    public bool Interleaves { get; init; } = true;
}

/// <summary>What a plan looks like; its items are in the span that the planner filled.</summary>
/// <param name="Items">Items written.</param>
/// <param name="Heads">Head tiles that each item expands to.</param>
/// <param name="Slots">Partial-state slots used; each has room for <paramref name="Heads"/> tiles.</param>
/// <param name="ChunkTokens">The longest range of an item.</param>
/// <param name="SplitSequences">Sequences with query tokens whose range is cut.</param>
/// <param name="TotalTokens">Tokens of all sequences that have query tokens.</param>
internal readonly record struct PrefillPlan(int Items, int Heads, int Slots, int ChunkTokens, int SplitSequences, long TotalTokens);

/// <summary>
/// Cuts the query tokens of a step into tiles, and where there are too few of them the tokens that a tile sees into parts, and orders
/// them. Pure functions over spans: no CUDA, no allocation.
/// </summary>
/// <remarks>
/// <para>
/// Blocks take units (an item and a head tile) in the order of the list, each the next when it is free. Longest first, then, so that all
/// are done at the same time; but only inside a section, so many sequences and KV heads that their keys and values stay in the L2 cache
/// while the section is worked on.
/// </para>
/// <para>
/// A sequence of one tile (decode, say) has its keys and values read once and waits for memory, one of many tiles waits for the tensor
/// cores. Where a batch has both, the former are spread evenly among the latter: blocks of both kinds run side by side and neither
/// memory nor tensor cores are idle for a part of the step.
/// </para>
/// </remarks>
internal static class PrefillPlanner
{
    /// <summary>Buckets of the counting sort, and room behind them for eight that are read at once.</summary>
    public const int Places = 256 + 2 + EightTiles.Most;

    // Sections: measured on an H100 with sequences of equal length; with uneven ones a balanced end is worth more than hits in the L2.
    private const int ShortSequence = 1024;
    private const long ShortSection = 8 << 20;
    private const long LongSection = 16 << 20;
    private const long UnevenSection = 64 << 20;

    // A list has room for this many groups of KV heads with the largest number of tiles; with fewer tiles for more.
    private const int HeadGroups = 8;

    // Rounds of blocks that the parts of a step may fill.
    private const int PartRounds = 4;

    // Batch-invariant parts are no shorter: the way of a part through the workspace then costs little.
    internal const int InvariantChunkTokens = 2048;

    // From this share of the step's work on, streaming sequences are worth a place of their own.
    private const int StreamingShare = 16;

    /// <summary>Partial states of the workspace, as <see cref="PrefillPlanLimits.MaxParts"/>.</summary>
    public static int PartsFor(int blocks) => PartRounds * blocks;

    /// <summary>The same for batch-invariant plans: what the sequences of a full cache come to, each as many as occupy every block once.</summary>
    public static int InvariantPartsFor(int maxSequences, long cacheTokens, int blocks, int headTiles)
    {
        long sequences = Math.Min(maxSequences, cacheTokens / (2 * InvariantChunkTokens));
        return (int)Math.Min(int.MaxValue / 2, sequences * (blocks / headTiles * headTiles));
    }

    /// <summary>Items that a plan may need.</summary>
    /// <param name="maxSequences">Sequences of the largest step.</param>
    /// <param name="maxQueryTokens">Query tokens of all sequences of the largest step.</param>
    /// <param name="tileTokens">As <see cref="PrefillPlanLimits.TileTokens"/>.</param>
    /// <param name="kvHeads">Key/value heads.</param>
    /// <param name="maxParts">As <see cref="PrefillPlanLimits.MaxParts"/>.</param>
    public static int MaxItems(int maxSequences, int maxQueryTokens, int tileTokens, int kvHeads, int maxParts) =>
        checked(((maxQueryTokens / tileTokens) + Math.Min(maxSequences, maxQueryTokens)) * Math.Min(kvHeads, HeadGroups) + maxParts);

    /// <summary>
    /// Parts of each of a sequence's tiles when they may depend on nothing but the sequence and the kernel: as many as let it occupy
    /// every block once when it is alone.
    /// </summary>
    /// <param name="range">Tokens that the tile sees.</param>
    /// <param name="queryTokens">Query tokens of the sequence.</param>
    /// <param name="limits">Machine and kernel.</param>
    public static int InvariantParts(int range, int queryTokens, in PrefillPlanLimits limits)
    {
        int most = limits.Blocks / (limits.HeadTiles * Tiles(queryTokens, limits));
        return limits.MaxParts == 0 ? 1 : Math.Max(1, Math.Min(most, range / InvariantChunkTokens));
    }

    /// <summary>Partial states that a sequence takes in a batch-invariant plan, as <see cref="PrefillPlanLimits.MaxParts"/>.</summary>
    public static int InvariantStates(int length, int queryTokens, in PrefillPlanLimits limits)
    {
        if (queryTokens == 0)
        {
            return 0;
        }

        int parts = InvariantParts(length, queryTokens, limits);
        return parts == 1 ? 0 : parts * Tiles(queryTokens, limits) * limits.HeadTiles;
    }

    /// <summary>Makes the plan.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="limits">Machine and kernel.</param>
    /// <param name="items">Receives the items; <see cref="PrefillPlanLimits.MaxItems"/> long.</param>
    /// <param name="scratch">Room for the sequences, twice.</param>
    public static PrefillPlan Plan(in PrefillBatch batch, in PrefillPlanLimits limits, Span<WorkItem> items, Span<TiledSequence> scratch)
    {
        PrefillWork work = PrefillWork.Of(batch, limits);
        int chunk = limits.Determinism == Determinism.BatchInvariant ? int.MaxValue : PrefillCut.Choose(batch, work, limits);
        long section = limits.SectionBytes > 0 ? limits.SectionBytes : Section(work);
        int groups = HeadGroupsOf(work, batch.Causal ? section : section / 2, limits);
        if (!batch.Causal && groups > 1)
        {
            // Without a mask all tiles of a head are alike: head by head was 1 to 2 % faster on an H100. Not so where sequences are
            // short, and a plan has fewer items then.
            groups = HeadGroupsOf(work, 1, limits);
        }

        int heads = limits.HeadTiles / groups;
        bool spreads = limits.Interleaves && work.Streaming > 0 && work.StreamingTokens * StreamingShare >= work.Tokens;
        (int streaming, int others) = TiledSequence.List(batch, limits, spreads ? limits.TileTokens : 0, scratch);
        ReadOnlySpan<TiledSequence> streamed = scratch[..streaming];
        Span<int> places = stackalloc int[Places];
        PrefillEmitter emitter = new(batch, limits, work, chunk, heads, streamed, items, places);
        emitter.Emit(streamed, long.MaxValue, areStreaming: true);
        long sectionTokens = section / ((long)limits.TokenBytes * heads * limits.KvHeads / limits.HeadTiles);
        emitter.Emit(scratch.Slice(batch.Lengths.Length, others), sectionTokens, areStreaming: false);
        emitter.Repeat();
        return emitter.Plan();
    }

    /// <summary>Tokens of the busiest block over the mean, 1 at best: what this order comes to when all blocks are equally fast. Not for the hot path.</summary>
    public static double Imbalance(ReadOnlySpan<WorkItem> items, in PrefillPlan plan, int blocks)
    {
        long total = 0;
        long last = 0;
        PriorityQueue<int, long> free = new(Enumerable.Range(0, blocks).Select(block => (block, 0L)));
        foreach (WorkItem item in items)
        {
            for (int unit = 0; unit < plan.Heads; unit++)
            {
                free.TryDequeue(out int block, out long load);
                load += item.End - item.Begin;
                total += item.End - item.Begin;
                last = Math.Max(last, load);
                free.Enqueue(block, load);
            }
        }

        return total == 0 ? 1 : last * (double)blocks / total;
    }

    /// <summary>Tiles of a sequence's query tokens.</summary>
    internal static int Tiles(int queryTokens, in PrefillPlanLimits limits) =>
        (int)(((uint)queryTokens + (uint)limits.TileTokens - 1) / (uint)limits.TileTokens);

    /// <summary>Parts of up to this many tokens.</summary>
    internal static int Parts(int range, int chunk) => range <= chunk ? 1 : (int)(((uint)range + (uint)chunk - 1) / (uint)chunk);

    /// <summary>Keys and values of a section.</summary>
    private static long Section(in PrefillWork work) =>
        (long)work.Longest * work.Sequences > 2 * work.TotalTokens ? UnevenSection
        : work.Longest <= ShortSequence ? ShortSection
        : LongSection;

    /// <summary>
    /// Groups of KV heads that are worked on one after the other, so that the longest sequence's keys and values of one group fit a section;
    /// fewer where the list has no room for an item for each.
    /// </summary>
    private static int HeadGroupsOf(in PrefillWork work, long section, in PrefillPlanLimits limits)
    {
        // Sequences of one tile have nothing that a second reader would find in the cache.
        long bytes = work.Streaming == work.Sequences ? 0 : (long)work.Longest * limits.TokenBytes * limits.KvHeads;
        int items = work.Tiles + (limits.MaxParts / limits.HeadTiles);
        int best = 1;
        for (int groups = 2; best * section < bytes && groups <= limits.KvHeads && (long)groups * items <= limits.MaxItems; groups++)
        {
            best = limits.KvHeads % groups == 0 ? groups : best;
        }

        return best;
    }
}
