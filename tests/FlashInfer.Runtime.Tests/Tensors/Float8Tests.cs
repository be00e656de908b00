using System.Globalization;
using System.Runtime.InteropServices;

namespace FlashInfer.Tests.Tensors;

/// <summary>Both 8-bit floats against a table of their values, made by the definition of the format in double precision.</summary>
public class Float8Tests
{
    private static readonly Format[] s_formats =
    [
        new(
            "E4M3",
            Table(mantissaBits: 3, bias: 7, finite: 0x7E),
            x => ((Float8E4M3)x).Bits,
            bits => Float8E4M3.FromBits(bits),
            (from, to) => Float8E4M3.Convert(from, MemoryMarshal.Cast<byte, Float8E4M3>(to)),
            (from, to) => Float8E4M3.Convert(MemoryMarshal.Cast<byte, Float8E4M3>(from), to)
        ),
        new(
            "E5M2",
            Table(mantissaBits: 2, bias: 15, finite: 0x7B),
            x => ((Float8E5M2)x).Bits,
            bits => Float8E5M2.FromBits(bits),
            (from, to) => Float8E5M2.Convert(from, MemoryMarshal.Cast<byte, Float8E5M2>(to)),
            (from, to) => Float8E5M2.Convert(MemoryMarshal.Cast<byte, Float8E5M2>(from), to)
        ),
    ];

    private delegate void Narrowing(ReadOnlySpan<float> from, Span<byte> to);

    private delegate void Widening(ReadOnlySpan<byte> from, Span<float> to);

    [Fact]
    public void Every_pattern_is_worth_what_its_bits_say_and_comes_back()
    {
        foreach (Format format in s_formats)
        {
            for (int bits = 0; bits < 256; bits++)
            {
                float value = format.Widen((byte)bits);
                int magnitude = bits & 0x7F;
                if (magnitude < format.Finite.Length)
                {
                    float expected = (float)(bits < 0x80 ? format.Finite[magnitude] : -format.Finite[magnitude]);
                    Assert.Equal(BitConverter.SingleToInt32Bits(expected), BitConverter.SingleToInt32Bits(value));
                    Assert.Equal(bits, format.Narrow(value));
                }
                else if (format.Name == "E5M2" && magnitude == 0x7C)
                {
                    Assert.Equal(bits < 0x80 ? float.PositiveInfinity : float.NegativeInfinity, value);
                    Assert.Equal(bits - 1, format.Narrow(value));
                }
                else
                {
                    Assert.True(float.IsNaN(value), $"{format.Name} 0x{bits:X2} is {value}");
                    Assert.Equal(0x7F, format.Narrow(value));
                }
            }
        }

        // The upper half of a Half, exactly.
        for (int bits = 0; bits < 256; bits++)
        {
            Assert.Equal((float)BitConverter.UInt16BitsToHalf((ushort)(bits << 8)), (float)Float8E5M2.FromBits((byte)bits));
        }
    }

    [Fact]
    public void Ties_go_to_even_and_their_neighbours_to_the_nearer()
    {
        foreach (Format format in s_formats)
        {
            for (int below = 0; below < format.Finite.Length - 1; below++)
            {
                float tie = (float)((format.Finite[below] + format.Finite[below + 1]) / 2);
                foreach (int sign in (int[])[1, -1])
                {
                    int signBit = sign < 0 ? 0x80 : 0;
                    Assert.Equal(signBit | (below + (below & 1)), format.Narrow(sign * tie));
                    Assert.Equal(signBit | below, format.Narrow(sign * MathF.BitDecrement(tie)));
                    Assert.Equal(signBit | (below + 1), format.Narrow(sign * MathF.BitIncrement(tie)));
                }
            }
        }
    }

    [Fact]
    public void What_is_beyond_the_range_becomes_the_largest_finite_value()
    {
        foreach (Format format in s_formats)
        {
            byte largest = (byte)(format.Finite.Length - 1);
            float max = (float)format.Finite[^1];
            foreach (
                float value in (float[])
                    [max, MathF.BitIncrement(max), max * 1.0625f, max * 1.5f, 1e30f, float.MaxValue, float.PositiveInfinity]
            )
            {
                Assert.Equal(largest, format.Narrow(value));
                Assert.Equal(largest | 0x80, format.Narrow(-value));
            }

            Assert.Equal(0x00, format.Narrow(float.Epsilon));
            Assert.Equal(0x80, format.Narrow(-float.Epsilon));
            foreach (uint nan in (uint[])[0x7F80_0001, 0xFF80_0001, 0x7FC0_0000, 0xFFFF_FFFF])
            {
                Assert.Equal(0x7F, format.Narrow(BitConverter.UInt32BitsToSingle(nan)));
            }
        }
    }

