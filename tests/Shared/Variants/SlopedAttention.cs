namespace FlashInfer.Tests.Variants;

/// <summary>A temperature, a slope for each head, and a mask: near keys, and half of the others.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class SlopedAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>One for each head.</summary>
        public required ReadOnlySpan<float> Slopes { get; init; }

        public required float Temperature { get; init; }
    }

    [LogitsTransform]
    private static float Transform(float logit, in LogitsContext at, in Arguments a) =>
        logit / a.Temperature + a.Slopes[at.Head] * (at.KvPosition - at.QoPosition);

    [LogitsMask]
    private static bool Keep(in LogitsContext at) => at.KvPosition % 64 < 32 || at.QoPosition - at.KvPosition < 128;
}
