using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>A whole cache as the copy engine sees it: keys and values of every layer are pages behind one another.</summary>
internal static class KvTensorMap
{
    /// <summary>Tokens that prefill's map counts pages by.</summary>
    public const int GroupTokens = 8;

    private const int DecodeTokens = 16;

    /// <summary>
    /// For decode: what lies side by side of a token, the rows of all heads or, where heads come first, of one, is cut into strips of 128
    /// bytes, or 64 or 32 where that does not divide what a unit takes of them. Dimensions {elements of a strip, pageSize, strips, pages of
    /// all layers, or heads of all pages}; one box is one slab.
    /// </summary>
    /// <param name="context">The device's context.</param>
    /// <param name="cache">The cache.</param>
    /// <param name="unitsPerItem">Units of the kernel, as <see cref="KernelInfo.UnitsPerItem"/>: where they are fewer than KV heads, each takes several.</param>
    public static TensorMap ForDecode(CudaContext context, PagedKvCache cache, int unitsPerItem)
    {
        AttentionSpec spec = cache.Spec;
        int bytes = spec.KvDtype.Size();
        int heads = UnitHeads(spec, unitsPerItem);
        bool headsFirst = spec.KvLayout == KvLayout.Hnd;
        int joinedBytes = spec.HeadDim * bytes * (headsFirst ? 1 : heads);
        int stripBytes =
            joinedBytes % 128 == 0 ? 128
            : joinedBytes % 64 == 0 ? 64
            : 32;
        int strip = stripBytes / bytes;
        int strips = joinedBytes / stripBytes;
        return TensorMapEncoder.Encode(
            context,
            spec.KvDtype,
            cache.KeyAddress(0),
            headsFirst
                ? [strip, spec.PageSize, strips, Pages(cache) * spec.KvHeads]
                : [strip, spec.PageSize, spec.KvHeads * spec.HeadDim / strip, Pages(cache)],
            [cache.TokenElements, strip, headsFirst ? cache.HeadElements : cache.PageElements],
            [strip, DecodeTokens, strips, headsFirst ? heads : 1],
            headsFirst ? L2Promotion.Bytes128 : Promotion(joinedBytes)
        );
    }

    /// <summary>For prefill, as <see cref="PrefillParams.KeyMap"/> says, of pages of whole groups of 8 tokens.</summary>
    /// <param name="context">The device's context.</param>
    /// <param name="cache">The cache.</param>
    /// <param name="blockTokens">Tokens that a step of the kernel takes.</param>
    public static TensorMap ForPrefill(CudaContext context, PagedKvCache cache, int blockTokens)
    {
        AttentionSpec spec = cache.Spec;
        int column = spec.KvDtype.Size() == 1 ? spec.HeadDim : PrefillTensorMaps.Column(spec.HeadDim);
        int columns = spec.HeadDim / column;
        int pageGroups = spec.PageSize / GroupTokens;
        bool headsFirst = spec.KvLayout == KvLayout.Hnd;
        return TensorMapEncoder.Encode(
            context,
            spec.KvDtype,
            cache.KeyAddress(0),
            [column, GroupTokens, columns, headsFirst ? 1 : spec.KvHeads, Pages(cache) * pageGroups * (headsFirst ? spec.KvHeads : 1)],
            [cache.TokenElements, column, cache.HeadElements, GroupTokens * cache.TokenElements],
            [column, GroupTokens, columns, 1, GreatestDivisor(spec.PageSize, blockTokens) / GroupTokens]
        );
    }

    /// <summary>KV heads that each unit of a decode kernel takes.</summary>
    public static int UnitHeads(AttentionSpec spec, int unitsPerItem) => Math.Max(1, spec.KvHeads / unitsPerItem);

    private static long Pages(PagedKvCache cache) => 2L * cache.Layers * cache.TotalPages;

    private static int GreatestDivisor(int a, int b) => b == 0 ? a : GreatestDivisor(b, a % b);

    /// <summary>
    /// How much the L2 cache fetches at once where the rows of the heads alternate (NHD). One of 128 bytes takes the next head's along, to be
    /// read by another block soon; one that does not end at a multiple of 128 bytes would take along what nobody wants.
    /// </summary>
    private static L2Promotion Promotion(int unitBytes) =>
        unitBytes == 128 ? L2Promotion.Bytes256
        : unitBytes % 128 != 0 ? L2Promotion.Bytes64
        : L2Promotion.Bytes128;
}
