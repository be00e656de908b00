namespace FlashInfer.Tests.Variants;

/// <summary>
/// Speculative decoding over a tree of drafted tokens, at most 32: each sees what came before the tree, and in it its ancestors and
/// itself, which are bits of a word.
/// </summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class TreeMaskAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>[sequences, 32].</summary>
        public required ReadOnlySpan<uint> Ancestors { get; init; }
    }

    [LogitsMask]
    private static bool Keep(in LogitsContext at, in Arguments a)
    {
        int node = at.KvPosition - (at.KvLen - at.QoLen);
        return node < 0 || ((a.Ancestors[(at.Sequence << 5) | at.QoIndex] >> node) & 1) != 0;
    }
}
