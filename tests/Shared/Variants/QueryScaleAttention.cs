namespace FlashInfer.Tests.Variants;

/// <summary>A learned scale for each element of each query head, beside a temperature that grows with the logarithm of the position.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class QueryScaleAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>[heads, headDim].</summary>
        public required ReadOnlySpan<float> Scales { get; init; }

        /// <summary>Tokens of the sequences that the model was trained with.</summary>
        public required int TrainedLength { get; init; }

        public float InverseLogarithm => 1 / MathF.Log(TrainedLength);
    }

    [QueryTransform]
    private static float Transform(float element, in ElementContext at, in Arguments a)
    {
        float growth = MathF.Max(1, MathF.Log(Math.Max(at.QoPosition, 0) + 1) * a.InverseLogarithm);
        return element * growth * a.Scales[at.Head * HeadDim + at.Element];
    }
}
