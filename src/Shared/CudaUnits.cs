using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace FlashInfer;

/// <summary>
/// Writes the CUDA translation units of a configuration: a page of readable text that fixes the constants, includes the kernel
/// family's header and states the entry points. A pure function of the shape, linked into the generator (which embeds the text) and
/// the runtime (for a configuration known only at run time): the same shape gives the same bytes in both.
/// </summary>
internal static class CudaUnits
{
    /// <summary>The version of the contract between units, kernel headers and runtime. A cubin of another version is refused.</summary>
    public const int AbiVersion = 6;

    /// <summary>Query tokens a sequence that decode kernels are made for: a wrapper takes the smallest that is enough.</summary>
    public static readonly IReadOnlyList<int> QueryTokens = new[] { 1, 2, 4, 8 };

    private const int WideRows = 128;

    /// <summary>Where prefill over staged keys and values gains: the one architecture whose own prefill kernel prepares blocks aside.</summary>
    public const string StagedArchitecture = "sm_90a";

    private const string PagedDecode = "batch decode over a paged KV cache";

    private const string AnyQueryTokensLine = "  static constexpr int kQueryTokens = 0;  // any number";

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
        + (isChecked ? "_checked" : "");

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

    /// <summary>Entry point of the decode kernel for many columns, and the name of its unit; parameters as <see cref="DecodeName"/>.</summary>
    public static string WideDecodeName(AttentionShape shape, int queryTokens = 1, bool isChecked = false) =>
        "fi_decode_"
        + Suffix(shape)
        + VariantSuffix(shape)
        + (queryTokens > 1 ? Format("_q{0}", queryTokens) : "")
        + "_wide"
        + (isChecked ? "_checked" : "");

    /// <summary>Entry point of the append kernel, and the name of its unit; parameters as <see cref="DecodeName"/>.</summary>
    public static string AppendName(AttentionShape shape, bool isChecked = false) =>
        "fi_append_" + Suffix(shape) + (isChecked ? "_checked" : "");

    /// <summary>Entry point of the prefill kernel over the paged KV cache; parameters as <see cref="DecodeName"/>.</summary>
    public static string PrefillPagedName(AttentionShape shape, bool isChecked = false) =>
        "fi_prefill_paged_" + Suffix(shape) + VariantSuffix(shape) + (isChecked ? "_checked" : "");

    /// <summary>Entry point of the prefill kernel over staged keys and values; parameters as <see cref="PrefillStaged"/>.</summary>
    public static string PrefillStagedName(AttentionShape shape, bool isPaged, bool isChecked = false) =>
        isPaged
            ? "fi_prefill_staged_" + Suffix(shape) + VariantSuffix(shape) + (isChecked ? "_checked" : "")
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

    /// <summary>The unit of batch decode over the paged KV cache; parameters as <see cref="DecodeName"/>.</summary>
    public static string Decode(AttentionShape shape, int queryTokens = 1, bool teamUnits = false, bool isChecked = false) =>
        DecodeUnit(
            shape,
            PagedDecode,
            DecodeName(shape, queryTokens, teamUnits, isChecked),
            queryTokens,
            teamUnits,
            wideUnits: false,
            isChecked
        );

    /// <summary>The unit of decode of one query token over ragged keys and values.</summary>
    public static string DecodeRagged(AttentionShape shape) =>
        DecodeUnit(
            WithoutCache(shape) with
            {
                PageSize = 0,
                KvLayout = KvLayout.Nhd,
            },
            "decode over ragged keys and values",
            DecodeRaggedName(shape),
            queryTokens: 1,
            teamUnits: false,
            wideUnits: false,
            isChecked: false
        );

    /// <summary>The unit of batch decode for many columns; parameters as <see cref="WideDecodeName"/>.</summary>
    public static string WideDecode(AttentionShape shape, int queryTokens = 1, bool isChecked = false) =>
        HasWideUnits(shape, queryTokens)
            ? DecodeUnit(
                shape,
                PagedDecode,
                WideDecodeName(shape, queryTokens, isChecked),
                queryTokens,
                teamUnits: false,
                wideUnits: true,
                isChecked
            )
            : Unit(
                shape,
                "batch decode over a paged KV cache, many query heads a KV head",
                [Kernel("attention/prefill.cuh", "Prefill", WideDecodeName(shape, queryTokens, isChecked))],
                shape.PageSize,
                isChecked,
                VariantLine(shape),
                ValueDimLine(shape.ValueDim),
                QueryTokensLine(queryTokens)
            );

    /// <summary>The unit that writes new keys and values into the pages; parameters as <see cref="DecodeName"/>.</summary>
    public static string Append(AttentionShape shape, bool isChecked = false) =>
        Unit(
            shape with
            {
                Variant = null,
            },
            "append to a paged KV cache",
            [Kernel("cache/append.cuh", "Append", AppendName(shape, isChecked))],
            shape.PageSize,
            isChecked
        );

