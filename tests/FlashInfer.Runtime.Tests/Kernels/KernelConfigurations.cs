using System.Text;
using System.Text.RegularExpressions;
using FlashInfer.Tests.PublicApi;

namespace FlashInfer.Tests.Kernels;

/// <summary>
/// Which units the kernel tests compile, and for which architectures: said here alone. Configurations stand for all others: every group
/// kind, head dimension, element type of query and cache, and pages of one token, an odd number, one tile and several tiles.
/// </summary>
internal static partial class KernelConfigurations
{
    /// <summary>Every unit: the oldest architecture, which has the portable kernels, and Hopper, which has its own.</summary>
    public static readonly string[] MainArchitectures = ["sm_80", "sm_90a"];

    /// <summary>
    /// Of every family each head dimension once, and a quantised cache: the portable kernels with less shared memory, with instructions
    /// for 8-bit elements, on Hopper, and on what comes later. Those that NVRTC does not know yet are left out.
    /// </summary>
    public static readonly string[] OtherArchitectures = ["sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];

    /// <summary>Decode, and append with the first ones.</summary>
    public static readonly AttentionSpec[] Specs =
    [
        new(12, 12, 64, 1, DType.Float16),
        new(12, 4, 128, 5, DType.Float16),
        new(32, 8, 128, 16, DType.BFloat16),
        new(64, 8, 128, 16, DType.BFloat16),
        new(32, 2, 64, 64, DType.Float16),
        new(71, 1, 64, 16, DType.BFloat16),
        new(16, 16, 256, 16, DType.BFloat16),
        new(8, 1, 256, 5, DType.Float16),
        new(16, 1, 256, 1, DType.BFloat16, kvLayout: KvLayout.Hnd),
        new(32, 8, 96, 16, DType.BFloat16),
        new(12, 12, 192, 16, DType.Float16),
        new(16, 1, 192, 16, DType.BFloat16),
        new(32, 8, 128, 16, DType.BFloat16, DType.Float8E4M3),
        new(12, 12, 64, 5, DType.Float16, DType.Float8E4M3),
        new(12, 2, 96, 32, DType.Float16, DType.Float8E5M2, KvLayout.Hnd),
        new(24, 8, 192, 1, DType.BFloat16, DType.Float8E5M2),
        new(8, 1, 256, 16, DType.BFloat16, DType.Float8E4M3),
        new(8, 1, 512, 16, DType.BFloat16),
        new(12, 4, 512, 5, DType.Float16),
        new(8, 1, 512, 16, DType.BFloat16, DType.Float8E4M3),
    ];

    /// <summary>
    /// Prefill over pages: every head dimension with pages that the copy engine takes, whole and in pieces, and with pages whose tokens
    /// are gathered; checked where registers are scarcest; every head dimension over a quantised cache; and keys that turn.
    /// </summary>
    public static readonly TranslationUnit[] PrefillPaged =
    [
        Paged(Shape(32, 8, 128, 16, DType.BFloat16)),
        Paged(Shape(6, 2, 128, 24, DType.Float16), isChecked: true),
        Paged(Shape(12, 4, 128, 5, DType.Float16)),
        Paged(Shape(32, 2, 64, 64, DType.Float16)),
        Paged(Shape(71, 1, 64, 1, DType.BFloat16)),
        Paged(Shape(8, 2, 96, 16, DType.BFloat16)),
        Paged(Shape(8, 2, 192, 64, DType.Float16)),
        Paged(Shape(8, 2, 96, 5, DType.BFloat16)),
        Paged(Shape(8, 2, 192, 1, DType.Float16)),
        Paged(Shape(16, 16, 256, 16, DType.BFloat16)),
        Paged(Shape(16, 16, 256, 16, DType.BFloat16), isChecked: true),
        Paged(Shape(8, 1, 256, 1, DType.BFloat16)),
        Paged(Shape(8, 1, 256, 1, DType.BFloat16), isChecked: true),
        Paged(Shape(28, 4, 128, 5, DType.BFloat16), isChecked: true),
        Paged(Shape(32, 8, 128, 16, DType.BFloat16, DType.Float8E4M3)),
        Paged(Shape(28, 4, 128, 5, DType.Float16, DType.Float8E5M2), isChecked: true),
        Paged(Shape(71, 1, 64, 64, DType.Float16, DType.Float8E4M3)),
        Paged(Shape(12, 2, 96, 32, DType.BFloat16, DType.Float8E5M2)),
        Paged(Shape(24, 8, 192, 1, DType.BFloat16, DType.Float8E4M3)),
        Paged(Shape(8, 1, 256, 16, DType.BFloat16, DType.Float8E4M3)),
        Paged(Turning(32, 8, 128, 16, AttentionOptions.Rope).Shape),
        Paged(
            Turning(12, 4, 128, 5, AttentionOptions.RopeInterleaved | AttentionOptions.SlidingWindow | AttentionOptions.LogitsSoftCap).Shape
        ),
        Paged(Turning(32, 2, 64, 64, AttentionOptions.Rope).Shape),
        Paged(Turning(8, 2, 96, 1, AttentionOptions.Rope).Shape),
        Paged(Turning(8, 2, 96, 16, AttentionOptions.Rope, rotaryDim: 24).Shape),
        Paged(Turning(8, 2, 192, 16, AttentionOptions.Rope).Shape),
        Paged(Turning(8, 2, 192, 1, AttentionOptions.Rope).Shape),
        Paged(Turning(8, 1, 256, 1, AttentionOptions.RopeInterleaved).Shape),
        Paged(Turning(32, 8, 128, 16, AttentionOptions.Rope | AttentionOptions.MultiItemScoring).Shape),
        Paged(Turning(32, 8, 128, 16, AttentionOptions.Rope, kvDtype: DType.Float8E4M3).Shape),
        Paged(Turning(12, 4, 64, 1, AttentionOptions.RopeInterleaved, kvDtype: DType.Float8E5M2).Shape),
        Paged(Turning(8, 2, 96, 16, AttentionOptions.Rope, rotaryDim: 24, kvDtype: DType.Float8E4M3).Shape),
        Paged(Turning(8, 2, 192, 16, AttentionOptions.Rope, kvDtype: DType.Float8E4M3).Shape),
        Paged(Turning(8, 8, 64, 16, AttentionOptions.Rope | AttentionOptions.PackedCustomMask | AttentionOptions.MultiItemScoring).Shape),
    ];

    /// <summary>
    /// Staging, and prefill over what was staged: every head dimension with tokens that are gathered, over a quantised cache, and turning.
    /// </summary>
    public static readonly TranslationUnit[] PrefillStaged =
    [
        Staged(new(71, 1, 64, 1, DType.BFloat16)),
        Staged(Turning(32, 8, 64, 1, AttentionOptions.MultiItemScoring)),
        Staged(new(8, 2, 96, 5, DType.BFloat16)),
        Staged(new(32, 8, 128, 1, DType.BFloat16)),
        Staged(new(28, 4, 128, 5, DType.BFloat16), isChecked: true),
        Staged(new(8, 2, 192, 1, DType.Float16)),
        Staged(new(8, 1, 256, 1, DType.BFloat16)),
        Staged(new(71, 1, 64, 64, DType.Float16, DType.Float8E4M3)),
        Staged(new(12, 2, 96, 32, DType.BFloat16, DType.Float8E5M2)),
        Staged(new(32, 8, 128, 16, DType.BFloat16, DType.Float8E4M3)),
        Staged(new(28, 4, 128, 5, DType.Float16, DType.Float8E5M2), isChecked: true),
        Staged(new(24, 8, 192, 1, DType.BFloat16, DType.Float8E4M3)),
        Staged(new(8, 1, 256, 16, DType.BFloat16, DType.Float8E4M3)),
        Staged(Turning(32, 2, 64, 64, AttentionOptions.Rope)),
        Staged(Turning(8, 2, 96, 16, AttentionOptions.Rope, rotaryDim: 24)),
        Staged(Turning(32, 8, 128, 16, AttentionOptions.Rope)),
        Staged(Turning(12, 4, 128, 5, AttentionOptions.RopeInterleaved | AttentionOptions.SlidingWindow | AttentionOptions.LogitsSoftCap)),
        Staged(Turning(8, 2, 192, 16, AttentionOptions.Rope)),
        Staged(Turning(8, 1, 256, 1, AttentionOptions.RopeInterleaved)),
        Staged(Turning(32, 8, 128, 16, AttentionOptions.Rope, kvDtype: DType.Float8E4M3)),
        Staged(Turning(8, 2, 96, 16, AttentionOptions.Rope, rotaryDim: 24, kvDtype: DType.Float8E4M3)),
        Staged(Turning(8, 8, 64, 16, AttentionOptions.Rope | AttentionOptions.PackedCustomMask | AttentionOptions.MultiItemScoring)),
        Staged(Turning(32, 2, 64, 64, AttentionOptions.Rope), isPaged: false),
        Staged(Turning(8, 2, 96, 16, AttentionOptions.RopeInterleaved, rotaryDim: 24), isPaged: false),
        Staged(Turning(32, 8, 128, 16, AttentionOptions.Rope), isPaged: false),
        Staged(new(16, 16, 192, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.Rope), valueDim: 128), isPaged: false),
        Staged(Turning(8, 1, 256, 1, AttentionOptions.Rope), isPaged: false),
    ];

