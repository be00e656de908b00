namespace FlashInfer.Tests.Variants;

/// <summary>Attention with linear biases: what is far away counts less, at a slope for each head.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class AlibiAttention
{
    [LogitsTransform]
    private static float Transform(float logit, in LogitsContext at) => logit + Slope(at.Head) * (at.KvPosition - at.QoPosition);

    private static float Slope(int head) => MathF.Pow(2, -8f * (head + 1) / Heads);
}
