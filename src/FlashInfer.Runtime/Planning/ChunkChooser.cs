namespace FlashInfer.Planning;

/// <summary>
/// Chooses how long a part may be: the cheapest of a few lengths by a model of the time that the blocks take together. Works on a
/// histogram of the sequences, so that the cost does not grow with the batch.
/// </summary>
internal static class ChunkChooser
{
    private const int ClassBits = 4;
    private const int Classes = 1 << ClassBits;
    private const int Candidates = 9;
    private const int Samples = 17;

    // In tokens that a block reads at its fair share of the bandwidth; measured on an H100, like the shape of the model.
    private const double UnitCost = 16; // a unit's start and the merge of its warps
    public const double PartCost = 32; // the way of a partial state into the workspace
    public const double SplitCost = 64; // and out of it, at the very end
    public const double AloneShare = 3.1; // what one block can draw at most, in fair shares
    private const double ImbalanceCost = 0.3; // of what the busiest block has above the mean

    // Sequences this much shorter than what a block has to do even out by themselves.
    private const int ShortShare = 32;

    /// <summary>The length, a multiple of 16 tokens.</summary>
    public static int Choose(ReadOnlySpan<int> lengths, long total, int longest, int busy, in DecodePlanLimits limits)
    {
        int whole = DecodePlanner.RoundUp(longest);
        long mean = total * limits.UnitsPerItem / limits.Blocks;
        if (longest <= mean / ShortShare)
        {
            return whole;
        }

        Span<int> tokens = stackalloc int[Classes];
        Span<int> counts = stackalloc int[Classes];
        Span<long> sums = stackalloc long[Classes];
        int classes = Classify(lengths, longest, tokens, counts, sums);
        tokens = tokens[..classes];
        counts = counts[..classes];
        sums = sums[..classes];

        // Parts that fill whole rounds of blocks, those of cut sequences alone (short ones then fill the gaps) or with all others; and
        // fractions of a block's mean load.
        long round = Math.Max(1, limits.Blocks / limits.UnitsPerItem);
        int rounds = (int)Math.Max(1, (((long)busy * limits.UnitsPerItem) + limits.Blocks - 1) / limits.Blocks);
        Span<int> candidates = stackalloc int[Candidates]
        {
            Smallest(tokens, counts, total, (long)rounds * limits.Blocks / limits.UnitsPerItem, 1),
            Smallest(tokens, counts, total, (rounds + 1L) * limits.Blocks / limits.UnitsPerItem, 1),
            Smallest(tokens, counts, total, (rounds + 2L) * limits.Blocks / limits.UnitsPerItem, 1),
            Smallest(tokens, counts, longest, round, 0),
            Smallest(tokens, counts, longest, 2 * round, 0),
            DecodePlanner.RoundUp(mean * 5 / 4),
            DecodePlanner.RoundUp(mean),
            DecodePlanner.RoundUp(mean / 2),
            DecodePlanner.RoundUp(mean / 4),
        };

        int best = whole;
        double bestCost = Cost(tokens, counts, sums, whole, limits);
        for (int i = 0; i < candidates.Length; i++)
        {
            int chunk = candidates[i] = Math.Max(limits.MinChunk, candidates[i]);
            if (chunk >= whole || candidates[..i].Contains(chunk) || Slots(tokens, counts, chunk) > limits.MaxSlots)
            {
                continue;
            }

            double cost = Cost(tokens, counts, sums, chunk, limits);
            if (cost < bestCost)
            {
                (best, bestCost) = (chunk, cost);
            }
        }

        return best;
    }

