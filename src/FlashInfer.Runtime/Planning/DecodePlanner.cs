using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>What the planner must know of the machine and the kernel.</summary>
/// <param name="Blocks">Blocks that run at once.</param>
/// <param name="UnitsPerItem">Units of work that one item expands to on the device (KV heads times group tiles).</param>
/// <param name="MinChunk">The shortest part worth cutting a sequence into, in tokens; a multiple of 16.</param>
/// <param name="MaxSlots">Partial-state slots that the workspace has.</param>
internal readonly record struct DecodePlanLimits(int Blocks, int UnitsPerItem, int MinChunk, int MaxSlots);

/// <summary>What a plan looks like; its items are in the span that the planner filled.</summary>
/// <param name="Items">Items written.</param>
/// <param name="Slots">Partial-state slots used.</param>
/// <param name="ChunkTokens">No item is longer than this.</param>
/// <param name="SplitSequences">Sequences of more than one part.</param>
/// <param name="TotalTokens">Tokens of all sequences.</param>
/// <param name="BusiestTokens">Tokens times units that the busiest block reads.</param>
internal readonly record struct DecodePlan(int Items, int Slots, int ChunkTokens, int SplitSequences, long TotalTokens, long BusiestTokens);

/// <summary>
/// Cuts the sequences of a decode step into items and orders them. Pure functions over spans: no CUDA, no allocation. It works on
/// sequences; the device expands every item over KV heads, and block b of n takes units b, 2n-1-b, 2n+b, ... (there and back), so the
/// items stand longest first.
/// </summary>
internal static class DecodePlanner
{
    public const int TileTokens = 16;
    private const int Buckets = 256;

    /// <summary>Items that a plan of this many sequences may need.</summary>
    public static int MaxItems(int sequences, in DecodePlanLimits limits) => sequences + limits.MaxSlots;

    /// <summary>
    /// Slots that make the workspace large enough for every plan: twice the parts that cutting can add, which is at most one round
    /// of blocks.
    /// </summary>
    public static int SlotsFor(int blocks, int unitsPerItem) => 2 * Math.Max(1, (blocks + unitsPerItem - 1) / unitsPerItem);

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

