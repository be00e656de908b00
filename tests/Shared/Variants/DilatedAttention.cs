namespace FlashInfer.Tests.Variants;

/// <summary>Near keys all, farther ones at growing steps.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class DilatedAttention
{
    [LogitsMask]
    private static bool Keep(in LogitsContext at)
    {
        int distance = at.QoPosition - at.KvPosition;
        int step = distance switch
        {
            < 64 => 1,
            < 256 => 4,
            < 1024 => 16,
            _ => 64,
        };
        return distance % step == 0;
    }
}
