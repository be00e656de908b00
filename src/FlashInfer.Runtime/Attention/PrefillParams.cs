using System.Runtime.InteropServices;

namespace FlashInfer.Attention;

// What prefill kernels share with the host, mirrored in kernels/core/params.cuh as the structures of KernelParams.cs are.

/// <summary>Arguments of prefill; 768 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PrefillParams
{
    /// <summary>Query, [rows, heads, headDim].</summary>
    public nint Query;

    /// <summary>Keys: ragged [tokens, kvHeads, headDim]; paged those of one layer, [pages, pageSize, kvHeads, headDim] or HND.</summary>
    public nint Key;

    /// <summary>Values, as <see cref="Key"/>, of valueDim elements: headDim but where ragged.</summary>
    public nint Value;

    /// <summary>Output, [rows, heads, valueDim].</summary>
    public nint Output;

    /// <summary>Base-2 LSE, contiguous float [rows, heads], or 0.</summary>
    public nint Lse;

    /// <summary>The cache's page table, int32; 0 when ragged.</summary>
    public nint Pages;

    /// <summary><see cref="ListHeader"/> followed by <see cref="WorkItem"/>s, in the order in which blocks take them.</summary>
    public nint Plan;

    /// <summary>Partial outputs, float [slots, heads of the header, rows of a tile, valueDim]: sum of exp2(s - max) * v.</summary>
    public nint PartialOutput;

    /// <summary>Partial (max in base 2, sum) pairs, float2 [slots, heads of the header, rows of a tile].</summary>
    public nint PartialState;

    /// <summary>Arrival counters, uint32 [slots, heads of the header]; all zero between launches.</summary>
    public nint Counters;

    /// <summary>
    /// uint32, zero between launches: units taken beyond each block's first, blocks that are done. With <see cref="KernelFeatures.Stager"/> warps of
    /// blocks that are done, slices taken by stagers, rows that they staged, and of each 64 rows those that they did.
    /// </summary>
    public nint Queue;

    public long QueryRowStride;
    public long QueryHeadStride;
    public long OutputRowStride;
    public long OutputHeadStride;
    public long KeyTokenStride;
    public long KeyHeadStride;
    public long ValueTokenStride;
    public long ValueHeadStride;

    /// <summary>Paged: elements between two pages of keys.</summary>
    public long KeyPageStride;

    /// <summary>Paged: elements between two pages of values.</summary>
    public long ValuePageStride;

    /// <summary>Paged: first page of this layer's keys in <see cref="KeyMap"/>.</summary>
    public long KeyPage;

    /// <summary>Paged: first page of this layer's values in <see cref="ValueMap"/>.</summary>
    public long ValuePage;

    /// <summary>Paged: 8-token groups of the maps between two pages: pageSize / 8 (NHD), kvHeads * pageSize / 8 (HND).</summary>
    public int PageGroups;

    /// <summary>Paged: 8-token groups of the maps between two heads of a page: pageSize / 8 (HND); 0 when heads are a dimension of the maps (NHD).</summary>
    public int HeadGroups;

    /// <summary>What stored keys are multiplied by, float [kvHeads]; 0 unless they are quantised.</summary>
    public nint KeyScales;

    /// <summary>As <see cref="KeyScales"/>, for values.</summary>
    public nint ValueScales;

    /// <summary>Checked mode: the <see cref="KernelFault"/> that a violation is written to; else 0.</summary>
    public nint Fault;

    /// <summary>Checked mode: pages of the cache.</summary>
    public int PageCount;

    private readonly int _reserved0;

    /// <summary>What the unit's variant of attention is given, <see cref="VariantData"/> and its arguments; 0 without a variant.</summary>
    public nint Variant;

    /// <summary>
    /// With <see cref="KernelFeatures.Stager"/> the rows of keys, [rows, kvHeads, headDim], contiguous, that the kernel stages and attends to; then
    /// keys, values, pages and their strides are the cache's, and the maps of keys and values those of the rows.
    /// </summary>
    public nint StagedKey;

    /// <summary>Of values, as <see cref="StagedKey"/>.</summary>
    public nint StagedValue;

    /// <summary><see cref="ListHeader"/> and <see cref="StageItem"/>s, as <see cref="StageParams.Plan"/>.</summary>
    public nint Staged;

    // The maps are set where KernelFeatures.TensorMap asks for them. c is 64 columns, or 32 where headDim or valueDim is no multiple of 64; the
    // swizzle is over 2c bytes.

    /// <summary>
    /// With p = <see cref="KernelInfo.Pack"/>: {c, heads, rows, headDim / c}, box {c, min(p, 64), max(1, 64 / p), 1} where p is a power of two,
    /// else {c, p, <see cref="KernelInfo.TileTokens"/>, 1}.
    /// </summary>
    public TensorMap QueryMap;

    /// <summary>As <see cref="QueryMap"/> over valueDim / c columns, box {c, min(p, 16), max(1, 16 / p), valueDim / c, but 2 of 4}; used where p is a power of two.</summary>
    public TensorMap OutputMap;

    /// <summary>
    /// With b = <see cref="KernelInfo.BlockTokens"/>. Ragged: {c, tokens, headDim / c, kvHeads}, box {c, b, headDim / c, 1}. Paged: {c, 8,
    /// headDim / c, kvHeads (NHD) or 1 (HND), 8-token groups of all pages}, box {c, 8, headDim / c, 1, gcd(pageSize, b) / 8}; of a
    /// quantised cache c is headDim, where there are maps.
    /// </summary>
    public TensorMap KeyMap;

    /// <summary>As <see cref="KeyMap"/>, of valueDim / c columns.</summary>
    public TensorMap ValueMap;

    /// <summary>The arguments of decode for attention of any number of query tokens; all but the queue and the groups of the maps.</summary>
    public static PrefillParams Of(in DecodeParams args) =>
        new()
        {
            Query = args.Query,
            Key = args.Key,
            Value = args.Value,
            Output = args.Output,
            Lse = args.Lse,
            Pages = args.Pages,
            Plan = args.Plan,
            PartialOutput = args.PartialOutput,
            PartialState = args.PartialState,
            Counters = args.Counters,
            QueryRowStride = args.QueryRowStride,
            QueryHeadStride = args.QueryHeadStride,
            OutputRowStride = args.OutputRowStride,
            OutputHeadStride = args.OutputHeadStride,
            KeyTokenStride = args.TokenStride,
            KeyHeadStride = args.HeadStride,
            ValueTokenStride = args.TokenStride,
            ValueHeadStride = args.HeadStride,
            KeyPageStride = args.PageStride,
            ValuePageStride = args.PageStride,
            KeyPage = args.KeyPage,
            ValuePage = args.ValuePage,
            KeyScales = args.KeyScales,
            ValueScales = args.ValueScales,
            Fault = args.Fault,
            PageCount = args.PageCount,
            Variant = args.Variant,
            KeyMap = args.KvMap,
            ValueMap = args.KvMap,
        };
}
