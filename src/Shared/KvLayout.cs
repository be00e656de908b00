namespace FlashInfer;

/// <summary>The order of dimensions inside one page of the KV cache.</summary>
#if FLASHINFER_RUNTIME
public
#else
internal
#endif
enum KvLayout
{
    /// <summary><c>[pages, pageSize, kvHeads, headDim]</c>: the heads of one token lie together.</summary>
    Nhd,

    /// <summary><c>[pages, kvHeads, pageSize, headDim]</c>: the tokens of one head lie together.</summary>
    Hnd,
}
