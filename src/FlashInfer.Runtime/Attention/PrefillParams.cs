using System.Runtime.InteropServices;

namespace FlashInfer.Attention;

// What prefill kernels share with the host, mirrored in kernels/core/params.cuh as the structures of KernelParams.cs are.

/// <summary>Query rows of one sequence and one head that a block attends with at a time; 32 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PrefillItem
{
    /// <summary>First row of the query and the output.</summary>
    public int Row;

    /// <summary>How many, 1 to <see cref="KernelInfo.ColumnsPerUnit"/>.</summary>
    public int Rows;

    /// <summary>
    /// Row r of the item sees the first <c>Visible + r</c> tokens of the sequence: with causal attention, for an item that starts at query
    /// token t, <see cref="KvLength"/> - query tokens of the sequence + t + 1, which may be 0 or below; without it the length.
    /// </summary>
    public int Visible;

    /// <summary>Tokens of the sequence; no row sees more.</summary>
    public int KvLength;

    /// <summary>Paged: where the sequence's pages start in the page table. Ragged: row of its first key and value.</summary>
    public int KvStart;

    /// <summary>Query head.</summary>
    public int Head;

    private readonly int _reserved0;
    private readonly int _reserved1;
}

/// <summary>Arguments of prefill; 704 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PrefillParams
{
    /// <summary>Query, [rows, heads, headDim].</summary>
    public nint Query;

    /// <summary>Keys: ragged [tokens, kvHeads, headDim]; paged those of one layer, [pages, pageSize, kvHeads, headDim] or HND.</summary>
    public nint Key;

    /// <summary>Values, as <see cref="Key"/>.</summary>
    public nint Value;

    /// <summary>Output, [rows, heads, headDim].</summary>
    public nint Output;

    /// <summary>Base-2 LSE, contiguous float [rows, heads], or 0.</summary>
    public nint Lse;

    /// <summary>The cache's page table, int32; 0 when ragged.</summary>
    public nint Pages;

    /// <summary><see cref="ListHeader"/> followed by <see cref="PrefillItem"/>s, in the order in which blocks take them.</summary>
    public nint Plan;

    /// <summary>Two uint32, zero between launches: items taken beyond each block's first, blocks that are done.</summary>
    public nint Counters;

    public long QueryRowStride;
    public long QueryHeadStride;
    public long OutputRowStride;
    public long OutputHeadStride;
    public long KeyTokenStride;
    public long KeyHeadStride;
    public long ValueTokenStride;
    public long ValueHeadStride;

    /// <summary>Paged: elements between two pages of keys, and of values.</summary>
    public long PageStride;

    /// <summary>Paged: first page of this layer's keys in <see cref="KeyMap"/>.</summary>
    public long KeyPage;

    /// <summary>Paged: first page of this layer's values in <see cref="ValueMap"/>.</summary>
    public long ValuePage;

    /// <summary>Paged: 8-token groups of the maps between two pages: pageSize / 8 (NHD), kvHeads * pageSize / 8 (HND).</summary>
    public int PageGroups;

    /// <summary>Paged: 8-token groups of the maps between two heads of a page: pageSize / 8 (HND); 0 when heads are a dimension of the maps (NHD).</summary>
    public int HeadGroups;

    /// <summary>Checked mode: the <see cref="KernelFault"/> that a violation is written to; else 0.</summary>
    public nint Fault;

    /// <summary>Checked mode: pages of the cache.</summary>
    public int PageCount;

    private readonly int _reserved0;

    // The maps stand at multiples of 64 bytes.
    private readonly long _reserved1;
    private readonly long _reserved2;

    // The maps are set where KernelFeatures.TensorMap asks for them. c is 64 columns, or 32 where headDim is no multiple of 64; the
    // swizzle is over 2c bytes.

    /// <summary>{c, rows, headDim / c, heads}, box {c, <see cref="KernelInfo.ColumnsPerUnit"/>, headDim / c, 1}.</summary>
    public TensorMap QueryMap;

    /// <summary>As <see cref="QueryMap"/>, box {c, 64, 1, 1}.</summary>
    public TensorMap OutputMap;

    /// <summary>
    /// With b = <see cref="KernelInfo.Teams"/>. Ragged: {c, tokens, headDim / c, kvHeads}, box {c, b, headDim / c, 1}. Paged: {c, 8,
    /// headDim / c, kvHeads (NHD) or 1 (HND), 8-token groups of all pages}, box {c, 8, headDim / c, 1, gcd(pageSize, b) / 8}.
    /// </summary>
    public TensorMap KeyMap;

    /// <summary>As <see cref="KeyMap"/>.</summary>
    public TensorMap ValueMap;
}
