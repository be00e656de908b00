using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashInfer;

/// <summary>What tells the two 8-bit floats apart. Both have a sign bit, 7 - m exponent bits with bias 2^(6-m) - 1, and m mantissa bits.</summary>
internal interface IFloat8Format
{
    /// <summary>m.</summary>
    static abstract int MantissaBits { get; }

    /// <summary>The largest finite value.</summary>
    static abstract float MaxValue { get; }

    /// <summary>What the first pattern that is no finite value would be worth if its exponent were one like the others.</summary>
    static abstract float FirstSpecial { get; }

    /// <summary>The single whose bits make a special value of such a one.</summary>
    static abstract float Special { get; }
}

/// <summary>See <see cref="Float8E4M3"/>: everything ones is NaN, and every other pattern is a number.</summary>
internal readonly struct E4M3Format : IFloat8Format
{
    public static int MantissaBits => 3;

    public static float MaxValue => 448f;

    public static float FirstSpecial => 480f;

    public static float Special => float.NaN;
}

/// <summary>See <see cref="Float8E5M2"/>: the upper half of a <see cref="Half"/>, infinity and NaN included.</summary>
internal readonly struct E5M2Format : IFloat8Format
{
    public static int MantissaBits => 2;

    public static float MaxValue => 57344f;

    public static float FirstSpecial => 65536f;

    public static float Special => float.PositiveInfinity;
}

