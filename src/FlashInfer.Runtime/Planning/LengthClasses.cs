using System.Runtime.Intrinsics;

namespace FlashInfer.Planning;

/// <summary>
/// The sequences of a step in classes of about equal length, longest first: what the planner's model looks at, whatever the size of the
/// batch. Numbers are whole, but stand as doubles, which vectors divide.
/// </summary>
/// <param name="memory">Room for 3 * <see cref="Most"/> numbers.</param>
internal ref struct LengthClasses(Span<double> memory)
{
    /// <summary>The most classes; whole vectors, of which the last may have places that count nothing.</summary>
    public const int Most = 1 << Bits;

    private const int Bits = 4;

    // A sequence, above the tokens of up to 65,536.
    private const ulong One = 1UL << 47;

    /// <summary>Tokens of the longest sequence of each class.</summary>
    public readonly Span<double> Tokens = memory[..Most];

    /// <summary>Sequences of each class.</summary>
    public readonly Span<double> Counts = memory.Slice(Most, Most);

    /// <summary>Tokens of all sequences of each class.</summary>
    public readonly Span<double> Sums = memory.Slice(2 * Most, Most);

    /// <summary>Classes that have tokens.</summary>
    public int Count { get; private set; }

    /// <summary>Sorts sequences into the classes.</summary>
    public void Fill(ReadOnlySpan<int> lengths, int longest)
    {
        int shift = Math.Max(0, 32 - int.LeadingZeroCount(longest) - Bits);
        Span<int> tokens = stackalloc int[Most];
        Span<ulong> totals = stackalloc ulong[Most];
        tokens.Clear();
        totals.Clear();
        foreach (int length in lengths)
        {
            int at = length >> shift;
            totals[at] += One + (uint)length;
            tokens[at] = Math.Max(tokens[at], length);
        }

        Tokens.Clear();
        Counts.Clear();
        Sums.Clear();
        Count = 0;
        for (int at = Most - 1; at >= 0; at--)
        {
            if (tokens[at] > 0)
            {
                (Tokens[Count], Counts[Count], Sums[Count]) = (tokens[at], totals[at] / One, totals[at] % One);
                Count++;
            }
        }
    }

    /// <summary>Parts of up to this many tokens that the longest sequences of four classes have.</summary>
    public readonly Vector256<double> Parts(int first, int chunk) =>
        // Exact: the quotient of two ints is a whole number or further from one than a double's rounding.
        Vector256.Ceiling(Vector256.Create<double>(Tokens[first..]) / Vector256.Create((double)chunk));

    /// <summary>Parts of up to this many tokens that all sequences have at most.</summary>
    /// <param name="chunk">Tokens.</param>
    /// <param name="countsUncut">Whether sequences that are not cut count as one part, or not at all.</param>
    public readonly double Items(int chunk, bool countsUncut)
    {
        Vector256<double> items = Vector256<double>.Zero;
        Vector256<double> least = Vector256.Create(countsUncut ? 0.0 : 1.0);
        for (int i = 0; i < Count; i += Vector256<double>.Count)
        {
            Vector256<double> parts = Parts(i, chunk);
            items += (parts & Vector256.GreaterThan(parts, least)) * Vector256.Create<double>(Counts[i..]);
        }

        return Vector256.Sum(items);
    }
}
