namespace FlashInfer.Planning;

/// <summary>
/// Chooses how long a part may be: the cheapest of a few lengths by a model of the time that the blocks take together. Works on a
/// histogram of the sequences, so that the cost does not grow with the batch.
/// </summary>
internal static class ChunkChooser
{
    private const int Classes = 32;
    private const int Candidates = 6;
    private const int Samples = 9;

    // In tokens that a block reads at its fair share of the bandwidth; measured on an H100, like the shape of the model.
    private const double UnitCost = 16; // a unit's start and the merge of its warps
    private const double SplitCost = 64; // the way of a partial state through the workspace, once
    private const double AloneShare = 3.8; // what one block can draw at most, in fair shares

    /// <summary>The length, a multiple of 16 tokens.</summary>
    public static int Choose(ReadOnlySpan<int> lengths, long total, int longest, int busy, in DecodePlanLimits limits)
    {
        Span<int> tokens = stackalloc int[Classes];
        Span<int> counts = stackalloc int[Classes];
        int classes = Classify(lengths, longest, tokens, counts);
        tokens = tokens[..classes];
        counts = counts[..classes];

        int whole = DecodePlanner.RoundUp(longest);
        int rounds = (int)Math.Max(1, (((long)busy * limits.UnitsPerItem) + limits.Blocks - 1) / limits.Blocks);
        long mean = total * limits.UnitsPerItem / limits.Blocks;
        Span<int> candidates = stackalloc int[Candidates]
        {
            Smallest(tokens, counts, total, longest, (long)rounds * limits.Blocks / limits.UnitsPerItem, limits.MinChunk),
            Smallest(tokens, counts, total, longest, (rounds + 1L) * limits.Blocks / limits.UnitsPerItem, limits.MinChunk),
            DecodePlanner.RoundUp(mean * 5 / 4),
            DecodePlanner.RoundUp(mean),
            DecodePlanner.RoundUp(mean / 2),
            DecodePlanner.RoundUp(mean / 4),
        };

        int best = whole;
        double bestCost = Cost(tokens, counts, whole, limits);
        foreach (int candidate in candidates)
        {
            int chunk = Math.Max(limits.MinChunk, candidate);
            if (chunk >= whole || chunk == best)
            {
                continue;
            }

            double cost = Cost(tokens, counts, chunk, limits);
            if (cost < bestCost && Slots(lengths, chunk) <= limits.MaxSlots)
            {
                (best, bestCost) = (chunk, cost);
            }
        }

        return best;
    }

    /// <summary>Classes of about equal length, longest first; a class counts as its longest member.</summary>
    private static int Classify(ReadOnlySpan<int> lengths, int longest, Span<int> tokens, Span<int> counts)
    {
        // The five leading bits of the longest: 32 classes.
        int shift = Math.Max(0, 32 - int.LeadingZeroCount(longest) - 5);
        tokens.Clear();
        counts.Clear();
        foreach (int length in lengths)
        {
            int at = length >> shift;
            counts[at]++;
            tokens[at] = Math.Max(tokens[at], length);
        }

        tokens.Reverse();
        counts.Reverse();
        int classes = 0;
        for (int at = 0; at < Classes; at++)
        {
            if (tokens[at] > 0)
            {
                tokens[classes] = tokens[at];
                counts[classes++] = counts[at];
            }
        }

        return classes;
    }

    /// <summary>The smallest length that gives no more than this many items.</summary>
    private static int Smallest(ReadOnlySpan<int> tokens, ReadOnlySpan<int> counts, long total, int longest, long maxItems, int minChunk)
    {
        int low = (int)Math.Max(minChunk, total / Math.Max(1, maxItems)) / DecodePlanner.TileTokens;
        int high = Math.Max(low, DecodePlanner.RoundUp(longest) / DecodePlanner.TileTokens);
        while (low < high)
        {
            int middle = (low + high) / 2;
            long items = 0;
            for (int i = 0; i < tokens.Length; i++)
            {
                items += (long)counts[i] * DecodePlanner.Parts(tokens[i], middle * DecodePlanner.TileTokens);
            }

            (low, high) = items <= maxItems ? (low, middle) : (middle + 1, high);
        }

        return low * DecodePlanner.TileTokens;
    }

    /// <summary>The time until the last block is done, a little more for what the busiest has above the mean, and what cutting costs.</summary>
    private static double Cost(ReadOnlySpan<int> tokens, ReadOnlySpan<int> counts, int chunk, in DecodePlanLimits limits)
    {
        double total = 0;
        long units = 0;
        long splitUnits = 0;
        Span<long> ends = stackalloc long[Classes];
        Span<double> sizes = stackalloc double[Classes];
        for (int i = 0; i < tokens.Length; i++)
        {
            int parts = DecodePlanner.Parts(tokens[i], chunk);
            long expanded = (long)counts[i] * parts * limits.UnitsPerItem;
            sizes[i] = ((double)tokens[i] / parts) + UnitCost;
            units += expanded;
            ends[i] = units;
            splitUnits += parts > 1 ? expanded : 0;
            total += expanded * sizes[i];
        }

        double mean = total / limits.Blocks;
        Span<double> loads = stackalloc double[Samples];
        for (int i = 0; i < Samples; i++)
        {
            loads[i] = Load(i * (limits.Blocks - 1) / (Samples - 1), ends[..tokens.Length], sizes, units, limits.Blocks);
        }

        double cost = Drain(loads) + (0.1 * Math.Max(0, loads[Samples - 1] - mean));
        if (splitUnits > 0)
        {
            // The merge at the very end is seen in full; those before it hide behind the loads in flight, but for a little.
            cost += SplitCost + (UnitCost * splitUnits / limits.Blocks);
        }

        // A few idle multiprocessors leave their partners' share unused: slower than half of them or none (bandwidth is shared in pairs).
        double idle = Math.Max(0, limits.Blocks - units) / (double)limits.Blocks;
        return idle is > 0.11 and < 0.48 ? cost * 1.1 : cost;
    }

    /// <summary>
    /// The time that blocks with these loads take (sorts them). They share the bandwidth: when some are done the others become faster, up
    /// to what one block can draw alone.
    /// </summary>
    private static double Drain(Span<double> loads)
    {
        loads.Sort();
        double time = 0;
        double done = 0;
        for (int i = 0; i < loads.Length; i++)
        {
            time += (loads[i] - done) * Math.Max((double)(loads.Length - i) / loads.Length, 1 / AloneShare);
            done = loads[i];
        }

        return time;
    }

    /// <summary>What one block gets when the units are dealt there and back.</summary>
    private static double Load(int block, ReadOnlySpan<long> ends, ReadOnlySpan<double> sizes, long units, int blocks)
    {
        double load = 0;
        int at = 0;
        for (long round = 0; round * blocks < units; round++)
        {
            long unit = (round * blocks) + ((round & 1) == 0 ? block : blocks - 1 - block);
            if (unit >= units)
            {
                break;
            }

            while (ends[at] <= unit)
            {
                at++;
            }

            load += sizes[at];
        }

        return load;
    }

    private static long Slots(ReadOnlySpan<int> lengths, int chunk)
    {
        long slots = 0;
        foreach (int length in lengths)
        {
            slots += length > chunk ? DecodePlanner.Parts(length, chunk) : 0;
        }

        return slots;
    }
}
