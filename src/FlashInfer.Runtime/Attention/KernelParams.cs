using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashInfer.Attention;

// The structures that host and kernels share. Each is mirrored in kernels/core/params.cuh, which asserts the same sizes and offsets.
// Pointers are device addresses: GPU memory on CUDA, native memory on the CPU backend. Strides count elements, not bytes.

/// <summary>The first 16 bytes of every list that the host uploads; the list's items follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ListHeader
{
    /// <summary>Items in the list.</summary>
    public int Count;

    /// <summary>Decode and prefill: smScale * log2(e); for prefill above 0. Else 0.</summary>
    public float ScaleLog2;

    /// <summary>Head tiles that an item expands to, from its <see cref="WorkItem.Head"/> on; decode's own kernel does not ask.</summary>
    public int Heads;

    /// <summary>
    /// Decode: the last tokens of a sequence that this step may still write, at most. Their keys and values are read after the kernels
    /// before this one are done; all others may be read while those still run. Of <see cref="StageItem"/>s: rows of all of them.
    /// </summary>
    public int FreshTokens;
}

/// <summary>
/// Which sequence an item's query tokens belong to; item i of a list has context i. For variants of attention only.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ItemContext
{
    /// <summary>Place of the sequence in the batch.</summary>
    public int Sequence;

    /// <summary>Row of the sequence's first query token.</summary>
    public int FirstRow;

    /// <summary>Query tokens of the sequence.</summary>
    public int QoLen;

    /// <summary>Tokens of the sequence.</summary>
    public int KvLen;
}

/// <summary>Starts what a plan gives to a variant of attention; the variant's arguments follow. 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VariantData
{
    /// <summary>One <see cref="ItemContext"/> for each item of the list.</summary>
    public nint Contexts;

    private readonly long _reserved0;
}

/// <summary>
/// Query tokens of one sequence and a range of its keys and values that they attend to: what planners make and decode and prefill kernels
/// take; 32 bytes. On the device every item expands over heads.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct WorkItem
{
    /// <summary>First row of the query and the output.</summary>
    public int Row;

    /// <summary>First token of the range; a multiple of 16 (decode), of <see cref="KernelInfo.BlockTokens"/> (prefill).</summary>
    public int Begin;

    /// <summary>One past the last token; equal to <see cref="Begin"/> for an empty range.</summary>
    public int End;

    /// <summary>Paged: where the sequence's pages start in the page table. Ragged: row of its first key and value.</summary>
    public int KvStart;

    /// <summary>First partial-state slot of these query tokens when <see cref="Parts"/> is above 1.</summary>
    public int PartOffset;

    /// <summary>Which part of the sequence this is.</summary>
    public ushort Part;

    /// <summary>Parts that these query tokens' attention is cut into; 1 writes the output directly.</summary>
    public ushort Parts;

    /// <summary>Query tokens, 1 or more, on consecutive rows.</summary>
    public ushort QueryTokens;

    /// <summary>Prefill: first head tile, of <see cref="KernelInfo.Pack"/> query heads; decode: 0.</summary>
    public ushort Head;

    /// <summary>
    /// Query token t sees the first <c>Visible + t</c> tokens of the sequence, of those before <see cref="End"/>: with causal attention,
    /// for an item that starts at the sequence's query token n, the sequence's length - its query tokens + n + 1, which may be 0 or below;
    /// without it the length.
    /// </summary>
    public int Visible;

    /// <summary>One past the last token of the range that any of the query tokens sees; <see cref="Begin"/> or below when none sees one.</summary>
    public readonly int VisibleEnd => Math.Min(End, Visible + QueryTokens - 1);

    /// <summary>Writes all members, the first head: members in pairs, and those of 16 bits in fours, which are half as many stores.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Write(int row, int begin, int end, int kvStart, int partOffset, int part, int parts, int queryTokens, int visible)
    {
        ref ulong members = ref Unsafe.As<WorkItem, ulong>(ref this);
        members = (uint)row | ((ulong)(uint)begin << 32);
        Unsafe.Add(ref members, 1) = (uint)end | ((ulong)(uint)kvStart << 32);
        Unsafe.Add(ref members, 2) = (uint)partOffset | ((ulong)(uint)part << 32) | ((ulong)(uint)parts << 48);
        Unsafe.Add(ref members, 3) = (uint)queryTokens | ((ulong)(uint)visible << 32);
    }
}

