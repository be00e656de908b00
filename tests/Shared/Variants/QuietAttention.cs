namespace FlashInfer.Tests.Variants;

/// <summary>
/// The softmax with one more in its denominator, by which a head can say nothing: exp(logit) / (1 + sum of exp), which is the softmax times
/// the sigmoid of the log-sum-exp.
/// </summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class QuietAttention
{
    [OutputTransform]
    private static float Transform(float element, float lse2, in ElementContext at) => element / (1 + FastMath.Exp2(-lse2));
}
