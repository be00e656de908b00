namespace FlashInfer.Tests.Variants;

/// <summary>Gated attention: each head of a token's output is weighed by the sigmoid of a logit that the model computes from the token.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class GatedAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>[query tokens of the call, heads].</summary>
        public required ReadOnlySpan<float> Gates { get; init; }

        /// <summary>The first query token of each sequence among those of the call.</summary>
        public required ReadOnlySpan<int> Starts { get; init; }
    }

    [OutputTransform]
    private static float Transform(float element, float lse2, in ElementContext at, in Arguments a) =>
        element * FastMath.Sigmoid(a.Gates[(a.Starts[at.Sequence] + at.QoIndex) * Heads + at.Head]);
}