/// <summary>Arguments of batch decode; 320 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DecodeParams
{
    /// <summary>Query, [rows, heads, headDim].</summary>
    public nint Query;

    /// <summary>Keys of one layer, [pages, pageSize, kvHeads, headDim] or HND.</summary>
    public nint Key;

    /// <summary>Values of one layer, as <see cref="Key"/>.</summary>
    public nint Value;

    /// <summary>Output, [rows, heads, headDim].</summary>
    public nint Output;

    /// <summary>Base-2 LSE, contiguous float [rows, heads], or 0.</summary>
    public nint Lse;

    /// <summary>The cache's page table, int32.</summary>
    public nint Pages;

    /// <summary><see cref="ListHeader"/> followed by <see cref="WorkItem"/>s.</summary>
    public nint Plan;

    /// <summary>Partial outputs, float [slots, units of an item, columns of a unit, headDim], normalised by nothing: sum of exp2(s - max) * v.</summary>
    public nint PartialOutput;

    /// <summary>Partial (max, sum) pairs, float2 [slots, units of an item, columns of a unit].</summary>
    public nint PartialState;

    /// <summary>Arrival counters, uint32 [slots, units of an item]; all zero between launches.</summary>
    public nint Counters;

    public long QueryRowStride;
    public long QueryHeadStride;
    public long OutputRowStride;
    public long OutputHeadStride;
    public long PageStride;

    /// <summary>Ragged: of the keys.</summary>
    public long TokenStride;

    /// <summary>Ragged: of the keys.</summary>
    public long HeadStride;

    /// <summary>First page of this layer's keys in <see cref="KvMap"/>; ragged: elements between two tokens of the values.</summary>
    public long KeyPage;

    /// <summary>First page of this layer's values in <see cref="KvMap"/>; ragged: elements between two heads of the values.</summary>
    public long ValuePage;

    /// <summary>What this layer's stored keys are multiplied by, float [kvHeads]; 0 unless the cache is quantised.</summary>
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

    /// <summary>The whole cache as the copy engine sees it; where <see cref="KernelFeatures.TensorMap"/> asks for it.</summary>
    public TensorMap KvMap;
}

/// <summary>A CUtensorMap, opaque; 128 bytes.</summary>
[InlineArray(16)]
internal struct TensorMap
{
    private ulong _first;
}

/// <summary>Up to 16 new tokens of one sequence; 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct AppendItem
{
    /// <summary>Row of the first token in the new keys and values.</summary>
    public int Row;

    /// <summary>Tokens, 1 to 16.</summary>
    public int Count;

    /// <summary>Position of the first token in its sequence.</summary>
    public int Position;

    /// <summary>Where the sequence's pages start in the page table.</summary>
    public int PageOffset;
}

/// <summary>Arguments of append; 136 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct AppendParams
{
    /// <summary>New keys, [tokens, kvHeads, headDim].</summary>
    public nint Key;

    /// <summary>New values, [tokens, kvHeads, headDim].</summary>
    public nint Value;

    /// <summary>Keys of one layer of the cache.</summary>
    public nint KeyCache;

    /// <summary>Values of one layer of the cache.</summary>
    public nint ValueCache;

    /// <summary>The cache's page table, int32.</summary>
    public nint Pages;

    /// <summary><see cref="ListHeader"/> followed by <see cref="AppendItem"/>s.</summary>
    public nint Plan;

    public long KeyRowStride;
    public long KeyHeadStride;
    public long ValueRowStride;
    public long ValueHeadStride;
    public long PageStride;
    public long TokenStride;
    public long HeadStride;

    /// <summary>What this layer's stored keys are multiplied by, float [kvHeads]; 0 unless the cache is quantised.</summary>
    public nint KeyScales;

    /// <summary>As <see cref="KeyScales"/>, for values.</summary>
    public nint ValueScales;

    /// <summary>Checked mode: the <see cref="KernelFault"/> that a violation is written to; else 0.</summary>
    public nint Fault;

    /// <summary>Checked mode: pages of the cache.</summary>
    public int PageCount;

    private readonly int _reserved0;
}

/// <summary>Up to 64 tokens of a sequence that are staged: copied from their pages into rows one behind the other, over no multiple of 64; 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct StageItem
{
    /// <summary>Row of the first token in the staged keys and values.</summary>
    public int Row;

    /// <summary>Tokens, 1 to 64.</summary>
    public int Count;

    /// <summary>Position of the first token in its sequence.</summary>
    public int Position;

    /// <summary>Where the sequence's pages start in the page table; ragged: row of its first key.</summary>
    public int PageOffset;
}

/// <summary>Arguments of staging; 96 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct StageParams
{
    /// <summary>Keys of one layer of the cache, or ragged ones, [tokens, kvHeads, headDim].</summary>
    public nint Key;

    /// <summary>Values of one layer of the cache; 0 when ragged: values stay where they are.</summary>
    public nint Value;

    /// <summary>Staged keys, [rows, kvHeads, headDim] of the query's type, turned where they turn; scales are not applied.</summary>
    public nint StagedKey;

    /// <summary>As <see cref="StagedKey"/>, never turned; 0 when ragged.</summary>
    public nint StagedValue;

    /// <summary>The cache's page table, int32; 0 when ragged.</summary>
    public nint Pages;

    /// <summary><see cref="ListHeader"/> followed by <see cref="StageItem"/>s.</summary>
    public nint Plan;

    public long PageStride;
    public long TokenStride;
    public long HeadStride;

    /// <summary>Checked mode: the <see cref="KernelFault"/> that a violation is written to; else 0.</summary>
    public nint Fault;

    /// <summary>Checked mode: pages of the cache.</summary>
    public int PageCount;

    private readonly int _reserved0;

    /// <summary>As <see cref="PrefillParams.Variant"/>.</summary>
    public nint Variant;
}