/// <summary>Conversions between <see cref="float"/> and the bits of an 8-bit float.</summary>
internal static class Float8<TFormat>
    where TFormat : struct, IFloat8Format
{
    /// <summary>The bits of NaN that conversions give.</summary>
    public const byte NaN = 0x7F;

    private const uint Infinity = 0x7F80_0000;

    /// <summary>From the lowest mantissa bit to that of a single.</summary>
    public static int Shift => 23 - TFormat.MantissaBits;

    /// <summary>Where sign, exponent and mantissa stand in a single once they were shifted (and the sign extended).</summary>
    public static int Mask => int.MinValue | (0x7F << Shift);

    /// <summary>2^(127 - bias): what corrects the exponent of a shifted value, for subnormal ones too.</summary>
    public static float Rebias => BitConverter.Int32BitsToSingle((254 - Bias) << 23);

    private static int Bias => (1 << (6 - TFormat.MantissaBits)) - 1;

    private static uint Largest => BitConverter.SingleToUInt32Bits(TFormat.MaxValue);

    private static uint SmallestNormal => (uint)(128 - Bias) << 23;

    /// <summary>A single whose last place is worth the smallest positive value: adding it rounds a subnormal value.</summary>
    private static uint Magic => (uint)(151 - Bias - TFormat.MantissaBits) << 23;

    /// <summary>Half of a last place, less one: with the last bit kept added to it, ties go to even.</summary>
    private static uint BelowHalf => (1u << (Shift - 1)) - 1;

    private static uint ExponentOffset => (uint)(127 - Bias) << TFormat.MantissaBits;

    /// <summary>Converts without loss.</summary>
    public static float Widen(byte bits)
    {
        float value = BitConverter.Int32BitsToSingle(((sbyte)bits << Shift) & Mask) * Rebias;
        int special = Math.Abs(value) >= TFormat.FirstSpecial ? BitConverter.SingleToInt32Bits(TFormat.Special) : 0;
        return BitConverter.Int32BitsToSingle(BitConverter.SingleToInt32Bits(value) | special);
    }

    /// <summary>Rounds to nearest, ties to even; beyond the largest finite value that one.</summary>
    public static byte Round(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        uint magnitude = bits & 0x7FFF_FFFF;
        if (magnitude > Infinity)
        {
            return NaN;
        }

        magnitude = Math.Min(magnitude, Largest);
        uint rounded =
            magnitude < SmallestNormal
                ? BitConverter.SingleToUInt32Bits(BitConverter.UInt32BitsToSingle(magnitude) + BitConverter.UInt32BitsToSingle(Magic))
                    - Magic
                : ((magnitude + BelowHalf + ((magnitude >> Shift) & 1)) >> Shift) - ExponentOffset;
        return (byte)(((bits >> 24) & 0x80) | rounded);
    }

    /// <summary>Converts many without loss.</summary>
    public static void Widen(ReadOnlySpan<byte> source, Span<float> destination)
    {
        CheckLengths(source.Length, destination.Length);
        ref sbyte first = ref Unsafe.As<byte, sbyte>(ref MemoryMarshal.GetReference(source));
        ref float firstTo = ref MemoryMarshal.GetReference(destination);

        int i = 0;
        for (; i <= source.Length - Vector<sbyte>.Count; i += Vector<sbyte>.Count)
        {
            Vector.Widen(Vector.LoadUnsafe(ref first, (nuint)i), out Vector<short> low, out Vector<short> high);
            Store(low, ref firstTo, i);
            Store(high, ref firstTo, i + Vector<short>.Count);
        }

        for (; i < source.Length; i++)
        {
            destination[i] = Widen(source[i]);
        }
    }

    /// <summary>Rounds many as <see cref="Round(float)"/> does one.</summary>
    public static void Round(ReadOnlySpan<float> source, Span<byte> destination)
    {
        CheckLengths(source.Length, destination.Length);
        ref uint first = ref Unsafe.As<float, uint>(ref MemoryMarshal.GetReference(source));
        ref byte firstTo = ref MemoryMarshal.GetReference(destination);

        int i = 0;
        for (; i <= destination.Length - Vector<byte>.Count; i += Vector<byte>.Count)
        {
            Vector<ushort> low = Round(ref first, i);
            Vector<ushort> high = Round(ref first, i + Vector<ushort>.Count);
            Vector.Narrow(low, high).StoreUnsafe(ref firstTo, (nuint)i);
        }

        for (; i < destination.Length; i++)
        {
            destination[i] = Round(source[i]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(Vector<short> bits, ref float destination, int at)
    {
        Vector.Widen(bits, out Vector<int> low, out Vector<int> high);
        Widen(low).StoreUnsafe(ref destination, (nuint)at);
        Widen(high).StoreUnsafe(ref destination, (nuint)(at + Vector<int>.Count));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<float> Widen(Vector<int> bits)
    {
        Vector<float> value = Vector.AsVectorSingle((bits << Shift) & new Vector<int>(Mask)) * Rebias;
        Vector<int> isSpecial = Vector.GreaterThanOrEqual(Vector.Abs(value), new Vector<float>(TFormat.FirstSpecial));
        return Vector.AsVectorSingle(
            Vector.AsVectorInt32(value) | (isSpecial & new Vector<int>(BitConverter.SingleToInt32Bits(TFormat.Special)))
        );
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<ushort> Round(ref uint source, int at) =>
        Vector.Narrow(
            Round(Vector.LoadUnsafe(ref source, (nuint)at)),
            Round(Vector.LoadUnsafe(ref source, (nuint)(at + Vector<uint>.Count)))
        );

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<uint> Round(Vector<uint> bits)
    {
        Vector<uint> all = bits & new Vector<uint>(0x7FFF_FFFF);
        Vector<uint> magnitude = Vector.Min(all, new Vector<uint>(Largest));
        Vector<uint> magic = new(Magic);
        Vector<uint> subnormal = Vector.AsVectorUInt32(Vector.AsVectorSingle(magnitude) + Vector.AsVectorSingle(magic)) - magic;
        Vector<uint> normal =
            ((magnitude + new Vector<uint>(BelowHalf) + ((magnitude >> Shift) & Vector<uint>.One)) >> Shift)
            - new Vector<uint>(ExponentOffset);
        Vector<uint> rounded = Vector.ConditionalSelect(Vector.LessThan(magnitude, new Vector<uint>(SmallestNormal)), subnormal, normal);
        return Vector.ConditionalSelect(
            Vector.GreaterThan(all, new Vector<uint>(Infinity)),
            new Vector<uint>(NaN),
            rounded | ((bits >> 24) & new Vector<uint>(0x80))
        );
    }

    private static void CheckLengths(int source, int destination)
    {
        if (source != destination)
        {
            throw new ArgumentException(
                $"destination holds {destination} values; expected {source}, as many as source.",
                nameof(destination)
            );
        }
    }
}
