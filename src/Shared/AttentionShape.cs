namespace FlashInfer;

/// <summary>
/// The values of one attention configuration, legal or not. <see cref="AttentionRules"/> says which are legal and
/// <see cref="CudaUnits"/> turns a legal one into CUDA. Linked into the generator and the runtime, so that both decide alike.
/// </summary>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key/value heads.</param>
/// <param name="HeadDim">Elements of one head of query and key.</param>
/// <param name="PageSize">Tokens per page of the KV cache.</param>
/// <param name="Dtype">Element type of query and output.</param>
/// <param name="KvDtype">Element type of keys and values in the cache.</param>
/// <param name="KvLayout">Order of dimensions inside a page.</param>
internal readonly record struct AttentionShape(
    int Heads,
    int KvHeads,
    int HeadDim,
    int PageSize,
    DType Dtype,
    DType KvDtype,
    KvLayout KvLayout
)
{
    private readonly int? _valueDim;

    /// <summary>Elements of one head of value and output; as many as of query and key unless said.</summary>
    public int ValueDim
    {
        get => _valueDim ?? HeadDim;
        init => _valueDim = value == HeadDim ? null : value;
    }

    /// <summary>Whether there is a paged cache for it: pages hold keys and values of one size.</summary>
    public bool HasCache => ValueDim == HeadDim;

    /// <summary>Whether there is prefill for it, and with it what is made of prefill's kernels.</summary>
    public bool HasPrefill => HeadDim <= AttentionRules.MaxPrefillHeadDim;

    /// <summary>The library's own options, as an attribute names them.</summary>
    public AttentionOptions Options { get; init; }

    /// <summary>Elements of a head that turn with the position, where an option turns them; 0 for all of them.</summary>
    public int RotaryDim { get; init; }

    /// <summary>CUDA text of <c>struct Variant : flashinfer::NoVariant</c>, behind the <c>#include</c>s that it needs, where the configuration has a variant of attention; else null.</summary>
    public string? Variant { get; init; }

    /// <summary>Query heads that share one key/value head. Only meaningful when the shape is legal.</summary>
    public int GroupSize => Heads / KvHeads;

    /// <summary>Whether queries and keys turn with their positions, by an option.</summary>
    public bool Turns => (Options & OptionUnits.Ropes) != 0;

    /// <summary>Whether the cache holds 8-bit keys and values, with a scale for each KV head.</summary>
    public bool IsQuantised => KvDtype is DType.Float8E4M3 or DType.Float8E5M2;
}
