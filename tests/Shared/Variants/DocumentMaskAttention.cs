namespace FlashInfer.Tests.Variants;

/// <summary>A token sees the tokens of its document, named for each token in a buffer.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class DocumentMaskAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>[sequences, MaxTokens].</summary>
        public required ReadOnlySpan<int> Documents { get; init; }

        public required int MaxTokens { get; init; }
    }

    [LogitsMask]
    private static bool Keep(in LogitsContext at, in Arguments a) =>
        DocumentOf(at.Sequence, at.QoPosition, a) == DocumentOf(at.Sequence, at.KvPosition, a);

    private static int DocumentOf(int sequence, int position, in Arguments a) => a.Documents[sequence * a.MaxTokens + position];
}
