using System.Collections.Generic;
using System.Text;

namespace FlashInfer;

/// <content>Which kernels a configuration has, and what they are called.</content>
internal static partial class CudaUnits
{
    /// <summary>Query tokens a sequence that decode kernels are made for: a wrapper takes the smallest that is enough.</summary>
    public static readonly IReadOnlyList<int> QueryTokens = new[] { 1, 2, 4, 8 };

    private const int WideRows = 128;

    /// <summary>Where prefill over staged keys and values gains: the one architecture whose own prefill kernel prepares blocks aside.</summary>
    public const string StagedArchitecture = "sm_90a";

    /// <summary>
    /// Whether there is a kernel of decode for more columns (query tokens times heads of a group) at once than decode's own usually takes:
    /// <see cref="HasTileDecode"/> or <see cref="HasWideUnits"/>.
    /// </summary>
    public static bool HasWideDecode(AttentionShape shape, int queryTokens) =>
        HasTileDecode(shape, queryTokens) || HasWideUnits(shape, queryTokens);

    /// <summary>
    /// Whether prefill's kernel decodes, since decode's own has room for 16 columns, or 8 where the head dimension is large, and reads keys
    /// and values again for the next. It widens quantised values slowly: there it only pays from the third time on.
    /// </summary>
    public static bool HasTileDecode(AttentionShape shape, int queryTokens)
    {
        int columns = shape.HeadDim <= 128 || (shape.HeadDim <= 192 && shape.PageSize % 16 == 0) ? 16 : 8;
        int reads = ((shape.GroupSize * queryTokens) + columns - 1) / columns;
        return shape.HasPrefill && reads > (shape.KvDtype == shape.Dtype ? 1 : 2) && WideReads(shape.GroupSize, queryTokens) < reads;
    }

    /// <summary>
    /// Whether decode's own kernel is made once more, with units of more KV heads: rows of 192 bytes become whole 256 bytes only in fours,
    /// which need the registers of a whole warp, and are slower where there are few sequences.
    /// </summary>
    public static bool HasWideUnits(AttentionShape shape, int queryTokens) =>
        shape.HeadDim == 96
        && !shape.IsQuantised
        && shape.KvLayout == KvLayout.Nhd
        && shape.PageSize % 16 == 0
        && shape.KvHeads % 4 == 0
        && shape.GroupSize <= 8
        && queryTokens == 1
        && shape.Variant is null;

    /// <summary>
    /// Whether decode's own kernel is made for one sequence over ragged keys and values, too: but where prefill's decodes, as
    /// <see cref="HasTileDecode"/> says of rows without pages.
    /// </summary>
    public static bool HasRaggedDecode(AttentionShape shape) =>
        shape.HasCache && shape.HasPrefill && !HasTileDecode(WithoutCache(shape) with { PageSize = 1 }, 1);

    /// <summary>
    /// Whether prefill's Hopper kernel prepares each block of keys and values for each tile that walks it: gathers its tokens, widens them,
    /// turns the keys. Then there is a kernel that stages them once for all tiles, and prefill over what it staged.
    /// </summary>
    /// <param name="shape">A legal shape.</param>
    /// <param name="isPaged">Over pages; else over ragged keys and values, of which keys that turn are staged.</param>
    public static bool HasStagedPrefill(AttentionShape shape, bool isPaged) =>
        shape.HasPrefill && (shape.Turns || (isPaged && (shape.PageSize % 8 != 0 || shape.IsQuantised))) && (shape.HasCache || !isPaged);

    /// <summary>Entry point of the decode kernel, and the name of its unit.</summary>
    /// <param name="shape">A legal shape.</param>
    /// <param name="queryTokens">The most query tokens of a sequence, one of <see cref="QueryTokens"/>.</param>
    /// <param name="teamUnits">Whether each team (a warp) takes units of its own (short sequences) instead of a block's warps sharing one.</param>
    /// <param name="isChecked">Whether the kernel checks what it reads.</param>
    public static string DecodeName(AttentionShape shape, int queryTokens = 1, bool teamUnits = false, bool isChecked = false) =>
        "fi_decode_"
        + Suffix(shape)
        + (HeadsFirst(shape) ? "_hnd" : "")
        + VariantSuffix(shape)
        + (queryTokens > 1 ? Format("_q{0}", queryTokens) : "")
        + (teamUnits ? "_team" : "")
        + Checked(isChecked);

    /// <summary>Entry point of the decode kernel for many columns, and the name of its unit; parameters as <see cref="DecodeName"/>.</summary>
    public static string WideDecodeName(AttentionShape shape, int queryTokens = 1, bool isChecked = false) =>
        "fi_decode_"
        + Suffix(shape)
        + VariantSuffix(shape)
        + (queryTokens > 1 ? Format("_q{0}", queryTokens) : "")
        + "_wide"
        + Checked(isChecked);

