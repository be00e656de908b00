using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Runtime.InteropServices;

namespace FlashInfer;

/// <summary>
/// An 8-bit float of 1 sign bit, 4 exponent bits and 3 mantissa bits: up to 448, without infinity (E4M3FN of other libraries). About one
/// decimal digit: an element type of quantised KV caches. Arithmetic is done in <see cref="float"/>, to which it converts without loss.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public readonly struct Float8E4M3 : IEquatable<Float8E4M3>, ISpanFormattable
{
    private Float8E4M3(byte bits) => Bits = bits;

    /// <summary>Positive zero.</summary>
    public static Float8E4M3 Zero => default;

    /// <summary>One.</summary>
    public static Float8E4M3 One => new(0x38);

    /// <summary>The NaN that conversions give.</summary>
    public static Float8E4M3 NaN => new(Float8<E4M3Format>.NaN);

    /// <summary>The largest finite value, 448.</summary>
    public static Float8E4M3 MaxValue => new(0x7E);

    /// <summary>The smallest finite value, -448.</summary>
    public static Float8E4M3 MinValue => new(0xFE);

    /// <summary>The smallest positive value, 2^-9; as with <see cref="Half.Epsilon"/>, not the distance from 1 to the next value.</summary>
    public static Float8E4M3 Epsilon => new(0x01);

    /// <summary>The 8 bits: sign, exponent, mantissa.</summary>
    public byte Bits { get; }

    /// <summary>The value that has these 8 bits.</summary>
    /// <param name="bits">Sign, exponent, mantissa.</param>
    public static Float8E4M3 FromBits(byte bits) => new(bits);

    /// <summary>Whether the value is NaN.</summary>
    /// <param name="value">The value.</param>
    public static bool IsNaN(Float8E4M3 value) => (value.Bits & 0x7F) == 0x7F;

    /// <summary>Whether the value is not NaN: there are no infinities.</summary>
    /// <param name="value">The value.</param>
    public static bool IsFinite(Float8E4M3 value) => !IsNaN(value);

    /// <summary>Converts without loss.</summary>
    /// <param name="value">The value.</param>
    public static implicit operator float(Float8E4M3 value) => Float8<E4M3Format>.Widen(value.Bits);

    /// <summary>
    /// Rounds to the nearest value, ties to even. What is beyond the range, infinities included, becomes the largest finite value of its
    /// sign, as with the conversion of GPUs (<c>cvt.rn.satfinite</c>); NaN becomes <see cref="NaN"/>.
    /// </summary>
    /// <param name="value">The value.</param>
    public static explicit operator Float8E4M3(float value) => new(Float8<E4M3Format>.Round(value));

    /// <summary>IEEE equality: NaN equals nothing, the two zeros are equal.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator ==(Float8E4M3 left, Float8E4M3 right) => (float)left == (float)right;

    /// <summary>The negation of IEEE equality.</summary>
    /// <param name="left">One value.</param>
    /// <param name="right">The other.</param>
    public static bool operator !=(Float8E4M3 left, Float8E4M3 right) => (float)left != (float)right;

    /// <summary>Converts many without loss.</summary>
    /// <param name="source">The values.</param>
    /// <param name="destination">Where they go; as long as <paramref name="source"/> and not overlapping it.</param>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static void Convert(ReadOnlySpan<Float8E4M3> source, Span<float> destination) =>
        Float8<E4M3Format>.Widen(MemoryMarshal.Cast<Float8E4M3, byte>(source), destination);

    /// <summary>Rounds many as the conversion of one does.</summary>
    /// <param name="source">The values.</param>
    /// <param name="destination">Where they go; as long as <paramref name="source"/> and not overlapping it.</param>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static void Convert(ReadOnlySpan<float> source, Span<Float8E4M3> destination) =>
        Float8<E4M3Format>.Round(source, MemoryMarshal.Cast<Float8E4M3, byte>(destination));

    /// <summary>Whether both are the same number or both NaN, so that a value equals itself.</summary>
    /// <param name="other">The other value.</param>
    public bool Equals(Float8E4M3 other) => ((float)this).Equals(other);

    /// <inheritdoc/>
    public override bool Equals([NotNullWhen(true)] object? obj) => obj is Float8E4M3 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => ((float)this).GetHashCode();

    /// <summary>The value as <see cref="float"/> writes it.</summary>
    public override string ToString() => ((float)this).ToString(CultureInfo.InvariantCulture);

    /// <inheritdoc/>
    public string ToString(string? format, IFormatProvider? formatProvider) => ((float)this).ToString(format, formatProvider);

    /// <inheritdoc/>
    public bool TryFormat(Span<char> destination, out int charsWritten, ReadOnlySpan<char> format, IFormatProvider? provider) =>
        ((float)this).TryFormat(destination, out charsWritten, format, provider);
}