    /// <summary>Classes of about equal length, longest first: the longest member of each, how many there are, and their tokens together.</summary>
    private static int Classify(ReadOnlySpan<int> lengths, int longest, Span<int> tokens, Span<int> counts, Span<long> sums)
    {
        int shift = Math.Max(0, 32 - int.LeadingZeroCount(longest) - ClassBits);
        tokens.Clear();
        counts.Clear();
        sums.Clear();
        foreach (int length in lengths)
        {
            int at = length >> shift;
            counts[at]++;
            sums[at] += length;
            tokens[at] = Math.Max(tokens[at], length);
        }

        tokens.Reverse();
        counts.Reverse();
        sums.Reverse();
        int classes = 0;
        for (int at = 0; at < Classes; at++)
        {
            if (tokens[at] > 0)
            {
                tokens[classes] = tokens[at];
                counts[classes] = counts[at];
                sums[classes++] = sums[at];
            }
        }

        return classes;
    }

    /// <summary>
    /// The smallest length that gives no more than this many items, where a sequence that is not cut counts as many as said, and the
    /// items have this many tokens at least.
    /// </summary>
    private static int Smallest(ReadOnlySpan<int> tokens, ReadOnlySpan<int> counts, long total, long maxItems, int uncut)
    {
        int high = DecodePlanner.RoundUp(tokens[0]) / DecodePlanner.TileTokens;
        int low = (int)Math.Clamp(total / Math.Max(1, maxItems) / DecodePlanner.TileTokens, 1, high);
        while (low < high)
        {
            int middle = (low + high) / 2;
            int chunk = middle * DecodePlanner.TileTokens;
            long items = 0;
            for (int i = 0; i < tokens.Length && items <= maxItems; i++)
            {
                items += (long)counts[i] * (tokens[i] <= chunk ? uncut : DecodePlanner.Parts(tokens[i], chunk));
            }

            (low, high) = items <= maxItems ? (low, middle) : (middle + 1, high);
        }

        return low * DecodePlanner.TileTokens;
    }

    /// <summary>Slots that parts of up to this length need at most.</summary>
    private static long Slots(ReadOnlySpan<int> tokens, ReadOnlySpan<int> counts, int chunk)
    {
        long slots = 0;
        for (int i = 0; i < tokens.Length && tokens[i] > chunk; i++)
        {
            slots += (long)counts[i] * DecodePlanner.Parts(tokens[i], chunk);
        }

        return slots;
    }

    /// <summary>The time until the last block is done, more for what the busiest has above the mean, and what cutting costs.</summary>
    private static double Cost(
        ReadOnlySpan<int> tokens,
        ReadOnlySpan<int> counts,
        ReadOnlySpan<long> sums,
        int chunk,
        in DecodePlanLimits limits
    )
    {
        double total = 0;
        long units = 0;
        bool splits = false;
        Span<double> loads = stackalloc double[Samples];
        Span<long> taken = stackalloc long[Samples];
        loads.Clear();
        taken.Clear();
        long pair = 2L * limits.Blocks;
        for (int i = 0; i < tokens.Length; i++)
        {
            int parts = DecodePlanner.Parts(tokens[i], chunk);
            long expanded = (long)counts[i] * parts * limits.UnitsPerItem;
            double size = (sums[i] / (double)((long)counts[i] * parts)) + UnitCost + (parts > 1 ? PartCost : 0);
            units += expanded;
            splits |= parts > 1;
            total += expanded * size;

            // Units are dealt there and back: of every two rounds a block gets two, and of a last, begun pair of rounds up to two.
            long pairs = units / pair;
            long rest = units - (pairs * pair);
            for (int sample = 0; sample < Samples; sample++)
            {
                int block = sample * (limits.Blocks - 1) / (Samples - 1);
                long takes = (2 * pairs) + (rest > block ? 1 : 0) + (rest > pair - 1 - block ? 1 : 0);
                loads[sample] += (takes - taken[sample]) * size;
                taken[sample] = takes;
            }
        }

        double mean = total / limits.Blocks;
        double cost = Drain(loads) + (ImbalanceCost * Math.Max(0, loads[Samples - 1] - mean));
        if (splits)
        {
            cost += SplitCost;
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
}
