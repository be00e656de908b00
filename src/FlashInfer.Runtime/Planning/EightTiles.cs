using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace FlashInfer.Planning;

/// <summary>Up to eight tiles of a sequence, one behind the other.</summary>
internal struct EightTiles
{
    public const int Most = 8;

    /// <summary>The first one's item, but for its end.</summary>
    public Vector256<int> Item;

    /// <summary>Where they stand in the order.</summary>
    public Vector256<int> Ranks;

    /// <summary>Where they end.</summary>
    public Vector256<int> Ends;

    public int Count;

    /// <summary>Query tokens of the last one; the others are whole.</summary>
    public int LastTokens;

    /// <summary><see cref="Ranks"/>, one by one.</summary>
    [UnscopedRef]
    public Span<int> RankOf => Elements(ref Ranks);

    /// <summary><see cref="Ends"/>, one by one.</summary>
    [UnscopedRef]
    public Span<int> EndOf => Elements(ref Ends);

    private static Span<int> Elements(ref Vector256<int> vector) =>
        MemoryMarshal.CreateSpan(ref Unsafe.As<Vector256<int>, int>(ref vector), Most);
}
