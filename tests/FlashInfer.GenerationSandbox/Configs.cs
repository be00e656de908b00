using FlashInfer;

/// <summary>In the global namespace, bfloat16, grouped queries.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
#pragma warning disable CA1050 // The global namespace is the case.
public partial class RootAttention;
#pragma warning restore CA1050

namespace FlashInfer.GenerationSandbox
{
    /// <summary>Float16, one page a token, heads first.</summary>
    [AttentionConfig(12, 12, 64, 1, DType.Float16, KvLayout = KvLayout.Hnd)]
    public sealed partial class HalfAttention;

    /// <summary>Not visible outside, with the KV type given.</summary>
    [AttentionConfig(8, 1, 256, 64, DType.BFloat16, KvDtype = DType.BFloat16)]
    internal sealed partial record InternalAttention;

    /// <summary>A quantised cache: 16-bit keys and values go in, 8-bit ones are kept.</summary>
    [AttentionConfig(16, 8, 96, 16, DType.BFloat16, KvDtype = DType.Float8E4M3)]
    public sealed partial class QuantisedAttention;

    /// <summary>Values shorter than keys, as in DeepSeek's prefill: no cache.</summary>
    [AttentionConfig(4, 4, 192, 16, DType.BFloat16, ValueDim = 128)]
    public sealed partial class LatentAttention;

    /// <summary>Heads too large for prefill: a cache and decode.</summary>
#pragma warning disable FI0018 // For decode alone.
    [AttentionConfig(16, 1, 512, 16, DType.BFloat16)]
    public sealed partial class GlobalAttention;
#pragma warning restore FI0018

    /// <summary>Nested, with its own members beside the generated ones.</summary>
    public static partial class Models
    {
        /// <summary>An odd group, nested.</summary>
        [AttentionConfig(heads: 21, kvHeads: 3, headDim: 128, pageSize: 1024, dtype: DType.Float16)]
#pragma warning disable CA1034 // A nested type is the case.
        public abstract partial class OddAttention
#pragma warning restore CA1034
        {
            /// <summary>Elements of one token's query.</summary>
            public static int QueryElements => Heads * HeadDim;

            /// <summary>Private to its author.</summary>
            [AttentionConfig(1, 1, 64, 16, DType.Float16)]
            private sealed partial class Draft
            {
                public static int Elements => KvHeads * HeadDim;
            }

            /// <summary>Elements of one token's key in the draft model.</summary>
            public static int DraftElements => Draft.Elements;
        }
    }
}
