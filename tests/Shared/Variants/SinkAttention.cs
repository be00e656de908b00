namespace FlashInfer.Tests.Variants;

/// <summary>A learned sink for each head, and a window in every layer that wants one.</summary>
[AttentionConfig(heads: 64, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.BFloat16)]
public partial class SinkAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        public required ReadOnlySpan<float> Sinks { get; init; }

        /// <summary>Tokens; 0 for all.</summary>
        public required int Window { get; init; }
    }

    [AttentionSink]
    private static float Sink(int head, in Arguments a) => a.Sinks[head];

    [FirstKey]
    private static int FirstKey(in LogitsContext at, in Arguments a) => a.Window > 0 ? Math.Max(0, at.QoPosition - a.Window + 1) : 0;
}
