namespace FlashInfer.Tests.Variants;

/// <summary>T5's biases: a table by head and bucket of the distance, in which near distances have buckets of their own.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class RelativeBiasAttention
{
    private const int Buckets = 32;
    private const int Exact = Buckets / 2;
    private const float MaxDistance = 128;

    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>[heads, 32].</summary>
        public required ReadOnlySpan<float> Bias { get; init; }
    }

    [LogitsTransform]
    private static float Transform(float logit, in LogitsContext at, in Arguments a) =>
        logit + a.Bias[at.Head * Buckets + Bucket(at.QoPosition - at.KvPosition)];

    private static int Bucket(int distance)
    {
        if (distance < Exact)
        {
            return Math.Max(distance, 0);
        }

        float far = MathF.Log(distance / (float)Exact) / MathF.Log(MaxDistance / Exact) * (Buckets - Exact);
        return Math.Min(Exact + (int)far, Buckets - 1);
    }
}