    /// <summary>The unit of batch prefill over the paged KV cache; parameters as <see cref="PrefillPagedName"/>.</summary>
    public static string PrefillPaged(AttentionShape shape, bool isChecked = false) =>
        Unit(
            shape,
            "batch prefill over a paged KV cache",
            [Kernel("attention/prefill.cuh", "Prefill", PrefillPagedName(shape, isChecked))],
            shape.PageSize,
            isChecked,
            VariantLine(shape),
            ValueDimLine(shape.ValueDim),
            AnyQueryTokensLine
        );

    /// <summary>The unit that stages keys and values, with batch prefill over them, ragged rows of the query's type.</summary>
    /// <param name="shape">A legal shape.</param>
    /// <param name="isPaged">Whether they come from a paged KV cache; else they are ragged, and values are taken as they are.</param>
    /// <param name="isChecked">Whether the kernel checks what it reads: there is nothing without pages.</param>
    public static string PrefillStaged(AttentionShape shape, bool isPaged, bool isChecked = false) =>
        Unit(
            isPaged ? shape : WithoutCache(shape),
            isPaged
                ? "batch prefill over keys and values staged from a paged KV cache"
                : "batch prefill over staged keys and ragged values",
            [
                new("attention/prefill.cuh", "Kernel", "Prefill<Config, true>", "Prefill", PrefillStagedName(shape, isPaged, isChecked)),
                new("attention/stage.cuh", "Staging", "Stage<Config>", "Stage", StageName(shape, isPaged, isChecked)),
            ],
            isPaged ? shape.PageSize : 0,
            isPaged && isChecked,
            VariantLine(shape),
            ValueDimLine(shape.ValueDim),
            AnyQueryTokensLine
        );

    /// <summary>The unit of batch prefill over ragged keys and values; parameters as <see cref="PrefillRaggedName"/>.</summary>
    public static string PrefillRagged(AttentionShape shape) =>
        Unit(
            WithoutCache(shape),
            "batch prefill over ragged keys and values",
            [Kernel("attention/prefill.cuh", "Prefill", PrefillRaggedName(shape))],
            0,
            false,
            VariantLine(shape),
            ValueDimLine(shape.ValueDim),
            AnyQueryTokensLine
        );

    /// <summary>Entry point of the kernel that merges states of attention, and the name of its unit.</summary>
    /// <param name="dtype">Element type of outputs: of attention, or <see cref="DType.Float32"/>.</param>
    public static string MergeStatesName(DType dtype) => "fi_merge_states_" + (dtype == DType.Float32 ? "f32" : Short(dtype));

    /// <summary>The unit that merges states of attention, of any heads and head dimension; parameter as <see cref="MergeStatesName"/>.</summary>
    public static string MergeStates(DType dtype)
    {
        Entry kernel = Kernel("attention/merge_states.cuh", "MergeStates", MergeStatesName(dtype));
        StringBuilder text = new();
        Line(text, "// <auto-generated/>");
        Line(text, $"// FlashInfer for .NET: merging states of attention. {dtype}.");
        Line(text, $"#include \"{kernel.Header}\"");
        Begin(text);
        Line(text, "struct Config {");
        Line(text, $"  using Element = flashinfer::{Element(dtype)};");
        Line(text, "};");
        End(text, [kernel]);
        return text.ToString();
    }

    private static string DecodeUnit(
        AttentionShape shape,
        string what,
        string name,
        int queryTokens,
        bool teamUnits,
        bool wideUnits,
        bool isChecked
    ) =>
        Unit(
            shape,
            what,
            [Kernel("attention/decode.cuh", "Decode", name)],
            shape.PageSize,
            isChecked,
            VariantLine(shape),
            QueryTokensLine(queryTokens),
            $"  static constexpr bool kTeamUnits = {Word(teamUnits)};",
            $"  static constexpr bool kWideUnits = {Word(wideUnits)};",
            $"  static constexpr bool kHeadsFirst = {Word(HeadsFirst(shape))};{(HeadsFirst(shape) ? "  // HND" : "")}"
        );

