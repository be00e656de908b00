using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>A whole cache as the copy engine sees it: keys and values of every layer are pages behind one another.</summary>
internal static class KvTensorMap
{
    /// <summary>Tokens that prefill's map counts pages by.</summary>
    public const int GroupTokens = 8;

    private const int DecodeTokens = 16;

    /// <summary>
    /// For decode: a row of a head is cut into columns of 128 bytes, or 64 or 32 where that does not divide it. Dimensions {elements of a
    /// column, pageSize, columns, kvHeads, pages of all layers}, box {elements of a column, 16, columns, KV heads of a unit, 1}: one box
    /// is one slab.
    /// </summary>
    /// <param name="context">The device's context.</param>
    /// <param name="cache">The cache.</param>
    /// <param name="unitsPerItem">Units of the kernel, as <see cref="KernelInfo.UnitsPerItem"/>: where they are fewer than KV heads, each takes several.</param>
    public static TensorMap ForDecode(CudaContext context, PagedKvCache cache, int unitsPerItem)
    {
        AttentionSpec spec = cache.Spec;
        int bytes = spec.KvDtype.Size();
        int rowBytes = spec.HeadDim * bytes;
        int column =
            (
                rowBytes % 128 == 0 ? 128
                : rowBytes % 64 == 0 ? 64
                : 32
            ) / bytes;
        int columns = spec.HeadDim / column;
        int heads = Math.Max(1, spec.KvHeads / unitsPerItem);
        return TensorMapEncoder.Encode(
            context,
            spec.KvDtype,
            cache.KeyAddress(0),
            [column, spec.PageSize, columns, spec.KvHeads, Pages(cache)],
            [cache.TokenElements, column, cache.HeadElements, cache.PageElements],
            [column, DecodeTokens, columns, heads, 1],
            Promotion(spec, rowBytes, heads)
        );
    }

    /// <summary>For prefill, as <see cref="PrefillParams.KeyMap"/> says, of pages of whole groups of 8 tokens.</summary>
    /// <param name="context">The device's context.</param>
    /// <param name="cache">The cache, not quantised.</param>
    /// <param name="blockTokens">Tokens that a step of the kernel takes.</param>
    public static TensorMap ForPrefill(CudaContext context, PagedKvCache cache, int blockTokens)
    {
        AttentionSpec spec = cache.Spec;
        int column = PrefillTensorMaps.Column(spec.HeadDim);
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

    private static long Pages(PagedKvCache cache) => 2L * cache.Layers * cache.TotalPages;

    private static int GreatestDivisor(int a, int b) => b == 0 ? a : GreatestDivisor(b, a % b);

    /// <summary>
    /// How much the L2 cache fetches at once. Where the rows of the heads alternate (NHD), one row of 128 bytes takes the next head's along, to
    /// be read by another block soon; short ones take those along that the same box reads; and a row alone that does not end at a multiple of
    /// 128 bytes would take along what nobody wants.
    /// </summary>
    private static L2Promotion Promotion(AttentionSpec spec, int rowBytes, int heads)
    {
        int unitBytes = heads * rowBytes;
        return spec.KvLayout == KvLayout.Hnd ? L2Promotion.Bytes128
            : unitBytes == 128 || (rowBytes < 128 && unitBytes % 256 == 0) ? L2Promotion.Bytes256
            : rowBytes > 128 && unitBytes % 128 != 0 ? L2Promotion.Bytes64
            : L2Promotion.Bytes128;
    }
}