    [Fact]
    public void Every_half_and_random_floats_become_the_nearest_value()
    {
        int seed = Random.Shared.Next();
        Random random = new(seed);
        foreach (Format format in s_formats)
        {
            for (int bits = 0; bits < 0x7C00; bits++)
            {
                float half = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
                Assert.True(format.Nearest(half) == format.Narrow(half), $"{format.Name} of {half:r}");
            }

            for (int i = 0; i < 20_000; i++)
            {
                float value = MathF.ScaleB(random.NextSingle(), random.Next(-30, 20));
                Assert.True(format.Nearest(value) == format.Narrow(value), $"{format.Name} of {value:r}, seed {seed}");
                Assert.True((format.Nearest(value) | 0x80) == format.Narrow(-value), $"{format.Name} of {-value:r}, seed {seed}");
            }
        }
    }

    [Fact]
    public void Many_convert_as_one_does_at_every_length()
    {
        int seed = Random.Shared.Next();
        Random random = new(seed);
        foreach (Format format in s_formats)
        {
            for (int length = 0; length <= 300; length++)
            {
                float[] source = new float[length];
                byte[] bits = new byte[length];
                random.NextBytes(bits);
                for (int i = 0; i < length; i++)
                {
                    // Any float at all in one place, a value of the format's range, tie or not, in the next.
                    source[i] =
                        i % 2 == 0
                            ? BitConverter.UInt32BitsToSingle((uint)random.NextInt64(1L << 32))
                            : (float)format.Finite[random.Next(format.Finite.Length)] * random.Next(16, 33) / 32;
                }

                byte[] narrow = new byte[length];
                float[] wide = new float[length];
                format.NarrowMany(source, narrow);
                format.WidenMany(bits, wide);
                for (int i = 0; i < length; i++)
                {
                    Assert.True(format.Narrow(source[i]) == narrow[i], $"{format.Name} of {source[i]:r} at {i} of {length}, seed {seed}");
                    Assert.True(format.Widen(bits[i]).Equals(wide[i]), $"{format.Name} 0x{bits[i]:X2} at {i} of {length}, seed {seed}");
                }
            }

            byte[] all = [.. Enumerable.Range(0, 256).Select(static i => (byte)i)];
            float[] values = new float[256];
            format.WidenMany(all, values);
            Assert.Equal(all.Select(format.Widen), values);
        }
    }

