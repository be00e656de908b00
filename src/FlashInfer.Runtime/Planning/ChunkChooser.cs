using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace FlashInfer.Planning;

/// <summary>
/// Chooses how long a part may be: the cheapest of a few lengths by a model of the time that the blocks take together. Works on a
/// histogram of the sequences, so that the cost does not grow with the batch.
/// </summary>
internal static class ChunkChooser
{
    private const int Candidates = 11;

    // Blocks whose loads stand for those of all, and their places in vectors.
    private const int Samples = 17;
    private const int SamplePlaces = 20;

    // In tokens that a block reads at its fair share of the bandwidth; measured on an H100, like the shape of the model.
    private const double UnitCost = 16; // a unit's start and the merge of its warps
    private const double SplitCost = 64; // and out of it, at the very end, of a few parts
    private const double AloneShare = 3.1; // what one block can draw at most, in fair shares
    private const double ImbalanceCost = 0.3; // of what the busiest block has above the mean

    // Sequences this much shorter than what a block has to do even out by themselves.
    private const int ShortShare = 32;

    /// <summary>The length, a multiple of <see cref="DecodePlanLimits.BlockTokens"/>.</summary>
    [SkipLocalsInit]
    public static int Choose(ReadOnlySpan<int> lengths, long total, int longest, int busy, in DecodePlanLimits limits)
    {
        int whole = DecodePlanner.RoundUp(longest, limits);
        long mean = total * limits.UnitsPerItem / limits.Blocks;
        if (longest <= mean / ShortShare)
        {
            return whole;
        }

        LengthClasses classes = new(stackalloc double[3 * LengthClasses.Most]);
        classes.Fill(lengths, longest);
        int best = whole;
        double bestCost = Cost(classes, whole, limits);

        // Where there are enough units for the samples to stand for all blocks, what an even share would cost spares most of the work.
        bool isBounded = (long)busy * limits.UnitsPerItem >= limits.Blocks;
        if (isBounded && bestCost <= Least(total, busy, 0, limits))
        {
            return whole;
        }

        // Parts that fill whole rounds of blocks, those of cut sequences alone (short ones then fill the gaps) or with all others;
        // fractions of a block's mean load; and more than that, for a sequence alone, whose parts one block has to merge.
        long round = Math.Max(1, limits.Blocks / limits.UnitsPerItem);
        int rounds = (int)Math.Max(1, (((long)busy * limits.UnitsPerItem) + limits.Blocks - 1) / limits.Blocks);
        Span<int> candidates = stackalloc int[Candidates]
        {
            Smallest(classes, total, (long)rounds * limits.Blocks / limits.UnitsPerItem, countsUncut: true, limits),
            Smallest(classes, total, (rounds + 1L) * limits.Blocks / limits.UnitsPerItem, countsUncut: true, limits),
            Smallest(classes, total, (rounds + 2L) * limits.Blocks / limits.UnitsPerItem, countsUncut: true, limits),
            Smallest(classes, longest, round, countsUncut: false, limits),
            Smallest(classes, longest, 2 * round, countsUncut: false, limits),
            DecodePlanner.RoundUp(mean * 5 / 4, limits),
            DecodePlanner.RoundUp(mean, limits),
            DecodePlanner.RoundUp(mean / 2, limits),
            DecodePlanner.RoundUp(mean / 4, limits),
            DecodePlanner.RoundUp(mean * 2, limits),
            DecodePlanner.RoundUp(mean * 4, limits),
        };

        for (int i = 0; i < candidates.Length; i++)
        {
            int chunk = candidates[i] = Math.Max(limits.MinChunk, candidates[i]);
            if (chunk >= whole || candidates[..i].Contains(chunk))
            {
                continue;
            }

            double parts = classes.Items(chunk, countsUncut: false);
            if (parts > limits.MaxSlots || (isBounded && Least(total, classes.Items(chunk, countsUncut: true), parts, limits) >= bestCost))
            {
                continue;
            }

            double cost = Cost(classes, chunk, limits);
            if (cost < bestCost)
            {
                (best, bestCost) = (chunk, cost);
            }
        }

        return best;
    }

    /// <summary>What so many items, among them parts of cut sequences, cost at least: that of blocks which share them evenly.</summary>
    private static double Least(long total, double items, double parts, in DecodePlanLimits limits) =>
        ((total + (UnitCost * items) + (limits.PartCost * parts)) * limits.UnitsPerItem / limits.Blocks) + SplitCost;

