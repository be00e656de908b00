using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashInfer.Planning;

/// <summary>A sequence of a prefill step that has query tokens, as those need it who count and write its items: in one place, and divided once.</summary>
/// <remarks>Members that an item has, too, stand where it has them: both are a vector register.</remarks>
[StructLayout(LayoutKind.Sequential)]
internal struct TiledSequence
{
    public int Row;

    /// <summary>Tiles of its query tokens.</summary>
    public int Tiles;

    public int Length;
    public int Start;

    /// <summary>What the first tile sees, in tiles, when nothing cuts it: the others see one more each, or as much without a mask.</summary>
    public int FirstTile;

    /// <summary>Which sequence of the step.</summary>
    public int Index;

    public int QueryTokens;

    /// <summary>As <see cref="PrefillBatch.Before"/>.</summary>
    public int Before;

    /// <summary>
    /// Lists the sequences that have query tokens: those of up to so many first, and from the middle of the list on the others. Each is written
    /// before it is known whether it counts: a branch could not be foretold, and would go wrong with every third sequence.
    /// </summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="limits">Says how long tiles are.</param>
    /// <param name="most">Query tokens of the first ones; 0 for none.</param>
    /// <param name="list">Receives them; twice as long as the batch.</param>
    /// <returns>How many there are of both.</returns>
    public static (int First, int Others) List(in PrefillBatch batch, in PrefillPlanLimits limits, int most, Span<TiledSequence> list)
    {
        int count = batch.Lengths.Length;
        ReadOnlySpan<int> lengths = batch.Lengths;
        ReadOnlySpan<int> queryTokens = batch.QueryTokens[..count];
        ReadOnlySpan<int> rows = batch.Rows[..count];
        ReadOnlySpan<int> starts = batch.Starts[..count];
        Divisor tileTokens = new(limits.TileTokens);
        int step = batch.Causal ? 1 : 0;
        int some = 0;
        int others = 0;
        for (int i = 0; i < lengths.Length; i++)
        {
            int tokens = queryTokens[i];
            int length = lengths[i];
            int before = length - (tokens * step);
            int isAny = -tokens >>> 31;
            int isOther = (most - tokens) >>> 31;
            ref TiledSequence sequence = ref list[some + ((count + others - some) * isOther)];
            int first = tileTokens.Quotient(Math.Max(0, before)) + step;
            sequence.Write(rows[i], tileTokens.Ceiling(tokens), length, starts[i], first, i, tokens, before);
            others += isOther;
            some += isAny - isOther;
        }

        return (some, others);
    }

    /// <summary>Members in pairs, which are half as many stores.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Write(int row, int tiles, int length, int start, int firstTile, int index, int queryTokens, int before)
    {
        ref ulong members = ref Unsafe.As<TiledSequence, ulong>(ref this);
        members = (uint)row | ((ulong)(uint)tiles << 32);
        Unsafe.Add(ref members, 1) = (uint)length | ((ulong)(uint)start << 32);
        Unsafe.Add(ref members, 2) = (uint)firstTile | ((ulong)(uint)index << 32);
        Unsafe.Add(ref members, 3) = (uint)queryTokens | ((ulong)(uint)before << 32);
    }
}
