namespace FlashInfer.Planning;

/// <summary>
/// Chooses into how long parts the tokens that a tile sees are cut (split-KV): whole, unless the units are too few for the machine and
/// shorter ones are done sooner by a model of the time that blocks take from a queue. Works on a histogram of the tiles.
/// </summary>
internal static class PrefillCut
{
    /// <summary>The answer when nothing is cut.</summary>
    public const int Whole = int.MaxValue;

    private const int ClassBits = 4;
    private const int Classes = 1 << ClassBits;

    // Quarters of a round of blocks that parts may fill: few of them are merged sooner.
    private static ReadOnlySpan<byte> Quarters => [1, 2, 4, 8, 12, 16];

    // As many times the mean load of a block is halved; and the longest range, which many short ones beside it leave the other candidates
    // no say about.
    private const int Halvings = 3;
    private const int RangeHalvings = 4;

    // In tokens that a block takes in the same time, fitted to 51 cases of an H100: sequences of 1 to 1,024 query tokens on 2k to 32k, cut into
    // up to 32 parts, of which this chooses one within 8 % of the best (1 % in the mean). A unit's start and end take 1 us. Whoever comes last
    // merges a tile's parts, in the midst of the list as at its end, and that takes as long as there are rows and parts.
    private const int UnitCost = 85;
    private const int PartCost = 100;
    private const int PartRowsCost = 400; // of a tile whose rows are all in use
    private const int MergeCost = 130;
    private const int MergePartCost = 40;
    private const int MergePartRowsCost = 150;

    // The model is rough: a cut has to promise more than this.
    private const double Gain = 0.95;

    /// <summary>The longest part, in tokens; parts begin at multiples of a block.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="work">What they come to.</param>
    /// <param name="limits">Machine and kernel.</param>
    public static int Choose(in PrefillBatch batch, in PrefillWork work, in PrefillPlanLimits limits)
    {
        long load = work.Tokens * limits.HeadTiles / limits.Blocks;
        if (work.Longest <= 2 * limits.BlockTokens || load >= 4L * work.Longest || limits.MaxParts < 2 * limits.HeadTiles)
        {
            return Whole;
        }

        Span<int> ranges = stackalloc int[Classes];
        Span<int> counts = stackalloc int[Classes];
        Span<long> sums = stackalloc long[Classes];
        int classes = Classify(batch, work, limits, ranges, counts, sums);
        ranges = ranges[..classes];
        counts = counts[..classes];
        sums = sums[..classes];

        long queryTokens = 0;
        foreach (int tokens in batch.QueryTokens)
        {
            queryTokens += tokens;
        }

        double fill = queryTokens / ((double)work.Tiles * limits.TileTokens);
        int best = Whole;
        double bestCost = Cost(ranges, counts, sums, Whole, fill, limits) * Gain;
        for (int candidate = 1; candidate <= Quarters.Length + Halvings + RangeHalvings; candidate++)
        {
            // Parts that fill whole rounds of blocks, fractions of a block's mean load, and of the longest range.
            int halved = candidate - Quarters.Length - 1;
            int chunk =
                halved < 0 ? Smallest(ranges, counts, Quarters[candidate - 1] * limits.Blocks / 4 / limits.HeadTiles, limits)
                : halved < Halvings ? RoundUp(load >> halved, limits)
                : RoundUp(ranges[0] >> (halved - Halvings + 1), limits);
            if (chunk >= ranges[0] || Slots(ranges, counts, chunk) * limits.HeadTiles > limits.MaxParts)
            {
                continue;
            }

            double cost = Cost(ranges, counts, sums, chunk, fill, limits);
            if (cost < bestCost)
            {
                (best, bestCost) = (chunk, cost);
            }
        }

        return best;
    }

