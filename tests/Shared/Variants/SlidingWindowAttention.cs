namespace FlashInfer.Tests.Variants;

/// <summary>A query token sees itself and the 1,023 tokens before it; tiles of older ones are never read.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class SlidingWindowAttention
{
    private const int Window = 1024;

    [FirstKey]
    private static int FirstKey(in LogitsContext at) => Math.Max(0, at.QoPosition - Window + 1);
}