    /// <summary>The smallest length that gives no more than this many items, which have <paramref name="total"/> tokens at least.</summary>
    private static int Smallest(in LengthClasses classes, long total, long maxItems, bool countsUncut, in DecodePlanLimits limits)
    {
        int block = limits.BlockTokens;
        int high = DecodePlanner.RoundUp((long)classes.Tokens[0], limits) / block;
        int low = (int)Math.Clamp(total / Math.Max(1, maxItems) / block, 1, high);
        while (low < high)
        {
            int middle = (low + high) / 2;
            (low, high) = classes.Items(middle * block, countsUncut) <= maxItems ? (low, middle) : (middle + 1, high);
        }

        return low * block;
    }

    /// <summary>The time until the last block is done, more for what the busiest has above the mean, and what cutting costs.</summary>
    [SkipLocalsInit]
    private static double Cost(in LengthClasses classes, int chunk, in DecodePlanLimits limits)
    {
        Span<double> units = stackalloc double[LengthClasses.Most];
        Span<double> sizes = stackalloc double[LengthClasses.Most];
        for (int i = 0; i < classes.Count; i += Vector256<double>.Count)
        {
            Vector256<double> parts = classes.Parts(i, chunk);
            Vector256<double> items = Vector256.Create<double>(classes.Counts[i..]) * parts;
            Vector256<double> partCost = Vector256.GreaterThan(parts, Vector256<double>.One) & Vector256.Create(limits.PartCost);
            (items * Vector256.Create((double)limits.UnitsPerItem)).CopyTo(units[i..]);
            ((Vector256.Create<double>(classes.Sums[i..]) / items) + Vector256.Create(UnitCost) + partCost).CopyTo(sizes[i..]);
        }

        // Units are dealt there and back: of every two rounds a block gets two, and of a last, begun pair of rounds up to two.
        Span<double> twoRounds = stackalloc double[LengthClasses.Most];
        Span<double> rests = stackalloc double[LengthClasses.Most];
        double pair = 2.0 * limits.Blocks;
        double dealt = 0;
        double total = 0;
        for (int i = 0; i < classes.Count; i++)
        {
            dealt += units[i];
            total += units[i] * sizes[i];
            double pairs = Math.Floor(dealt / pair);
            twoRounds[i] = 2 * pairs;
            rests[i] = dealt - (pairs * pair);
        }

        Span<double> loads = stackalloc double[SamplePlaces];
        for (int sample = 0; sample < SamplePlaces; sample += Vector256<double>.Count)
        {
            Vector256<double> places = Vector256.Create(0.0, 1, 2, 3) + Vector256.Create((double)sample);
            Vector256<double> blocks = Vector256.Floor(places * Vector256.Create((limits.Blocks - 1) / (double)(Samples - 1)));
            Vector256<double> mirrored = Vector256.Create(pair - 1) - blocks;
            Vector256<double> load = Vector256<double>.Zero;
            Vector256<double> taken = Vector256<double>.Zero;
            for (int i = 0; i < classes.Count; i++)
            {
                Vector256<double> rest = Vector256.Create(rests[i]);
                Vector256<double> takes =
                    Vector256.Create(twoRounds[i])
                    + (Vector256.GreaterThan(rest, blocks) & Vector256<double>.One)
                    + (Vector256.GreaterThan(rest, mirrored) & Vector256<double>.One);
                load += (takes - taken) * Vector256.Create(sizes[i]);
                taken = takes;
            }

            load.CopyTo(loads[sample..]);
        }

        loads = loads[..Samples];
        loads.Sort();
        double cost = Drain(loads) + (ImbalanceCost * Math.Max(0, loads[^1] - (total / limits.Blocks)));
        if (classes.Tokens[0] > chunk)
        {
            cost += Math.Max(SplitCost, limits.MergeCost * DecodePlanner.Parts((int)classes.Tokens[0], chunk));
        }

        // A few idle multiprocessors leave their partners' share unused: slower than half of them or none (bandwidth is shared in pairs).
        double idle = Math.Max(0, limits.Blocks - dealt) / limits.Blocks;
        return idle is > 0.11 and < 0.48 ? cost * 1.1 : cost;
    }

    /// <summary>
    /// The time that blocks with these loads, in ascending order, take. They share the bandwidth: when some are done the others become
    /// faster, up to what one block can draw alone.
    /// </summary>
    private static double Drain(ReadOnlySpan<double> loads)
    {
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
