using System.Globalization;
using System.Text;

namespace FlashInfer;

/// <summary>
/// Writes the CUDA translation units of a configuration: a page of readable text that fixes the constants, includes the kernel
/// family's header and states the entry points. A pure function of the shape, linked into the generator (which embeds the text) and
/// the runtime (for a configuration known only at run time): the same shape gives the same bytes in both.
/// </summary>
internal static partial class CudaUnits
{
    /// <summary>The version of the contract between units, kernel headers and runtime. A cubin of another version is refused.</summary>
    public const int AbiVersion = 7;

    private const string PagedDecode = "batch decode over a paged KV cache";

    private const string AnyQueryTokensLine = "  static constexpr int kQueryTokens = 0;  // any number";

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

    private static string VariantLine(AttentionShape s) =>
        s.Variant is null ? "  using Variant = flashinfer::NoVariant;" : "  using Variant = ::Variant;";

    private static string QueryTokensLine(int queryTokens) => Format("  static constexpr int kQueryTokens = {0};", queryTokens);

    private static string ValueDimLine(int valueDim) => Format("  static constexpr int kValueDim = {0};", valueDim);

    private static string Word(bool value) => value ? "true" : "false";

    private static string Element(DType dtype) => dtype == DType.Float16 ? "Half" : dtype.ToString();

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