/// <summary>The first violation that a checked kernel met; 16 bytes, all zero when there was none.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KernelFault
{
    /// <summary>What was violated.</summary>
    public KernelFaultKind Kind;

    /// <summary>Row of the query (decode, prefill), of the new keys and values (append), or of the staged ones (staging).</summary>
    public int Row;

    /// <summary>The token of the sequence that the kernel was about to touch.</summary>
    public int Token;

    /// <summary>The value that was wrong.</summary>
    public int Value;
}

/// <summary>Values of <see cref="KernelFault.Kind"/>.</summary>
internal enum KernelFaultKind
{
    None = 0,

    /// <summary>The page table names a page that the cache does not have.</summary>
    PageOutOfRange = 1,
}

/// <summary>One changed entry of the page table; 8 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PageTableUpdate
{
    /// <summary>Index into the page table.</summary>
    public int Index;

    /// <summary>The page's id.</summary>
    public int Page;
}

/// <summary>Arguments of the page-table update; 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PageTableParams
{
    /// <summary>The cache's page table, int32; entries of the list are written.</summary>
    public nint Pages;

    /// <summary><see cref="ListHeader"/> followed by <see cref="PageTableUpdate"/>s.</summary>
    public nint Updates;
}

/// <summary>
/// Arguments of merging states of attention, each an output and its base-2 LSE: a first one, then others; 192 bytes. With <see cref="Indptr"/>
/// the states of all rows lie one behind the other, and others begin with the second of them.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct MergeStatesParams
{
    /// <summary>Output of the first state, [rows, heads, headDim].</summary>
    public nint First;

    /// <summary>Its LSE, [rows, heads].</summary>
    public nint FirstLse;

    /// <summary>Outputs of the others, [rows, others, heads, headDim].</summary>
    public nint Other;

    /// <summary>Their LSE, [rows, others, heads].</summary>
    public nint OtherLse;

    /// <summary>The result's output, [rows, heads, headDim]; may be <see cref="First"/>.</summary>
    public nint Output;

    /// <summary>The result's LSE, [rows, heads], or 0; may be <see cref="FirstLse"/>.</summary>
    public nint Lse;

    /// <summary>int32 [rows]: 0 where the first state is the result; or 0 for none.</summary>
    public nint Mask;

    /// <summary>int32 [rows + 1]: where the states of each row begin; or 0 where all have as many.</summary>
    public nint Indptr;

    public long FirstRowStride;
    public long FirstHeadStride;
    public long FirstLseRowStride;
    public long FirstLseHeadStride;
    public long OtherRowStride;
    public long OtherStateStride;
    public long OtherHeadStride;
    public long OtherLseRowStride;
    public long OtherLseStateStride;
    public long OtherLseHeadStride;
    public long OutputRowStride;
    public long OutputHeadStride;
    public long LseRowStride;
    public long LseHeadStride;

    /// <summary>Rows.</summary>
    public int Rows;

    /// <summary>States of a row besides the first; with <see cref="Indptr"/> all states.</summary>
    public int Others;

    /// <summary>Heads.</summary>
    public int Heads;

    /// <summary>Elements of a head.</summary>
    public int HeadDim;
}

/// <summary>What a cubin says of itself in the constant <c>NAME_info</c>; 52 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KernelInfo
{
    /// <summary><see cref="CudaUnits.AbiVersion"/> of the headers that it was compiled from.</summary>
    public int AbiVersion;

    /// <summary>Size of its argument structure.</summary>
    public int ParamsBytes;

    /// <summary>Threads of a block.</summary>
    public int Threads;

    /// <summary>Dynamic shared memory of a block.</summary>
    public int SharedBytes;

    /// <summary>Blocks meant to share an SM.</summary>
    public int BlocksPerSm;

    /// <summary>Units of work that one list item expands to (decode: kvHeads * tiles of columns; else 1).</summary>
    public int UnitsPerItem;

    /// <summary>What the host has to bring along, or may use.</summary>
    public KernelFeatures Features;

    /// <summary>Pairs of query token and head that a unit has room for: the rows of a prefill tile; else 0.</summary>
    public int ColumnsPerUnit;

    /// <summary>Units of work that a block works on at once: 1, but for decode kernels whose warps take units of their own.</summary>
    public int Crews;

    /// <summary>Decode: warps of a block, each of which is a team of its own in the kernel for short sequences; 1 where there is none.</summary>
    public int Teams;

    /// <summary>Prefill: query heads that share a tile; else 0.</summary>
    public int Pack;

    /// <summary>Prefill: query tokens of an item at most; else 0.</summary>
    public int TileTokens;

    /// <summary>Tokens of keys and values that a step takes: items begin at multiples of it.</summary>
    public int BlockTokens;
}

/// <summary>Bits of <see cref="KernelInfo.Features"/>.</summary>
[Flags]
internal enum KernelFeatures
{
    None = 0,

    /// <summary>Wants the tensor maps of its arguments.</summary>
    TensorMap = 1,

    /// <summary>Can share a unit of work between the blocks of a cluster.</summary>
    Clusters = 2,

    /// <summary>Stages the rows that it attends to.</summary>
    Stager = 4,
}
