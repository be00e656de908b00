namespace FlashInfer.Tests.Variants;

/// <summary>Half of the heads see a window and the first tokens, the others everything.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class LocalGlobalAttention
{
    private const int GlobalTokens = 4;

    [VariantArguments]
    public readonly ref struct Arguments
    {
        public required int Window { get; init; }

        public required bool AllHeadsSeeAll { get; init; }
    }

    [LogitsMask]
    private static bool Keep(in LogitsContext at, in Arguments a)
    {
        bool isLocal = at.KvHead < KvHeads / 2 && !a.AllHeadsSeeAll;
        if (!isLocal || at.KvPosition < GlobalTokens)
        {
            return true;
        }

        return at.QoPosition - at.KvPosition <= a.Window;
    }
}