    /// <summary>Prefill over ragged keys and values, of one head dimension and of two.</summary>
    public static readonly TranslationUnit[] PrefillRagged =
    [
        Ragged(Shape(32, 8, 128, 16, DType.BFloat16)),
        Ragged(Shape(12, 12, 64, 16, DType.Float16)),
        Ragged(Shape(8, 2, 96, 16, DType.BFloat16)),
        Ragged(Shape(8, 2, 192, 16, DType.BFloat16)),
        Ragged(Shape(8, 1, 256, 16, DType.Float16)),
        Ragged(Shape(16, 16, 192, 16, DType.BFloat16) with { ValueDim = 128 }),
        Ragged(Turning(16, 16, 192, 16, AttentionOptions.Rope).Shape with { ValueDim = 128 }),
    ];

    /// <summary>Decode over ragged keys and values, whose rows are no pages; rows that are short, long, or turn.</summary>
    private static readonly TranslationUnit[] s_decodeRagged =
    [
        new AttentionSpec(32, 8, 128, 16, DType.BFloat16).DecodeRaggedUnit,
        new AttentionSpec(12, 12, 64, 16, DType.Float16).DecodeRaggedUnit,
        new AttentionSpec(8, 2, 96, 16, DType.BFloat16).DecodeRaggedUnit,
        new AttentionSpec(8, 2, 192, 16, DType.BFloat16).DecodeRaggedUnit,
        new AttentionSpec(8, 1, 256, 16, DType.Float16).DecodeRaggedUnit,
        new AttentionSpec(32, 8, 128, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.Rope)).DecodeRaggedUnit,
    ];

    /// <summary>
    /// Prefill with options, and with variants of the catalogue as the generator's snapshots have them: hooks take registers where these are
    /// scarcest. With the names that tell them apart.
    /// </summary>
    public static readonly (string Name, TranslationUnit Unit)[] Variants =
    [
        Option(AttentionOptions.LogitsSoftCap),
        Option(AttentionOptions.Alibi),
        Option(AttentionOptions.PackedCustomMask),
        Option(AttentionOptions.LogitsSoftCap, headDim: 64),
        Option(AttentionOptions.Alibi, headDim: 64),
        Option(AttentionOptions.CustomMask, headDim: 64),
        Option(AttentionOptions.PackedCustomMask, headDim: 64),
        Option(AttentionOptions.MultiItemScoring, headDim: 64),
        Option(AttentionOptions.MultiItemScoring, headDim: 96),
        Option(AttentionOptions.SlidingWindow, headDim: 192),
        Option(AttentionOptions.PackedCustomMask | AttentionOptions.LogitsSoftCap, headDim: 96),
        Option(AttentionOptions.LogitsSoftCap | AttentionOptions.SlidingWindow, headDim: 256),
        Pair(AttentionOptions.Alibi | AttentionOptions.LogitsSoftCap, headDim: 64),
        Pair(AttentionOptions.MultiItemScoring | AttentionOptions.LogitsSoftCap, headDim: 96),
        Pair(AttentionOptions.MultiItemScoring | AttentionOptions.CustomMask, headDim: 96),
        Pair(AttentionOptions.CustomMask | AttentionOptions.Alibi, headDim: 128),
        Pair(AttentionOptions.Rope | AttentionOptions.CustomMask, headDim: 192),
        Pair(AttentionOptions.Rope | AttentionOptions.LogitsSoftCap, headDim: 192),
        Pair(AttentionOptions.Rope | AttentionOptions.MultiItemScoring, headDim: 256),
        Catalogue("SoftCapAttention"),
        Catalogue("TemperatureAttention"),
        Catalogue("DocumentMaskAttention"),
        Catalogue("QueryScaleAttention"),
        Catalogue("GatedAttention"),
    ];

    /// <summary>Decode of more columns than a unit of its own has room for.</summary>
    public static readonly TranslationUnit[] Wide =
    [
        new AttentionSpec(32, 1, 128, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(71, 1, 128, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(71, 1, 64, 5, DType.Float16).WideDecodeUnitFor(isChecked: true),
        new AttentionSpec(64, 2, 64, 64, DType.Float16).WideDecodeUnitFor(),
        new AttentionSpec(24, 1, 96, 16, DType.BFloat16).WideDecodeUnitFor(queryTokens: 2),
        new AttentionSpec(32, 8, 128, 16, DType.BFloat16).WideDecodeUnitFor(queryTokens: 8),
        new AttentionSpec(64, 1, 192, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(128, 1, 256, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(32, 1, 256, 16, DType.Float16).WideDecodeUnitFor(isChecked: true),
        new AttentionSpec(71, 1, 128, 16, DType.BFloat16, DType.Float8E4M3).WideDecodeUnitFor(),
        new AttentionSpec(32, 8, 96, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(32, 4, 96, 32, DType.Float16).WideDecodeUnitFor(isChecked: true),
        Turning(32, 8, 128, 16, AttentionOptions.Rope).WideDecodeUnitFor(queryTokens: 8).For("sm_90a"),
        Turning(64, 1, 256, 16, AttentionOptions.Rope).WideDecodeUnitFor().For("sm_90a"),
        Turning(12, 1, 192, 5, AttentionOptions.RopeInterleaved | AttentionOptions.SlidingWindow)
            .WideDecodeUnitFor(queryTokens: 8)
            .For("sm_90a"),
    ];

    /// <summary>
    /// Decode of every configuration; of two (pages that hold a tile, and pages that do not) in checked mode as well; of the usual one for
    /// short sequences and for several query tokens, up to as many columns as a block has room for.
    /// </summary>
    private static readonly TranslationUnit[] s_decode =
    [
        .. Specs.Select(spec => spec.DecodeUnit),
        .. Specs.Skip(1).Take(2).Select(spec => spec.DecodeUnitFor(isChecked: true)),
        Specs[2].DecodeUnitFor(teamUnits: true),
        Specs[2].DecodeUnitFor(queryTokens: 4),
        new AttentionSpec(32, 8, 128, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.Rope)).DecodeUnit,
        new AttentionSpec(32, 8, 128, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.Rope, 24)).DecodeUnit,
        new AttentionSpec(8, 2, 512, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.Rope)).DecodeUnit,
        Specs[3].DecodeUnitFor(queryTokens: 8, teamUnits: true),
        new AttentionSpec(71, 1, 128, 16, DType.BFloat16).DecodeUnitFor(queryTokens: 2),
        new AttentionSpec(8, 1, 192, 1, DType.BFloat16, DType.Float8E4M3).DecodeUnitFor(queryTokens: 4),
        new AttentionSpec(8, 1, 512, 1, DType.BFloat16).DecodeUnitFor(queryTokens: 8),
        new AttentionSpec(8, 1, 512, 16, DType.BFloat16).DecodeUnitFor(isChecked: true),
    ];

    private static readonly TranslationUnit[] s_append =
    [
        .. Specs.Select(spec => spec.AppendUnit),
        .. Specs.Skip(1).Take(2).Select(spec => spec.AppendUnitFor(isChecked: true)),
    ];

    // What merges states, of every element type.
    private static readonly TranslationUnit[] s_merge =
    [
        AttentionSpec.MergeStatesUnit(DType.BFloat16),
        AttentionSpec.MergeStatesUnit(DType.Float16),
        AttentionSpec.MergeStatesUnit(DType.Float32),
    ];

    /// <summary>All units.</summary>
    public static readonly TranslationUnit[] Units =
    [
        .. s_decode,
        .. s_append,
        .. s_merge,
        .. Wide,
        .. PrefillPaged,
        .. PrefillStaged,
        .. PrefillRagged,
        .. s_decodeRagged,
        .. Variants.Select(static variant => variant.Unit),
    ];

    /// <summary>The units of a compiler's architectures, each for those that it serves.</summary>
    /// <param name="isKnown">Whether the compiler knows an architecture.</param>
    public static IEnumerable<(TranslationUnit Unit, string Architecture)> Compilations(Func<string, bool> isKnown) =>
        from one in AllCompilations(isKnown)
        where one.Unit.Serves(one.Architecture)
        select one;

    private static IEnumerable<(TranslationUnit Unit, string Architecture)> AllCompilations(Func<string, bool> isKnown) =>
        [
            .. MainArchitectures.Where(isKnown).SelectMany(static name => Units.Select(unit => (unit, name))),
            .. OtherArchitectures
                .Where(isKnown)
                .SelectMany(static name => Units.DistinctBy(static unit => Kind(unit.Name)).Select(unit => (unit, name))),
        ];

    /// <summary>What tells units for <see cref="OtherArchitectures"/> apart, by a name such as fi_decode_bf16_e4m3_h32_kv1_d128_p16_wide.</summary>
    public static (string Family, bool IsWide, string Elements) Kind(string unit)
    {
        Match name = UnitName().Match(unit);
        string elements = name.Groups["quantised"].Success ? "8 bit" : name.Groups["dims"].Value;
        return name.Success ? (name.Groups["family"].Value, unit.EndsWith("_wide", StringComparison.Ordinal), elements) : (unit, false, "");
    }

    /// <summary>Whether queries and keys turn, which a unit's text says.</summary>
    public static bool Turns(string unit) => Units.First(one => one.Name == unit).Source.Span.IndexOf("Rope<"u8) >= 0;

    /// <summary>A unit's name for readers: with the name of its variant in place of a number that is another whenever the text is.</summary>
    public static string ReadableName(string unit) =>
        Variants.FirstOrDefault(variant => variant.Unit.Name == unit).Name is { } name ? $"{unit[..unit.LastIndexOf('_')]} {name}" : unit;

    [GeneratedRegex("^(?<family>fi_[a-z_]+?)_b?f16_(?<quantised>e[45]m[23]_)?h[0-9]+_kv[0-9]+_(?<dims>d[0-9]+(_dv[0-9]+)?)")]
    private static partial Regex UnitName();

    private static AttentionShape Shape(int heads, int kvHeads, int headDim, int pageSize, DType dtype, DType? kvDtype = null) =>
        new(heads, kvHeads, headDim, pageSize, dtype, kvDtype ?? dtype, KvLayout.Nhd);

    private static AttentionSpec Turning(
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        AttentionOptions options,
        int rotaryDim = 0,
        DType? kvDtype = null
    ) => new(heads, kvHeads, headDim, pageSize, DType.BFloat16, kvDtype, variant: AttentionVariant.Of(options, rotaryDim));

    private static TranslationUnit Staged(AttentionSpec spec, bool isPaged = true, bool isChecked = false) =>
        spec.PrefillStagedUnitFor(isPaged, isChecked).For(CudaUnits.StagedArchitecture);

    private static TranslationUnit Paged(AttentionShape shape, bool isChecked = false) =>
        new(CudaUnits.PrefillPagedName(shape, isChecked), Encoding.UTF8.GetBytes(CudaUnits.PrefillPaged(shape, isChecked)));

    private static (string Name, TranslationUnit Unit) Option(AttentionOptions option, int headDim = 128) =>
        Variant($"{option}".Replace(", ", " ", StringComparison.Ordinal), AttentionVariant.Of(option)!.Cuda, headDim);

    // Options that between them take more registers than others: Hopper's matter, where these are scarcest.
    private static (string Name, TranslationUnit Unit) Pair(AttentionOptions options, int headDim)
    {
        (string name, TranslationUnit unit) = Option(options, headDim);
        return (name, unit.For("sm_90a"));
    }

    private static (string Name, TranslationUnit Unit) Catalogue(string name) =>
        Variant(
            name,
            "#include \"core/csharp.cuh\"\n"
                + File.ReadAllText(
                    ApprovedFile.RepositoryPath(
                        "tests",
                        "FlashInfer.Generators.Tests",
                        "Snapshots",
                        $"VariantCatalogueTests.Cuda#{name}.verified.cu"
                    )
                )
        );

    private static (string Name, TranslationUnit Unit) Variant(string name, string cuda, int headDim = 128) =>
        (name, Paged(Shape(32, 8, headDim, 16, DType.BFloat16) with { Variant = cuda }));

    private static TranslationUnit Ragged(AttentionShape shape) =>
        new(CudaUnits.PrefillRaggedName(shape), Encoding.UTF8.GetBytes(CudaUnits.PrefillRagged(shape)));
}
