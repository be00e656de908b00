namespace FlashInfer.Tests.Variants;

/// <summary>A token sees its chunk of 8,192 tokens, as in Llama 4's local layers.</summary>
[AttentionConfig(heads: 40, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class ChunkedAttention
{
    private const int Chunk = 8192;

    [FirstKey]
    private static int FirstKey(in LogitsContext at) => at.QoPosition / Chunk * Chunk;
}
