namespace FlashInfer.Tests.Variants;

/// <summary>Logits that cannot leave (-cap, cap), as right as the built-in option makes them.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class SoftCapAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        public required float Cap { get; init; }

        /// <summary>Computed once a plan and not for every logit.</summary>
        public float Inverse => 1 / Cap;
    }

    [LogitsTransform]
    private static float Transform(float logit, in LogitsContext at, in Arguments a) => a.Cap * FastMath.Tanh(logit * a.Inverse);
}
