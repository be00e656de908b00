using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashInfer;

/// <summary>
/// A bfloat16: the upper 16 bits of an IEEE 754 single, so 1 sign bit, 8 exponent bits and 7 mantissa bits: the range of
/// <see cref="float"/> with about 2 to 3 decimal digits. Arithmetic is done in <see cref="float"/>, to which it converts without loss.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public readonly struct BFloat16 : IEquatable<BFloat16>, IComparable<BFloat16>, IComparable, ISpanFormattable
{
    private const ushort SignMask = 0x8000;
    private const ushort InfinityBits = 0x7F80;
    private const uint QuietBit = 0x0040;

    private BFloat16(ushort bits) => Bits = bits;

    /// <summary>Positive zero.</summary>
    public static BFloat16 Zero => default;

    /// <summary>One.</summary>
    public static BFloat16 One => new(0x3F80);

    /// <summary>A quiet NaN; <c>(BFloat16)float.NaN</c>.</summary>
    public static BFloat16 NaN => new(0xFFC0);

    /// <summary>Positive infinity.</summary>
    public static BFloat16 PositiveInfinity => new(InfinityBits);

    /// <summary>Negative infinity.</summary>
    public static BFloat16 NegativeInfinity => new(SignMask | InfinityBits);

    /// <summary>The largest finite value, about 3.39e38.</summary>
    public static BFloat16 MaxValue => new(0x7F7F);

    /// <summary>The smallest finite value, about -3.39e38.</summary>
    public static BFloat16 MinValue => new(0xFF7F);

    /// <summary>The smallest positive value, 2^-133; as with <see cref="Half.Epsilon"/>, not the distance from 1 to the next value.</summary>
    public static BFloat16 Epsilon => new(0x0001);

    /// <summary>The 16 bits: sign, exponent, mantissa.</summary>
    public ushort Bits { get; }

    /// <summary>The value that has these 16 bits.</summary>
    /// <param name="bits">Sign, exponent, mantissa.</param>
    public static BFloat16 FromBits(ushort bits) => new(bits);

    /// <summary>Whether the value is NaN.</summary>
    /// <param name="value">The value.</param>
    public static bool IsNaN(BFloat16 value) => (value.Bits & ~SignMask) > InfinityBits;

    /// <summary>Whether the value is neither NaN nor infinite.</summary>
    /// <param name="value">The value.</param>
    public static bool IsFinite(BFloat16 value) => (value.Bits & ~SignMask) < InfinityBits;

    /// <summary>Converts without loss.</summary>
    /// <param name="value">The value.</param>
    public static implicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value.Bits << 16);

    /// <summary>Rounds to the nearest value, ties to even. What is beyond the range becomes infinite; a NaN stays one and becomes quiet.</summary>
    /// <param name="value">The value.</param>
    public static explicit operator BFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value))
        {
            // Rounding could carry a NaN's mantissa into the exponent and make it a zero or an infinity.
            return new BFloat16((ushort)((bits >> 16) | QuietBit));
        }

        return new BFloat16((ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16));
    }

    /// <summary>Rounds to the nearest value, ties to even, in one step (not by way of <see cref="float"/>).</summary>
    /// <param name="value">The value.</param>
    public static explicit operator BFloat16(double value)
    {
        float single = (float)value;
        if (single != value && !double.IsNaN(value))
        {
            // Two roundings in a row can miss the nearest value. Rounding the first one to odd cannot: truncate towards zero and
            // remember in the last bit that something was cut off.
            uint bits = BitConverter.SingleToUInt32Bits(single);
            if (Math.Abs((double)single) > Math.Abs(value))
            {
                bits--;
            }

            single = BitConverter.UInt32BitsToSingle(bits | 1);
        }

        return (BFloat16)single;
    }

    /// <summary>IEEE equality: NaN equals nothing, the two zeros are equal.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator ==(BFloat16 left, BFloat16 right) => (float)left == (float)right;

    /// <summary>The negation of IEEE equality.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator !=(BFloat16 left, BFloat16 right) => (float)left != (float)right;

    /// <summary>IEEE comparison: false when a value is NaN.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator <(BFloat16 left, BFloat16 right) => (float)left < (float)right;

    /// <summary>IEEE comparison: false when a value is NaN.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator >(BFloat16 left, BFloat16 right) => (float)left > (float)right;

    /// <summary>IEEE comparison: false when a value is NaN.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator <=(BFloat16 left, BFloat16 right) => (float)left <= (float)right;

    /// <summary>IEEE comparison: false when a value is NaN.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator >=(BFloat16 left, BFloat16 right) => (float)left >= (float)right;

    /// <summary>Converts many without loss.</summary>
    /// <param name="source">The values.</param>
    /// <param name="destination">Where they go; as long as <paramref name="source"/> and not overlapping it.</param>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static void Convert(ReadOnlySpan<BFloat16> source, Span<float> destination)
    {
        CheckLengths(source.Length, destination.Length);
        ReadOnlySpan<ushort> from = MemoryMarshal.Cast<BFloat16, ushort>(source);
        Span<uint> to = MemoryMarshal.Cast<float, uint>(destination);
        ref ushort first = ref MemoryMarshal.GetReference(from);
        ref uint firstTo = ref MemoryMarshal.GetReference(to);

        int i = 0;
        for (; i <= from.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Vector.Widen(Vector.LoadUnsafe(ref first, (nuint)i), out Vector<uint> low, out Vector<uint> high);
            (low << 16).StoreUnsafe(ref firstTo, (nuint)i);
            (high << 16).StoreUnsafe(ref firstTo, (nuint)(i + Vector<uint>.Count));
        }

        for (; i < from.Length; i++)
        {
            to[i] = (uint)from[i] << 16;
        }
    }

    /// <summary>Rounds many as the conversion of one does.</summary>
    /// <param name="source">The values.</param>
    /// <param name="destination">Where they go; as long as <paramref name="source"/> and not overlapping it.</param>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static void Convert(ReadOnlySpan<float> source, Span<BFloat16> destination)
    {
        CheckLengths(source.Length, destination.Length);
        Span<ushort> to = MemoryMarshal.Cast<BFloat16, ushort>(destination);
        ref uint first = ref Unsafe.As<float, uint>(ref MemoryMarshal.GetReference(source));
        ref ushort firstTo = ref MemoryMarshal.GetReference(to);

        int i = 0;
        for (; i <= to.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Vector<uint> low = Round(Vector.LoadUnsafe(ref first, (nuint)i));
            Vector<uint> high = Round(Vector.LoadUnsafe(ref first, (nuint)(i + Vector<uint>.Count)));
            Vector.Narrow(low, high).StoreUnsafe(ref firstTo, (nuint)i);
        }

        for (; i < to.Length; i++)
        {
            destination[i] = (BFloat16)source[i];
        }
    }

    /// <summary>Whether both are the same number or both NaN, so that a value equals itself.</summary>
    /// <param name="other">The other value.</param>
    public bool Equals(BFloat16 other) => this == other || (IsNaN(this) && IsNaN(other));

    /// <inheritdoc/>
    public override bool Equals([NotNullWhen(true)] object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode()
    {
        // All NaNs are equal, and so are the two zeros.
        bool isNaNOrZero = ((Bits - 1) & ~SignMask & 0xFFFF) >= InfinityBits;
        return isNaNOrZero ? Bits & InfinityBits : Bits;
    }

    /// <summary>Orders values by size, with NaN before everything else.</summary>
    /// <param name="other">The other value.</param>
    public int CompareTo(BFloat16 other) => ((float)this).CompareTo(other);

    /// <inheritdoc/>
    public int CompareTo(object? obj) =>
        obj switch
        {
            null => 1,
            BFloat16 other => CompareTo(other),
            _ => throw new ArgumentException($"Expected a {nameof(BFloat16)}, not a {obj.GetType()}.", nameof(obj)),
        };

    /// <summary>The value as <see cref="float"/> writes it.</summary>
    public override string ToString() => ((float)this).ToString(CultureInfo.InvariantCulture);

    /// <inheritdoc/>
    public string ToString(string? format, IFormatProvider? formatProvider) => ((float)this).ToString(format, formatProvider);

    /// <inheritdoc/>
    public bool TryFormat(Span<char> destination, out int charsWritten, ReadOnlySpan<char> format, IFormatProvider? provider) =>
        ((float)this).TryFormat(destination, out charsWritten, format, provider);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<uint> Round(Vector<uint> bits)
    {
        Vector<uint> upper = bits >> 16;
        Vector<uint> rounded = (bits + new Vector<uint>(0x7FFF) + (upper & Vector<uint>.One)) >> 16;
        Vector<uint> isNaN = Vector.GreaterThan(bits & new Vector<uint>(0x7FFF_FFFF), new Vector<uint>(0x7F80_0000));
        return Vector.ConditionalSelect(isNaN, upper | new Vector<uint>(QuietBit), rounded);
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
