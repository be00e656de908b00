using System.Globalization;

namespace FlashInfer.Tests.Tensors;

public class BFloat16Tests
{
    [Fact]
    public void Every_pattern_survives_the_way_through_float_and_double()
    {
        for (int i = 0; i <= ushort.MaxValue; i++)
        {
            BFloat16 value = BFloat16.FromBits((ushort)i);
            ushort expected = BFloat16.IsNaN(value) ? (ushort)(i | 0x40) : (ushort)i;
            Assert.Equal((uint)i << 16, BitConverter.SingleToUInt32Bits(value));
            Assert.Equal(expected, ((BFloat16)(float)value).Bits);
            Assert.Equal(expected, ((BFloat16)(double)(float)value).Bits);
        }
    }

    [Theory]
    [InlineData(0x3F808000u, 0x3F80)] // Halfway above 1, whose mantissa is even.
    [InlineData(0x3F808001u, 0x3F81)]
    [InlineData(0x3F818000u, 0x3F82)] // Halfway above an odd mantissa.
    [InlineData(0x3F817FFFu, 0x3F81)]
    [InlineData(0xBF808000u, 0xBF80)]
    [InlineData(0xBF818000u, 0xBF82)]
    [InlineData(0x3FFF8000u, 0x4000)] // Carries into the exponent.
    [InlineData(0x00008000u, 0x0000)] // Subnormals round as others do.
    [InlineData(0x00008001u, 0x0001)]
    [InlineData(0x00018000u, 0x0002)]
    [InlineData(0x007F8000u, 0x0080)]
    [InlineData(0x80000001u, 0x8000)]
    [InlineData(0x7F7F7FFFu, 0x7F7F)] // Largest finite value, and the first that is not.
    [InlineData(0x7F7F8000u, 0x7F80)]
    [InlineData(0xFF7FFFFFu, 0xFF80)]
    [InlineData(0x7F800000u, 0x7F80)]
    [InlineData(0xFF800000u, 0xFF80)]
    [InlineData(0x7F800001u, 0x7FC0)] // Signalling NaNs become quiet and keep what fits of their payload.
    [InlineData(0xFFFFFFFFu, 0xFFFF)]
    [InlineData(0x7FA10000u, 0x7FE1)]
    public void Floats_round_to_nearest_even(uint bits, int expected)
    {
        float value = BitConverter.UInt32BitsToSingle(bits);
        Assert.Equal(expected, ((BFloat16)value).Bits);

        float[] many = new float[37];
        Array.Fill(many, value);
        BFloat16[] converted = new BFloat16[many.Length];
        BFloat16.Convert(many, converted);
        Assert.All(converted, c => Assert.Equal(expected, c.Bits));
    }

    [Fact]
    public void Doubles_round_once()
    {
        double halfway = 1 + Math.ScaleB(1, -8);
        Assert.Equal(0x3F80, ((BFloat16)halfway).Bits);

        // Rounded to float first these would land on the tie and go the wrong way.
        Assert.Equal(0x3F81, ((BFloat16)Math.BitIncrement(halfway)).Bits);
        Assert.Equal(0x3F81, ((BFloat16)Math.BitDecrement(1 + (3 * Math.ScaleB(1, -8)))).Bits);
        Assert.Equal(0xBF81, ((BFloat16)(-Math.BitIncrement(halfway))).Bits);
        Assert.Equal(BFloat16.PositiveInfinity, (BFloat16)1e300);
        Assert.Equal(BFloat16.NegativeInfinity, (BFloat16)double.NegativeInfinity);
        Assert.Equal(BFloat16.MaxValue, (BFloat16)Math.BitDecrement(Math.ScaleB(1, 128) - Math.ScaleB(1, 119)));
        Assert.Equal(0x0000, ((BFloat16)double.Epsilon).Bits);
        Assert.Equal(0x0000, ((BFloat16)Math.ScaleB(1, -134)).Bits);
        Assert.Equal(0x0001, ((BFloat16)Math.BitIncrement(Math.ScaleB(1, -134))).Bits);
        Assert.True(BFloat16.IsNaN((BFloat16)double.NaN));
    }

    [Fact]
    public void Many_convert_as_one_does_at_every_length()
    {
        int seed = Random.Shared.Next();
        Random random = new(seed);
        for (int length = 0; length <= 131; length++)
        {
            float[] source = new float[length];
            for (int i = 0; i < length; i++)
            {
                source[i] = BitConverter.UInt32BitsToSingle((uint)random.NextInt64(1L << 32));
            }

            BFloat16[] narrow = new BFloat16[length];
            float[] wide = new float[length];
            BFloat16.Convert(source, narrow);
            BFloat16.Convert(narrow, wide);
            for (int i = 0; i < length; i++)
            {
                Assert.True(((BFloat16)source[i]).Bits == narrow[i].Bits, $"{source[i]:r} at {i} of {length}, seed {seed}");
                Assert.True((uint)narrow[i].Bits << 16 == BitConverter.SingleToUInt32Bits(wide[i]), $"{i} of {length}, seed {seed}");
            }
        }
    }

