using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace FlashInfer.Planning;

/// <summary>What a step comes to. Tokens of work are those that each tile sees.</summary>
/// <param name="Sequences">Sequences that have query tokens.</param>
/// <param name="Streaming">Those of one tile: their keys and values are read once.</param>
/// <param name="Tiles">Tiles of all sequences.</param>
/// <param name="Longest">The most tokens that a tile sees: those of the longest sequence, unless the first keys are bounded.</param>
/// <param name="LongestStreaming">The same of the sequences of one tile.</param>
/// <param name="TotalTokens">Tokens of all sequences, from the first on that a query token sees.</param>
/// <param name="Tokens">Tokens of work, of one head tile.</param>
/// <param name="StreamingTokens">Those of the sequences of one tile.</param>
internal readonly record struct PrefillWork(
    int Sequences,
    int Streaming,
    int Tiles,
    int Longest,
    int LongestStreaming,
    long TotalTokens,
    long Tokens,
    long StreamingTokens
)
{
    public static PrefillWork Of(in PrefillBatch batch, in PrefillPlanLimits limits) =>
        batch.SeesBeginnings ? OfWhole(batch, limits) : OfRanges(batch, limits);

    /// <summary>
    /// Where tiles see their sequences from the first token on, four sequences at a time. Doubles divide, and hold these numbers exactly.
    /// </summary>
    private static PrefillWork OfWhole(in PrefillBatch batch, in PrefillPlanLimits limits)
    {
        Vector256<double> zero = Vector256<double>.Zero;
        Vector256<double> one = Vector256<double>.One;
        Vector256<double> tileTokens = Vector256.Create((double)limits.TileTokens);
        Vector256<double> sequences = zero;
        Vector256<double> streaming = zero;
        Vector256<double> tiles = zero;
        Vector256<double> longest = zero;
        Vector256<double> longestStreaming = zero;
        Vector256<double> total = zero;
        Vector256<double> work = zero;
        Vector256<double> streamingWork = zero;
        for (int i = 0; i < batch.Lengths.Length; i += Vector256<double>.Count)
        {
            Vector256<double> queryTokens = Load(batch.QueryTokens[i..]);
            Vector256<double> attends = Vector256.GreaterThan(queryTokens, zero);
            Vector256<double> streams = attends & Vector256.LessThanOrEqual(queryTokens, tileTokens);
            Vector256<double> length = Load(batch.Lengths[i..]) & attends;
            Vector256<double> own = Vector256.Ceiling(queryTokens / tileTokens);
            Vector256<double> walked = own * length;
            if (batch.Causal)
            {
                // As PrefillBatch.Walked.
                Vector256<double> seen = Vector256.Min(queryTokens, length);
                walked = (own * (length - seen)) + Vector256.Floor(seen * (seen + tileTokens) / (tileTokens + tileTokens));
                walked = Vector256.ConditionalSelect(streams, length, walked);
            }

            sequences += one & attends;
            streaming += one & streams;
            tiles += own;
            longest = Vector256.Max(longest, length);
            longestStreaming = Vector256.Max(longestStreaming, length & streams);
            total += length;
            work += walked;
            streamingWork += length & streams;
        }

        return new PrefillWork(
            (int)Vector256.Sum(sequences),
            (int)Vector256.Sum(streaming),
            (int)Vector256.Sum(tiles),
            Most(longest),
            Most(longestStreaming),
            (long)Vector256.Sum(total),
            (long)Vector256.Sum(work),
            (long)Vector256.Sum(streamingWork)
        );
    }

    /// <summary>The first four numbers; zeros behind the last one.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<double> Load(ReadOnlySpan<int> numbers)
    {
        Vector128<int> four =
            numbers.Length >= 4
                ? Vector128.Create(numbers)
                : Vector128.Create(numbers[0], numbers.Length > 1 ? numbers[1] : 0, numbers.Length > 2 ? numbers[2] : 0, 0);
        return Vector256.ConvertToDouble(Vector256.WidenLower(four.ToVector256Unsafe()));
    }

    private static int Most(Vector256<double> numbers) => (int)Math.Max(Math.Max(numbers[0], numbers[1]), Math.Max(numbers[2], numbers[3]));

    /// <summary>Where the first keys are bounded, or some are skipped, tile by tile.</summary>
    private static PrefillWork OfRanges(in PrefillBatch batch, in PrefillPlanLimits limits)
    {
        int sequences = 0;
        int streaming = 0;
        int tiles = 0;
        int longest = 0;
        int longestStreaming = 0;
        long total = 0;
        long work = 0;
        long streamingWork = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            int queryTokens = batch.QueryTokens[i];
            if (queryTokens == 0)
            {
                continue;
            }

            int own = PrefillPlanner.Tiles(queryTokens, limits);
            sequences++;
            tiles += own;
            TileRange first = batch.Range(i, 0, limits);
            total += batch.Lengths[i] - first.Begin;
            if (own == 1)
            {
                streaming++;
                total -= first.Skipped;
                longestStreaming = Math.Max(longestStreaming, first.Tokens);
                streamingWork += first.Tokens;
            }

            for (int token = 0; token < queryTokens; token += limits.TileTokens)
            {
                int range = batch.Range(i, token, limits).Tokens;
                longest = Math.Max(longest, range);
                work += range;
            }
        }

        return new PrefillWork(sequences, streaming, tiles, longest, longestStreaming, total, work, streamingWork);
    }
}
