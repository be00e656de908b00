using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>How the sequences of a step are cut, and who takes the parts.</summary>
/// <param name="ChunkTokens">Tokens of a part at most.</param>
/// <param name="Cluster">As <see cref="DecodePlan.Cluster"/>.</param>
/// <param name="TeamUnits">As <see cref="DecodePlan.TeamUnits"/>.</param>
internal readonly record struct DecodeCut(int ChunkTokens, int Cluster = 1, bool TeamUnits = false)
{
    /// <summary>The first of the sequences, up to the last, that are cut into shorter parts.</summary>
    public int TailFirst { get; init; } = int.MaxValue;

    /// <summary>Tokens of a part of those at most.</summary>
    public int TailTokens { get; init; } = int.MaxValue;
}

/// <summary>Writes the items of a decode plan, the longest first.</summary>
internal static class DecodeEmitter
{
    private const int SortBuckets = 256;

    /// <summary>Writes the items.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="cut">How they are cut; batch-invariant plans ask its <see cref="DecodeCut.ChunkTokens"/> for the order only.</param>
    /// <param name="total">Tokens of all sequences.</param>
    /// <param name="longest">Tokens of the longest.</param>
    /// <param name="limits">Machine and kernel.</param>
    /// <param name="items">Receives the items.</param>
    public static DecodePlan Emit(
        in DecodeBatch batch,
        in DecodeCut cut,
        long total,
        int longest,
        in DecodePlanLimits limits,
        Span<WorkItem> items
    )
    {
        int chunk = cut.ChunkTokens;
        ReadOnlySpan<int> lengths = batch.Lengths;
        ReadOnlySpan<int> pageOffsets = batch.PageOffsets;
        ReadOnlySpan<int> queryTokens = batch.QueryTokens;
        bool invariant = limits.Determinism == Determinism.BatchInvariant;

        // Up to here nothing is cut.
        int uncut = invariant ? DecodePlanner.InvariantChunkTokens : Math.Min(chunk, cut.TailTokens);

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
                int parts = length <= uncut ? 1 : Parts(length, i, cut, limits);
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

        if (longest <= uncut && queryTokens.IsEmpty && batch.Begins.IsEmpty && batch.Rows.IsEmpty)
        {
            EmitWhole(lengths, pageOffsets, shift, starts, items);
            return new DecodePlan(next, 0, cut.Cluster, cut.TeamUnits, chunk, 0, total);
        }

        int slots = 0;
        int split = 0;
        int behind = 0;
        for (int i = 0; i < lengths.Length; i++)
        {
            int length = lengths[i];
            int row = batch.Rows.IsEmpty ? behind : batch.Rows[i];
            int rows = queryTokens.IsEmpty ? 1 : queryTokens[i];
            int first = batch.Begins.IsEmpty ? 0 : batch.Begins[i];
            int visible = first + length + (batch.Causal ? 1 - rows : 0);
            int parts = length <= uncut ? 1 : Parts(length, i, cut, limits);
            ref int start = ref starts[Bucket(length, parts, shift)];
            if (parts == 1)
            {
                items[start++].Write(row, first, first + length, pageOffsets[i], slots, 0, 1, rows, visible);
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
                    items[start++].Write(row, begin, end, pageOffsets[i], slots, part, parts, rows, visible);
                    begin = end;
                }

                slots += parts;
                split++;
            }

            behind = row + rows;
        }

        return new DecodePlan(next, slots, cut.Cluster, cut.TeamUnits, chunk, split, total);
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
            items[starts[length >> shift]++].Write(row, 0, length, pageOffsets[row], 0, 0, 1, 1, length);
        }
    }

    private static int Parts(int length, int sequence, in DecodeCut cut, in DecodePlanLimits limits) =>
        limits.Determinism == Determinism.BatchInvariant
            ? DecodePlanner.InvariantParts(length, limits)
            : DecodePlanner.Parts(length, sequence < cut.TailFirst ? cut.ChunkTokens : cut.TailTokens);

    private static int Bucket(int length, int parts, int shift) =>
        Math.Min(SortBuckets - 1, (parts == 1 ? length : (int)((uint)length / (uint)parts)) >> shift);
}