    [Fact]
    public void Lengths_that_differ_are_named()
    {
        ArgumentException narrowing = Assert.Throws<ArgumentException>(() => BFloat16.Convert(new float[3], new BFloat16[2]));
        Assert.Contains("destination holds 2 values; expected 3", narrowing.Message, StringComparison.Ordinal);
        ArgumentException widening = Assert.Throws<ArgumentException>(() => BFloat16.Convert(new BFloat16[3], new float[4]));
        Assert.Contains("destination holds 4 values; expected 3", widening.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Comparisons_agree_with_float_for_every_kind_of_value()
    {
        BFloat16[] values =
        [
            BFloat16.Zero,
            BFloat16.FromBits(0x8000),
            BFloat16.One,
            (BFloat16)(-1f),
            BFloat16.NaN,
            BFloat16.FromBits(0x7FC1),
            BFloat16.PositiveInfinity,
            BFloat16.NegativeInfinity,
            BFloat16.MaxValue,
            BFloat16.MinValue,
            BFloat16.Epsilon,
        ];
        foreach (BFloat16 left in values)
        {
            foreach (BFloat16 right in values)
            {
                float l = left;
                float r = right;
                Assert.Equal(l == r, left == right);
                Assert.Equal(l != r, left != right);
                Assert.Equal(l < r, left < right);
                Assert.Equal(l > r, left > right);
                Assert.Equal(l <= r, left <= right);
                Assert.Equal(l >= r, left >= right);
                Assert.Equal(l.Equals(r), left.Equals(right));
                Assert.Equal(l.Equals(r), left.Equals((object)right));
                Assert.Equal(l.CompareTo(r), left.CompareTo(right));
                Assert.Equal(l.CompareTo(r), left.CompareTo((object)right));
                if (left.Equals(right))
                {
                    Assert.Equal(left.GetHashCode(), right.GetHashCode());
                }
            }
        }
    }

    [Fact]
    public void Hash_codes_of_numbers_differ()
    {
        HashSet<int> codes = [];
        for (int i = 0; i <= ushort.MaxValue; i++)
        {
            BFloat16 value = BFloat16.FromBits((ushort)i);
            if (!BFloat16.IsNaN(value) && (float)value != 0)
            {
                Assert.True(codes.Add(value.GetHashCode()) || !BFloat16.IsFinite(value), $"0x{i:X4}");
            }
        }
    }

    [Fact]
    public void Constants_are_what_they_say()
    {
        Assert.Equal(0f, (float)BFloat16.Zero);
        Assert.Equal(1f, (float)BFloat16.One);
        Assert.Equal(float.PositiveInfinity, (float)BFloat16.PositiveInfinity);
        Assert.Equal(float.NegativeInfinity, (float)BFloat16.NegativeInfinity);
        Assert.Equal(MathF.ScaleB(1, -133), (float)BFloat16.Epsilon);
        Assert.Equal(MathF.ScaleB(255, 120), (float)BFloat16.MaxValue);
        Assert.Equal(-(float)BFloat16.MaxValue, (float)BFloat16.MinValue);
        Assert.Equal(((BFloat16)float.NaN).Bits, BFloat16.NaN.Bits);
        Assert.True(BFloat16.IsFinite(BFloat16.MaxValue));
        Assert.False(BFloat16.IsFinite(BFloat16.PositiveInfinity));
        Assert.False(BFloat16.IsFinite(BFloat16.NaN));
        Assert.False(BFloat16.IsNaN(BFloat16.NegativeInfinity));
    }

    [Fact]
    public void Text_is_that_of_float()
    {
        BFloat16 value = (BFloat16)1.5f;
        Assert.Equal("1.5", value.ToString());
        Assert.Equal("1.50", value.ToString("F2", CultureInfo.InvariantCulture));
        Assert.Equal("1.50", $"{value:F2}");
        Span<char> text = stackalloc char[8];
        Assert.True(value.TryFormat(text, out int written, "F1", CultureInfo.InvariantCulture));
        Assert.Equal("1.5", text[..written].ToString());
        Assert.Equal(1, value.CompareTo(null));
        Assert.Throws<ArgumentException>(() => value.CompareTo("1.5"));
    }
}