    /// <summary>Classes of tiles that see about as many tokens, most first: the most of each, how many tiles there are, and their tokens together.</summary>
    private static int Classify(
        in PrefillBatch batch,
        in PrefillWork work,
        in PrefillPlanLimits limits,
        Span<int> ranges,
        Span<int> counts,
        Span<long> sums
    )
    {
        int shift = Math.Max(0, 32 - int.LeadingZeroCount(work.Longest) - ClassBits);
        ranges.Clear();
        counts.Clear();
        sums.Clear();
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            for (int token = 0; token < batch.QueryTokens[i]; token += limits.TileTokens)
            {
                int range = batch.Range(i, token, limits).Tokens;
                int at = Classes - 1 - (range >> shift);
                ranges[at] = Math.Max(ranges[at], range);
                counts[at]++;
                sums[at] += range;
            }
        }

        int classes = 0;
        for (int at = 0; at < Classes; at++)
        {
            if (counts[at] > 0)
            {
                (ranges[classes], counts[classes], sums[classes]) = (ranges[at], counts[at], sums[at]);
                classes++;
            }
        }

        return classes;
    }

    /// <summary>The smallest multiple of a block that gives no more than this many items.</summary>
    private static int Smallest(ReadOnlySpan<int> ranges, ReadOnlySpan<int> counts, int maxItems, in PrefillPlanLimits limits)
    {
        int low = 1;
        int high = RoundUp(ranges[0], limits) / limits.BlockTokens;
        while (low < high)
        {
            int middle = (low + high) / 2;
            long items = 0;
            for (int i = 0; i < ranges.Length; i++)
            {
                items += (long)counts[i] * PrefillPlanner.Parts(ranges[i], middle * limits.BlockTokens);
            }

            (low, high) = items <= maxItems ? (low, middle) : (middle + 1, high);
        }

        return low * limits.BlockTokens;
    }

    /// <summary>Slots that parts of up to this length need at most.</summary>
    private static long Slots(ReadOnlySpan<int> ranges, ReadOnlySpan<int> counts, int chunk)
    {
        long slots = 0;
        for (int i = 0; i < ranges.Length && ranges[i] > chunk; i++)
        {
            slots += (long)counts[i] * PrefillPlanner.Parts(ranges[i], chunk);
        }

        return slots;
    }

    /// <summary>
    /// The time until the last block is done: of n units of at least s tokens some block takes n / blocks, rounded up, and no order is
    /// faster than the mean; taken longest first the blocks come close to the larger of both. Then the last merge.
    /// </summary>
    private static double Cost(
        ReadOnlySpan<int> ranges,
        ReadOnlySpan<int> counts,
        ReadOnlySpan<long> sums,
        int chunk,
        double fill,
        in PrefillPlanLimits limits
    )
    {
        double partCost = PartCost + (PartRowsCost * fill);
        double total = 0;
        double bound = 0;
        double shortest = double.PositiveInfinity;
        long units = 0;
        int mostParts = 1;
        for (int i = 0; i < ranges.Length; i++)
        {
            int parts = PrefillPlanner.Parts(ranges[i], chunk);
            long expanded = (long)counts[i] * parts * limits.HeadTiles;
            int tokens = RoundUp(sums[i] / counts[i] / parts, limits);
            double size = tokens + UnitCost + (parts > 1 ? partCost : 0);
            units += expanded;
            total += expanded * size;
            shortest = Math.Min(shortest, size);
            mostParts = Math.Max(mostParts, parts);
            bound = Math.Max(bound, Math.Max(size, shortest * ((units + limits.Blocks - 1) / limits.Blocks)));
        }

        double merge = mostParts > 1 ? MergeCost + ((MergePartCost + (MergePartRowsCost * fill)) * mostParts) : 0;
        return Math.Max(bound, total / limits.Blocks) + merge;
    }

    private static int RoundUp(long tokens, in PrefillPlanLimits limits)
    {
        long blocks = Math.Max(1, (tokens + limits.BlockTokens - 1) / limits.BlockTokens);
        return (int)Math.Min(int.MaxValue / limits.BlockTokens, blocks) * limits.BlockTokens;
    }
}