    [Fact]
    public void Lengths_that_differ_are_named()
    {
        foreach (Format format in s_formats)
        {
            ArgumentException narrowing = Assert.Throws<ArgumentException>(() => format.NarrowMany(new float[3], new byte[2]));
            Assert.Contains("destination holds 2 values; expected 3", narrowing.Message, StringComparison.Ordinal);
            ArgumentException widening = Assert.Throws<ArgumentException>(() => format.WidenMany(new byte[3], new float[4]));
            Assert.Contains("destination holds 4 values; expected 3", widening.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Equality_is_that_of_float_for_every_pair_of_patterns()
    {
        for (int i = 0; i < 256; i++)
        {
            for (int j = 0; j < 256; j++)
            {
                Float8E4M3 left = Float8E4M3.FromBits((byte)i);
                Float8E4M3 right = Float8E4M3.FromBits((byte)j);
                Assert.Equal((float)left == (float)right, left == right);
                Assert.Equal((float)left != (float)right, left != right);
                Assert.Equal(((float)left).Equals((float)right), left.Equals(right));
                Assert.Equal(left.Equals(right), left.Equals((object)right));
                Assert.True(!left.Equals(right) || left.GetHashCode() == right.GetHashCode());

                Float8E5M2 left5 = Float8E5M2.FromBits((byte)i);
                Float8E5M2 right5 = Float8E5M2.FromBits((byte)j);
                Assert.Equal((float)left5 == (float)right5, left5 == right5);
                Assert.Equal((float)left5 != (float)right5, left5 != right5);
                Assert.Equal(((float)left5).Equals((float)right5), left5.Equals(right5));
                Assert.Equal(left5.Equals(right5), left5.Equals((object)right5));
                Assert.True(!left5.Equals(right5) || left5.GetHashCode() == right5.GetHashCode());
            }
        }
    }

    [Fact]
    public void Constants_and_predicates_are_what_they_say()
    {
        Assert.Equal((0f, 1f, 448f, -448f), ((float)Float8E4M3.Zero, Float8E4M3.One, Float8E4M3.MaxValue, Float8E4M3.MinValue));
        Assert.Equal(MathF.ScaleB(1, -9), (float)Float8E4M3.Epsilon);
        Assert.Equal((0f, 1f, 57344f, -57344f), ((float)Float8E5M2.Zero, Float8E5M2.One, Float8E5M2.MaxValue, Float8E5M2.MinValue));
        Assert.Equal(MathF.ScaleB(1, -16), (float)Float8E5M2.Epsilon);
        Assert.Equal(float.PositiveInfinity, (float)Float8E5M2.PositiveInfinity);
        Assert.Equal(float.NegativeInfinity, (float)Float8E5M2.NegativeInfinity);
        Assert.Equal(((Float8E4M3)float.NaN).Bits, Float8E4M3.NaN.Bits);
        Assert.Equal(((Float8E5M2)float.NaN).Bits, Float8E5M2.NaN.Bits);
        for (int bits = 0; bits < 256; bits++)
        {
            Float8E4M3 value = Float8E4M3.FromBits((byte)bits);
            Assert.Equal((float.IsNaN(value), float.IsFinite(value)), (Float8E4M3.IsNaN(value), Float8E4M3.IsFinite(value)));
            Float8E5M2 value5 = Float8E5M2.FromBits((byte)bits);
            Assert.Equal((float.IsNaN(value5), float.IsFinite(value5)), (Float8E5M2.IsNaN(value5), Float8E5M2.IsFinite(value5)));
        }
    }

    [Fact]
    public void Text_is_that_of_float()
    {
        Float8E4M3 value = (Float8E4M3)1.5f;
        Float8E5M2 value5 = (Float8E5M2)1.5f;
        Assert.Equal(("1.5", "1.5"), (value.ToString(), value5.ToString()));
        Assert.Equal("1.50", value.ToString("F2", CultureInfo.InvariantCulture));
        Assert.Equal("1.50", value5.ToString("F2", CultureInfo.InvariantCulture));
        Span<char> text = stackalloc char[8];
        Assert.True(value.TryFormat(text, out int written, "F1", CultureInfo.InvariantCulture));
        Assert.Equal("1.5", text[..written].ToString());
        Assert.True(value5.TryFormat(text, out written, "F1", CultureInfo.InvariantCulture));
        Assert.Equal("1.5", text[..written].ToString());
    }

    /// <summary>The values of the patterns from 0 to the largest finite one.</summary>
    private static double[] Table(int mantissaBits, int bias, int finite) =>
        [
            .. Enumerable
                .Range(0, finite + 1)
                .Select(bits =>
                {
                    int exponent = bits >> mantissaBits;
                    int mantissa = bits & ((1 << mantissaBits) - 1);
                    return exponent == 0
                        ? Math.ScaleB(mantissa, 1 - bias - mantissaBits)
                        : Math.ScaleB(mantissa + (1 << mantissaBits), exponent - bias - mantissaBits);
                }),
        ];

    private sealed record Format(
        string Name,
        double[] Finite,
        Func<float, byte> Narrow,
        Func<byte, float> Widen,
        Narrowing NarrowMany,
        Widening WidenMany
    )
    {
        /// <summary>The pattern nearest to a value from 0 on; of two at the same distance the even one.</summary>
        public int Nearest(double value)
        {
            int at = Array.BinarySearch(Finite, value);
            if (at >= 0)
            {
                return at;
            }

            int above = ~at;
            if (above == Finite.Length)
            {
                return above - 1;
            }

            double down = value - Finite[above - 1];
            double up = Finite[above] - value;
            return down < up || (down == up && above % 2 == 1) ? above - 1 : above;
        }
    }
}
