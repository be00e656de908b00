using System.Numerics.Tensors;
using System.Runtime.CompilerServices;

namespace FlashInfer.Cpu;

/// <summary>How elements lie in memory; a struct as type argument specialises the inner loops.</summary>
internal unsafe interface IElement
{
    /// <summary>Bytes of one element.</summary>
    static abstract int Size { get; }

    /// <summary>Tiles of query heads above which widening a block of rows once beats widening while loading, tile by tile; measured.</summary>
    static abstract int TilesOnTheFly { get; }

    /// <summary>Loads a vector of elements and widens them.</summary>
    static abstract TVector Load<TSimd, TVector>(byte* source)
        where TSimd : ISimd<TVector>
        where TVector : struct;
}

/// <summary>Elements that query and output may have.</summary>
internal unsafe interface IQueryElement : IElement
{
    static abstract void Widen(byte* source, float* destination, int count);

    /// <summary>Rounds once, to nearest even.</summary>
    static abstract void Narrow(float* source, byte* destination, int count);
}

/// <summary><see cref="System.Half"/>.</summary>
internal readonly unsafe struct HalfElement : IQueryElement
{
    public static int Size => 2;

    public static int TilesOnTheFly => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TSimd, TVector>(byte* source)
        where TSimd : ISimd<TVector>
        where TVector : struct => TSimd.LoadHalf((ushort*)source);

    public static void Widen(byte* source, float* destination, int count) =>
        TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>(source, count), new Span<float>(destination, count));

    public static void Narrow(float* source, byte* destination, int count) =>
        TensorPrimitives.ConvertToHalf(new ReadOnlySpan<float>(source, count), new Span<Half>(destination, count));
}

/// <summary><see cref="BFloat16"/>.</summary>
internal readonly unsafe struct BFloat16Element : IQueryElement
{
    public static int Size => 2;

    public static int TilesOnTheFly => int.MaxValue;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TSimd, TVector>(byte* source)
        where TSimd : ISimd<TVector>
        where TVector : struct => TSimd.LoadBFloat16((ushort*)source);

    public static void Widen(byte* source, float* destination, int count) =>
        BFloat16.Convert(new ReadOnlySpan<BFloat16>(source, count), new Span<float>(destination, count));

    public static void Narrow(float* source, byte* destination, int count) =>
        BFloat16.Convert(new ReadOnlySpan<float>(source, count), new Span<BFloat16>(destination, count));
}

/// <summary><see cref="float"/>: rows that have been widened already, and merged states.</summary>
internal readonly unsafe struct SingleElement : IQueryElement
{
    public static int Size => 4;

    public static int TilesOnTheFly => int.MaxValue;

    public static void Widen(byte* source, float* destination, int count) =>
        new ReadOnlySpan<float>(source, count).CopyTo(new Span<float>(destination, count));

    public static void Narrow(float* source, byte* destination, int count) =>
        new ReadOnlySpan<float>(source, count).CopyTo(new Span<float>(destination, count));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TSimd, TVector>(byte* source)
        where TSimd : ISimd<TVector>
        where TVector : struct => TSimd.Load((float*)source);
}

/// <summary><see cref="Float8E4M3"/> or <see cref="Float8E5M2"/>, without its scale.</summary>
internal readonly unsafe struct Float8Element<TFormat> : IElement
    where TFormat : struct, IFloat8Format
{
    public static int Size => 1;

    // Not measured: widening takes the steps that it takes for half precision.
    public static int TilesOnTheFly => HalfElement.TilesOnTheFly;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TSimd, TVector>(byte* source)
        where TSimd : ISimd<TVector>
        where TVector : struct => TSimd.LoadFloat8<TFormat>(source);
}

/// <summary>Constants for widening half precision.</summary>
internal static class HalfBits
{
    /// <summary>2^(127 - 15): the difference of the exponents' biases.</summary>
    public const float Rebias = 5.192296858534828e33f;

    /// <summary>What the smallest pattern with the largest exponent, an infinity, becomes after <see cref="Rebias"/>.</summary>
    public const float FirstSpecial = 65536f;
}