        Span<long> loads = limits.Blocks <= 1024 ? stackalloc long[limits.Blocks] : new long[limits.Blocks];
        int chunk = ChooseChunk(lengths, total, longest, busy, limits, loads, out long busiest);
        return Emit(lengths, pageOffsets, chunk, total, busiest, items);
    }

    /// <summary>
    /// The cheapest of a few chunk lengths: no cut; the smallest that fills the blocks in the fewest rounds, or one round more; the mean
    /// load, for batches with a few long sequences. The cost of each is the load of the busiest block under the real placement.
    /// </summary>
    private static int ChooseChunk(
        ReadOnlySpan<int> lengths,
        long total,
        int longest,
        int busy,
        in DecodePlanLimits limits,
        Span<long> loads,
        out long busiest
    )
    {
        int whole = Math.Max(TileTokens, RoundUp(longest));
        busiest = Busiest(lengths, whole, longest, limits, loads);
        if (longest <= limits.MinChunk)
        {
            return whole;
        }

        int best = whole;
        long bestCost = Cost(busiest, whole, longest);
        int rounds = (int)Math.Max(1, ((long)busy * limits.UnitsPerItem + limits.Blocks - 1) / limits.Blocks);
        int mean = RoundUp((int)Math.Min(int.MaxValue - TileTokens, total * limits.UnitsPerItem / limits.Blocks));
        ReadOnlySpan<int> candidates =
        [
            SmallestChunk(lengths, longest, (long)rounds * limits.Blocks / limits.UnitsPerItem, limits),
            SmallestChunk(lengths, longest, (long)(rounds + 1) * limits.Blocks / limits.UnitsPerItem, limits),
            Math.Max(limits.MinChunk, mean),
            Math.Max(limits.MinChunk, mean / 2),
        ];
        foreach (int chunk in candidates)
        {
            if (chunk >= whole || chunk == best || SlotsUsed(lengths, chunk) > limits.MaxSlots)
            {
                continue;
            }

            long load = Busiest(lengths, chunk, longest, limits, loads);
            long cost = Cost(load, chunk, longest);
            if (cost < bestCost)
            {
                (best, bestCost, busiest) = (chunk, cost, load);
            }
        }

        return best;
    }

    /// <summary>A merge across blocks costs about as much as reading 64 tokens.</summary>
    private static long Cost(long load, int chunk, int longest) => load + (chunk < longest ? 64 : 0);

    private static long SlotsUsed(ReadOnlySpan<int> lengths, int chunk)
    {
        long slots = 0;
        foreach (int length in lengths)
        {
            slots += length > chunk ? Parts(length, chunk) : 0;
        }

        return slots;
    }

    private static int SmallestChunk(ReadOnlySpan<int> lengths, int longest, long maxItems, in DecodePlanLimits limits)
    {
        int low = limits.MinChunk / TileTokens;
        int high = Math.Max(low, RoundUp(longest) / TileTokens);
        while (low < high)
        {
            int middle = (low + high) / 2;
            long count = 0;
            foreach (int length in lengths)
            {
                count += Parts(length, middle * TileTokens);
            }

            if (count <= maxItems)
            {
                high = middle;
            }
            else
            {
                low = middle + 1;
            }
        }

        return low * TileTokens;
    }

    /// <summary>The load of the busiest block when items of about equal length stand together, longest first.</summary>
    private static long Busiest(ReadOnlySpan<int> lengths, int chunk, int longest, in DecodePlanLimits limits, Span<long> loads)
    {
        Span<int> counts = stackalloc int[Buckets];
        counts.Clear();
        loads.Clear();
        int scale = BucketWidth(chunk, longest);
        foreach (int length in lengths)
        {
            int parts = Parts(length, chunk);
            counts[Bucket(length, parts, scale)] += parts;
        }

        long unit = 0;
        for (int bucket = Buckets - 1; bucket >= 0; bucket--)
        {
            // A block also pays for each unit's start and merge: about one tile.
            long tokens = ((long)bucket * scale) + TileTokens;
            for (long n = (long)counts[bucket] * limits.UnitsPerItem; n > 0; n--, unit++)
            {
                long round = unit / loads.Length;
                int at = (int)(unit % loads.Length);
                loads[(round & 1) == 0 ? at : loads.Length - 1 - at] += tokens;
            }
        }

        long busiest = 0;
        foreach (long load in loads)
        {
            busiest = Math.Max(busiest, load);
        }

        return busiest;
    }

    private static DecodePlan Emit(
        ReadOnlySpan<int> lengths,
        ReadOnlySpan<int> pageOffsets,
        int chunk,
        long total,
        long busiest,
        Span<DecodeItem> items
    )
    {
        // Counting sort by part length: starts[b] is where the items of bucket b begin, longest bucket first.
        int scale = BucketWidth(chunk, chunk);
        Span<int> starts = stackalloc int[Buckets];
        starts.Clear();
        foreach (int length in lengths)
        {
            int parts = Parts(length, chunk);
            starts[Bucket(length, parts, scale)] += parts;
        }

        int next = 0;
        for (int bucket = Buckets - 1; bucket >= 0; bucket--)
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
            int tiles = (int)(((long)length + TileTokens - 1) / TileTokens);
            ref int at = ref starts[Bucket(length, parts, scale)];
            for (int part = 0; part < parts; part++)
            {
                items[at++] = new DecodeItem
                {
                    Row = row,
                    Begin = (int)((long)tiles * part / parts) * TileTokens,
                    End = (int)Math.Min(length, ((long)tiles * (part + 1) / parts) * TileTokens),
                    PageOffset = pageOffsets[row],
                    PartOffset = parts > 1 ? slots : 0,
                    Part = part,
                    Parts = parts,
                };
            }

            slots += parts > 1 ? parts : 0;
            split += parts > 1 ? 1 : 0;
        }

        return new DecodePlan(next, slots, chunk, split, total, busiest);
    }

    private static int Parts(int length, int chunk) => length <= chunk ? 1 : (int)(((long)length + chunk - 1) / chunk);

    private static int BucketWidth(int chunk, int longest) => (Math.Min(chunk, Math.Max(1, longest)) / (Buckets - 1)) + 1;

    private static int Bucket(int length, int parts, int width) => Math.Min(Buckets - 1, length / parts / width);

    private static int RoundUp(int tokens) =>
        (int)Math.Min(int.MaxValue / TileTokens * TileTokens, ((long)tokens + TileTokens - 1) / TileTokens * TileTokens);
}