    /// <summary>Entry point of the append kernel, and the name of its unit; parameters as <see cref="DecodeName"/>.</summary>
    public static string AppendName(AttentionShape shape, bool isChecked = false) => "fi_append_" + Suffix(shape) + Checked(isChecked);

    /// <summary>Entry point of the prefill kernel over the paged KV cache; parameters as <see cref="DecodeName"/>.</summary>
    public static string PrefillPagedName(AttentionShape shape, bool isChecked = false) =>
        "fi_prefill_paged_" + Suffix(shape) + VariantSuffix(shape) + Checked(isChecked);

    /// <summary>Entry point of the prefill kernel over staged keys and values; parameters as <see cref="PrefillStaged"/>.</summary>
    public static string PrefillStagedName(AttentionShape shape, bool isPaged, bool isChecked = false) =>
        isPaged
            ? "fi_prefill_staged_" + Suffix(shape) + VariantSuffix(shape) + Checked(isChecked)
            : "fi_prefill_staged_ragged_" + HeadSuffix(WithoutCache(shape)) + VariantSuffix(shape);

    /// <summary>Entry point of the kernel that stages them, in the same unit.</summary>
    public static string StageName(AttentionShape shape, bool isPaged, bool isChecked = false) =>
        PrefillStagedName(shape, isPaged, isChecked).Replace("fi_prefill_staged_", "fi_stage_");

    /// <summary>
    /// Entry point of the prefill kernel over ragged keys and values, packed rows of no page size; there is nothing that a checked one
    /// would check.
    /// </summary>
    /// <param name="shape">A legal shape; its page size, layout and KV element type do not matter.</param>
    public static string PrefillRaggedName(AttentionShape shape) =>
        "fi_prefill_ragged_" + HeadSuffix(WithoutCache(shape)) + VariantSuffix(shape);

    /// <summary>Entry point of the decode kernel over ragged keys and values; as <see cref="PrefillRaggedName"/>.</summary>
    public static string DecodeRaggedName(AttentionShape shape) =>
        "fi_decode_ragged_" + HeadSuffix(WithoutCache(shape)) + VariantSuffix(shape);

    /// <summary>Entry point of the kernel that merges states of attention, and the name of its unit.</summary>
    /// <param name="dtype">Element type of outputs: of attention, or <see cref="DType.Float32"/>.</param>
    public static string MergeStatesName(DType dtype) => "fi_merge_states_" + (dtype == DType.Float32 ? "f32" : Short(dtype));

    /// <summary>How often a KV head is read for a group: heads share a tile as packed_heads of attention/prefill_work.cuh has it.</summary>
    private static int WideReads(int group, int queryTokens)
    {
        int pack = 1;
        for (int heads = 2; heads <= group && heads * queryTokens <= WideRows; heads++)
        {
            pack = group % heads == 0 ? heads : pack;
        }

        return group / pack;
    }

    /// <summary>Ragged keys and values have the query's type, whatever a cache holds.</summary>
    private static AttentionShape WithoutCache(AttentionShape s) => s with { KvDtype = s.Dtype };

    private static string Suffix(AttentionShape s) => HeadSuffix(s) + Format("_p{0}", s.PageSize);

    private static string HeadSuffix(AttentionShape s) =>
        Short(s.Dtype)
        + (s.KvDtype == s.Dtype ? "" : "_" + Short(s.KvDtype))
        + Format("_h{0}_kv{1}_d{2}", s.Heads, s.KvHeads, s.HeadDim)
        + (s.HasCache ? "" : Format("_dv{0}", s.ValueDim));

    /// <summary>Tells units of different variants apart: 32 bits of FNV-1a over the text.</summary>
    private static string VariantSuffix(AttentionShape s)
    {
        if (s.Variant is not { } variant)
        {
            return "";
        }

        uint hash = 2166136261;
        foreach (byte value in Encoding.UTF8.GetBytes(variant))
        {
            hash = unchecked((hash ^ value) * 16777619);
        }

        return Format("_v{0:x8}", hash);
    }

    private static bool HeadsFirst(AttentionShape s) => s.KvLayout == KvLayout.Hnd;

    private static string Checked(bool isChecked) => isChecked ? "_checked" : "";

    private static string Short(DType dtype) =>
        dtype switch
        {
            DType.Float16 => "f16",
            DType.BFloat16 => "bf16",
            DType.Float8E4M3 => "e4m3",
            _ => "e5m2",
        };
}
