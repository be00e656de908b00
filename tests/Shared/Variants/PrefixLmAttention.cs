namespace FlashInfer.Tests.Variants;

/// <summary>Tokens of a prefix see each other in both directions, the others what is before them. For plans that are not causal.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class PrefixLmAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>Tokens of each sequence's prefix.</summary>
        public required ReadOnlySpan<int> Prefix { get; init; }
    }

    [LogitsMask]
    private static bool Keep(in LogitsContext at, in Arguments a) =>
        at.KvPosition <= at.QoPosition || at.KvPosition < a.Prefix[at.Sequence];
}