    /// <summary>A unit's text; a page size of 0 stands for ragged keys and values.</summary>
    private static string Unit(AttentionShape s, string what, Entry[] kernels, int pageSize, bool isChecked, params string[] more)
    {
        StringBuilder text = new();
        Line(text, "// <auto-generated/>");
        Line(text, $"// FlashInfer for .NET: {what}.");
        Line(
            text,
            $"// {s.Heads} heads, {s.KvHeads} kvHeads (group {s.GroupSize}), headDim {s.HeadDim}, {(s.HasCache ? "" : $"valueDim {s.ValueDim}, ")}{(pageSize > 0 ? $"pageSize {pageSize}, " : "")}{s.Dtype}, KV {s.KvDtype}."
        );
        (string includes, string variant) = Split(s.Variant);
        foreach (Entry kernel in kernels)
        {
            Line(text, $"#include \"{kernel.Header}\"");
        }

        text.Append(includes);
        Begin(text);
        if (variant.Length > 0)
        {
            Line(text, variant.TrimEnd());
            Line(text, "");
        }

        Line(text, "struct Config {");
        Line(text, $"  using Element = flashinfer::{Element(s.Dtype)};");
        Line(text, $"  using KvElement = flashinfer::{Element(s.KvDtype)};");
        Line(text, $"  static constexpr int kHeads = {s.Heads};");
        Line(text, $"  static constexpr int kKvHeads = {s.KvHeads};");
        Line(text, $"  static constexpr int kHeadDim = {s.HeadDim};");
        Line(text, $"  static constexpr int kPageSize = {pageSize};{(pageSize > 0 ? "" : "  // ragged")}");
        foreach (string line in more)
        {
            Line(text, line);
        }

        Line(text, $"  static constexpr bool kChecked = {Word(isChecked)};");
        Line(text, "};");
        End(text, kernels);
        return text.ToString();
    }

    private static void Begin(StringBuilder text)
    {
        Line(text, "");
        Line(text, $"static_assert(flashinfer::kAbiVersion == {AbiVersion},");
        Line(text, "              \"this unit and the kernel headers come from different versions of FlashInfer\");");
        Line(text, "");
        Line(text, "namespace {");
        Line(text, "");
    }

    private static void End(StringBuilder text, Entry[] kernels)
    {
        Line(text, "");
        foreach (Entry kernel in kernels)
        {
            Line(text, $"using {kernel.Alias} = flashinfer::{kernel.Type};");
        }

        Line(text, "");
        Line(text, "}  // namespace");
        foreach ((_, string alias, _, string family, string name) in kernels)
        {
            Line(text, "");
            Line(text, $"extern \"C\" __constant__ flashinfer::KernelInfo {name}_info = {alias}::info();");
            Line(text, "");
            Line(text, $"extern \"C\" __global__ void __launch_bounds__({alias}::kThreads, {alias}::kBlocksPerSm)");
            Line(text, $"    {name}(const __grid_constant__ flashinfer::{family}Params params) {{");
            Line(text, $"  {alias}::run(params);");
            Line(text, "}");
        }
    }

    /// <summary>The one kernel of a unit.</summary>
    private static Entry Kernel(string header, string family, string name) => new(header, "Kernel", family + "<Config>", family, name);

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

    /// <summary>The <c>#include</c> lines that a variant's text begins with, and the rest.</summary>
    private static (string Includes, string Body) Split(string? variant)
    {
        int at = 0;
        while (variant is not null && string.CompareOrdinal(variant, at, "#include", 0, 8) == 0)
        {
            at = variant.IndexOf('\n', at) + 1;
        }

        return variant is null ? ("", "") : (variant.Substring(0, at), variant.Substring(at));
    }

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

    private static string VariantLine(AttentionShape s) =>
        s.Variant is null ? "  using Variant = flashinfer::NoVariant;" : "  using Variant = ::Variant;";

    private static string QueryTokensLine(int queryTokens) => Format("  static constexpr int kQueryTokens = {0};", queryTokens);

    private static string ValueDimLine(int valueDim) => Format("  static constexpr int kValueDim = {0};", valueDim);

    private static bool HeadsFirst(AttentionShape s) => s.KvLayout == KvLayout.Hnd;

    private static string Word(bool value) => value ? "true" : "false";

    private static string Element(DType dtype) => dtype == DType.Float16 ? "Half" : dtype.ToString();

    private static string Short(DType dtype) =>
        dtype switch
        {
            DType.Float16 => "f16",
            DType.BFloat16 => "bf16",
            DType.Float8E4M3 => "e4m3",
            _ => "e5m2",
        };

    private static string Format(string format, params object[] values) => string.Format(CultureInfo.InvariantCulture, format, values);

    private static void Line(StringBuilder text, string line) => text.Append(line).Append('\n');

    /// <summary>A kernel of a unit.</summary>
    /// <param name="Header">Where its template stands.</param>
    /// <param name="Alias">What the unit calls it.</param>
    /// <param name="Type">The template of the configuration.</param>
    /// <param name="Family">Names the structure of its arguments.</param>
    /// <param name="Name">Its entry point.</param>
    private sealed record Entry(string Header, string Alias, string Type, string Family, string Name);
}
