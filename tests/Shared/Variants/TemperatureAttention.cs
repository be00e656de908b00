namespace FlashInfer.Tests.Variants;

/// <summary>A temperature for each head, which grows with the logarithm of the position as some long-context models want it.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class TemperatureAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>One over the temperature of each head.</summary>
        public required ReadOnlySpan<float> Sharpness { get; init; }

        public required float Growth { get; init; }
    }

    [LogitsTransform]
    private static float Transform(float logit, in LogitsContext at, in Arguments a)
    {
        float scale = 1 + a.Growth * MathF.Log(MathF.Floor((at.QoPosition + 1) / 8192f) + 1);
        return logit * scale * a.Sharpness[at.Head];
    }
}
