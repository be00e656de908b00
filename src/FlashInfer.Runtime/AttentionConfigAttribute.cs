namespace FlashInfer;

/// <summary>
/// Makes a partial class an attention configuration: the source generator adds its constants, its typed tensors, its
/// <c>PagedKvCache</c> and wrappers, and the CUDA translation units specialised for exactly these values.
/// </summary>
/// <example>
/// <code>
/// [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
/// public partial class LlamaAttention;
/// </code>
/// </example>
/// <param name="heads">Query heads, 1 to 1,024; a multiple of <paramref name="kvHeads"/>.</param>
/// <param name="kvHeads">Key/value heads, 1 to 1,024.</param>
/// <param name="headDim">Elements of one head of query and key, and of value and output unless <see cref="ValueDim"/> says otherwise: 64, 96, 128, 192, 256, or 512 for decode only.</param>
/// <param name="pageSize">Tokens per page of the KV cache, 1 to 1,024.</param>
/// <param name="dtype">Element type of query, output, and new keys and values; of the cache too unless <see cref="KvDtype"/> says otherwise.</param>
[AttributeUsage(AttributeTargets.Class, Inherited = false)]
public sealed class AttentionConfigAttribute(int heads, int kvHeads, int headDim, int pageSize, DType dtype) : Attribute
{
    /// <summary>Query heads.</summary>
    public int Heads { get; } = heads;

    /// <summary>Key/value heads.</summary>
    public int KvHeads { get; } = kvHeads;

    /// <summary>Elements of one head of query and key.</summary>
    public int HeadDim { get; } = headDim;

    /// <summary>
    /// Elements of one head of value and output; <see cref="HeadDim"/> when not given, or 128 with a <see cref="HeadDim"/> of 192, as
    /// DeepSeek's models have it in prefill. Such a configuration has no cache: pages hold keys and values of one size, and its decode is
    /// MLA's. It attends over ragged keys and values; <see cref="PageSize"/> and <see cref="KvLayout"/> do not matter.
    /// </summary>
    public int ValueDim { get; set; } = headDim;

    /// <summary>Tokens per page of the KV cache.</summary>
    public int PageSize { get; } = pageSize;

    /// <summary>Element type of query, output, and new keys and values.</summary>
    public DType Dtype { get; } = dtype;

    /// <summary>
    /// Element type of keys and values in the cache; <see cref="Dtype"/> when not given. <see cref="DType.Float8E4M3"/> and
    /// <see cref="DType.Float8E5M2"/> make a quantised cache: <c>Append</c> takes keys and values of <see cref="Dtype"/> and divides them by
    /// the scales that the cache's <c>SetScales</c> was given.
    /// </summary>
    public DType KvDtype { get; set; } = dtype;

    /// <summary>Order of dimensions inside a page; <see cref="KvLayout.Nhd"/> when not given.</summary>
    public KvLayout KvLayout { get; set; }

    /// <summary>What attention does besides the softmax of scaled products; plans are given the values. Nothing when not given.</summary>
    public AttentionOptions Options { get; set; }

    /// <summary>
    /// How many of a head's elements turn with the position, from the first on, where <see cref="Options"/> has
    /// <see cref="AttentionOptions.Rope"/> or <see cref="AttentionOptions.RopeInterleaved"/>: a multiple of 8; all of them when not given.
    /// </summary>
    public int RotaryDim { get; set; }
}
