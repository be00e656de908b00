namespace FlashInfer.Tests.Variants;

/// <summary>RoPE where the answer is known without an oracle, and the frequencies that models have; CpuVariantTests has random shapes.</summary>
public class RopeTests
{
    [Fact]
    public void Frequencies_of_Llama()
    {
        Assert.Equal([1, 0.1, 0.01, 0.001], RopeFrequencies.Llama(8), (a, b) => Math.Abs(a - b) < 1e-15);
        Assert.Equal([0.5, 0.005], RopeFrequencies.Llama(4, theta: 10_000, scale: 2), (a, b) => Math.Abs(a - b) < 1e-15);
    }

    /// <summary>As the transformers library computes them for Llama 3.1 8B.</summary>
    [Fact]
    public void Frequencies_of_Llama_3_1()
    {
        double[] plain = RopeFrequencies.Llama(128, 500_000);
        double[] scaled = RopeFrequencies.Llama31(128);
        for (int i = 0; i < plain.Length; i++)
        {
            double wavelength = 2 * Math.PI / plain[i];
            double smooth = ((8192 / wavelength) - 1) / 3;
            double expected =
                wavelength < 8192.0 / 4 ? plain[i]
                : wavelength > 8192.0 ? plain[i] / 8
                : ((1 - smooth) * plain[i] / 8) + (smooth * plain[i]);
            Assert.Equal(expected, scaled[i], 1e-15);
        }

        Assert.Contains(Enumerable.Range(0, 64), i => scaled[i] < 0.99 * plain[i] && scaled[i] > 0.13 * plain[i]);
    }

    [Fact]
    public void Wrong_frequencies_are_refused()
    {
        Assert.Contains(
            "rotaryDim is 7",
            Assert.Throws<ArgumentException>(() => RopeFrequencies.Llama(7)).Message,
            StringComparison.Ordinal
        );
        Assert.Throws<ArgumentOutOfRangeException>(() => RopeFrequencies.Llama(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => RopeFrequencies.Llama(8, theta: -1));
        Assert.Throws<ArgumentOutOfRangeException>(() => RopeFrequencies.Llama31(8, lowFrequencyFactor: 4, highFrequencyFactor: 4));
    }

    [Theory]
    [InlineData(AttentionOptions.Sinks, 64)]
    [InlineData(AttentionOptions.Rope, 20)]
    [InlineData(AttentionOptions.RopeInterleaved, 96)]
    [InlineData(AttentionOptions.None, 32)]
    public void A_rotaryDim_that_does_not_fit_is_refused(AttentionOptions options, int rotaryDim) =>
        Assert.ThrowsAny<ArgumentException>(() =>
            new AttentionSpec(4, 2, 64, 16, DType.BFloat16, variant: AttentionVariant.Of(options, rotaryDim))
        );

    /// <summary>
    /// A query token sees its own key at its own angle: the first token of a sequence, and one at position 100,000 that a window lets see
    /// itself alone, have the plain product for a logit, whatever turns.
    /// </summary>
    [Theory]
    [InlineData(1)]
    [InlineData(100_001)]
    public void A_key_at_the_querys_position_does_not_turn_against_it(int length)
    {
        using Device device = Device.OpenCpu();
        (float[] Output, float[] Lse) plain = Decode(device, length, AttentionOptions.SlidingWindow, 0);
        (float[] Output, float[] Lse) turned = Decode(device, length, AttentionOptions.SlidingWindow | AttentionOptions.Rope, 0);
        Assert.Equal(plain.Output, turned.Output, (a, b) => Math.Abs(a - b) <= 1e-6f);
        Assert.Equal(plain.Lse, turned.Lse, (a, b) => Math.Abs(a - b) <= 1e-5f);
    }

    /// <summary>Only the distance counts: two tokens at the end of a sequence have the same output wherever it ends.</summary>
    [Fact]
    public void Positions_count_by_their_distance()
    {
        using Device device = Device.OpenCpu();
        (float[] Output, float[] Lse) near = Decode(device, 40, AttentionOptions.SlidingWindow | AttentionOptions.RopeInterleaved, 30);
        (float[] Output, float[] Lse) far = Decode(device, 100_040, AttentionOptions.SlidingWindow | AttentionOptions.RopeInterleaved, 30);
        Assert.Equal(near.Output, far.Output, (a, b) => Math.Abs(a - b) <= 2e-3f);
        Assert.Equal(near.Lse, far.Lse, (a, b) => Math.Abs(a - b) <= 1e-3f);
    }

    /// <summary>One query token at the end of a sequence whose last 40 keys and values are always the same, behind a window.</summary>
    private static (float[] Output, float[] Lse) Decode(Device device, int length, AttentionOptions options, int window)
    {
        const int Same = 40;
        AttentionSpec spec = new(2, 1, 64, 16, DType.Float16, variant: AttentionVariant.Of(options));
        using PagedKvCache cache = new(device, spec, 1, (length + 15) / 16);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Random random = new(7);
        Half[] last = [.. Enumerable.Range(0, (2 * Same * 64) + 128).Select(_ => (Half)((4 * random.NextSingle()) - 2))];
        Half[] keys = new Half[length * 64];
        Half[] values = new Half[length * 64];
        int kept = Math.Min(Same, length) * 64;
        last.AsSpan((Same * 64) - kept, kept).CopyTo(keys.AsSpan(keys.Length - kept));
        last.AsSpan((2 * Same * 64) - kept, kept).CopyTo(values.AsSpan(values.Length - kept));
        using DeviceTensor<Half> key = Tensor(device, keys, length, 1);
        using DeviceTensor<Half> value = Tensor(device, values, length, 1);
        using DeviceTensor<Half> query = Tensor(device, last[^128..], 1, 2);
        using DeviceTensor<Half> output = device.Allocate<Half>(1, 2, 64);
        using DeviceTensor<float> lse = device.Allocate<float>(1, 2);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, length);
        cache.Append(0, [sequence], key.View, value.View);
        decode.Plan(
            [sequence],
            new VariantArguments<OptionArguments>(
                new OptionArguments
                {
                    WindowLeft = window,
                    RopeFrequencies =
                        (options & (AttentionOptions.Rope | AttentionOptions.RopeInterleaved)) != 0 ? RopeFrequencies.Llama(64) : [],
                }
            )
        );
        decode.Run(0, query.View, output.View, lse.View);
        cache.EndForward(sequence);
        return ([.. output.ToArray().Select(x => (float)x)], lse.ToArray());
    }

    private static DeviceTensor<Half> Tensor(Device device, Half[] values, int rows, int heads)
    {
        DeviceTensor<Half> tensor = device.Allocate<Half>(rows, heads, 64);
        tensor.View.CopyFrom(values);
        return tensor;
    }
}
