namespace FlashInfer.Tests.Variants;

/// <summary>What plans of a configuration with options refuse; CpuVariantTests has what they compute.</summary>
public class OptionTests
{
    private static readonly double[] s_notFinite = [.. RopeFrequencies.Llama(62), double.NaN];

    public delegate OptionArguments Arguments();

    public static TheoryData<AttentionOptions, Arguments, string> Wrong =>
        new()
        {
            { AttentionOptions.LogitsSoftCap, () => new(), "LogitsSoftCap is 0; expected a number above 0." },
            {
                AttentionOptions.LogitsSoftCap,
                () =>
                    new() { LogitsSoftCap = float.NaN },
                "LogitsSoftCap is NaN; expected"
            },
            {
                AttentionOptions.Sinks,
                () =>
                    new() { Sinks = [1, 2, 3] },
                "Sinks.Length is 3; expected 4, one for each query head."
            },
            { AttentionOptions.Sinks, () => new(), "Sinks.Length is 0; expected 4" },
            {
                AttentionOptions.Alibi,
                () =>
                    new() { AlibiSlopes = new float[5] },
                "AlibiSlopes.Length is 5; expected 4"
            },
            {
                AttentionOptions.Sinks,
                () =>
                    new() { Sinks = new float[4], WindowLeft = 10 },
                "WindowLeft is 10, but the configuration has no SlidingWindow; its options are Sinks. Add the option"
            },
            {
                AttentionOptions.SlidingWindow,
                () =>
                    new() { WindowLeft = 10, AlibiSlopes = new float[4] },
                "AlibiSlopes.Length is 4, but the configuration has no Alibi"
            },
            {
                AttentionOptions.CustomMask,
                () =>
                    new() { CustomMask = new bool[20] },
                "CustomMask.Length is 20; expected 21, query tokens times tokens, of all sequences of the batch."
            },
            {
                AttentionOptions.PackedCustomMask,
                () =>
                    new() { PackedCustomMask = new byte[4] },
                "PackedCustomMask.Length is 4; expected 3, query tokens times tokens in bits, rounded up to bytes"
            },
            { AttentionOptions.Rope, () => new(), "RopeFrequencies.Length is 0; expected 32, one for each pair" },
            {
                AttentionOptions.RopeInterleaved,
                () =>
                    new() { RopeFrequencies = s_notFinite },
                "RopeFrequencies is NaN; expected finite numbers."
            },
            {
                AttentionOptions.Sinks,
                () =>
                    new() { Sinks = new float[4], RopeFrequencies = new double[32] },
                "RopeFrequencies.Length is 32, but the configuration has no Rope, RopeInterleaved"
            },
            {
                AttentionOptions.MultiItemScoring,
                () =>
                    new() { PrefixLengths = [8] },
                "PrefixLengths[0] is 8; expected 0 to 7, the tokens of the sequence."
            },
            {
                AttentionOptions.MultiItemScoring,
                () =>
                    new() { PrefixLengths = [4], ItemPositions = [0, 1] },
                "ItemPositions.Length is 2; expected 3, one for each token behind a prefix."
            },
            {
                AttentionOptions.MultiItemScoring,
                () =>
                    new() { PrefixLengths = [4], ItemPositions = [0, 1, 3] },
                "ItemPositions[2] is 3, of token 2 behind the prefix of sequence 0; expected 0 for a delimiter, or up to 2, one more than the place before it."
            },
        };

    [Theory]
    [MemberData(nameof(Wrong))]
    public void Arguments_that_do_not_fit_are_refused(AttentionOptions options, Arguments arguments, string message)
    {
        AttentionSpec spec = new(4, 2, 64, 16, DType.BFloat16, variant: AttentionVariant.Of(options));
        using Device device = Device.OpenCpu();
        using PagedKvCache cache = new(device, spec, 1, 4);
        using BatchPrefillWithPagedKvCache paged = new(cache);
        using BatchPrefillWithRaggedKvCache ragged = new(device, spec);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 7);
        foreach (
            Action plan in (Action[])
                [
                    () => paged.Plan([sequence], [3], new VariantArguments<OptionArguments>(arguments())),
                    () => ragged.Plan([0, 3], [0, 7], new VariantArguments<OptionArguments>(arguments())),
                ]
        )
        {
            Assert.Contains(message, Assert.Throws<ArgumentException>(plan).Message, StringComparison.Ordinal);
        }

        Assert.Throws<StalePlanException>(() => paged.PlanInfo);
    }

    [Theory]
    [InlineData((AttentionOptions)512)]
    [InlineData(AttentionOptions.Rope | AttentionOptions.RopeInterleaved)]
    [InlineData(AttentionOptions.CustomMask | AttentionOptions.PackedCustomMask | AttentionOptions.Sinks)]
    public void Options_that_do_not_go_together_are_refused(AttentionOptions options) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => AttentionVariant.Of(options));

    [Fact]
    public void Equal_options_share_kernels()
    {
        using Device device = Device.OpenCpu();
        AttentionSpec one = Spec(AttentionOptions.Sinks);
        Assert.Same(device.Kernels(one), device.Kernels(Spec(AttentionOptions.Sinks)));
        Assert.NotSame(device.Kernels(one), device.Kernels(Spec(AttentionOptions.Alibi)));
        Assert.NotSame(device.Kernels(one), device.Kernels(Spec(AttentionOptions.None)));
        Assert.Contains(
            "takes arguments: LogitsSoftCap, WindowLeft.",
            Assert
                .Throws<InvalidOperationException>(() =>
                {
                    using BatchPrefillWithRaggedKvCache ragged = new(
                        device,
                        Spec(AttentionOptions.LogitsSoftCap | AttentionOptions.SlidingWindow)
                    );
                    ragged.Plan([0, 1], [0, 1]);
                })
                .Message,
            StringComparison.Ordinal
        );

        static AttentionSpec Spec(AttentionOptions options) => new(4, 2, 64, 16, DType.BFloat16, variant: AttentionVariant.Of(options));
    }

    [Fact]
    public void A_window_reads_its_own_pages_only()
    {
        using Device device = Device.OpenCpu();
        using PagedKvCache cache = new(
            device,
            new AttentionSpec(4, 2, 64, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.SlidingWindow)),
            1,
            400
        );
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 6000);
        decode.Plan([sequence], new VariantArguments<OptionArguments>(new OptionArguments { WindowLeft = 1023 }));
        Assert.InRange(decode.PlanInfo.Tokens, 1024, 1024 + 15);
        decode.Plan([sequence], new VariantArguments<OptionArguments>(new OptionArguments()));
        Assert.Equal(6000, decode.PlanInfo.Tokens);
    }
}
