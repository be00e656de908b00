using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>Each rule of the table below, at and above its limits: where the diagnostic points and what it says.</summary>
public sealed class RuleDiagnosticTests
{
    private const int ArgumentsColumn = 18;

    [Theory]
    [InlineData("1, 1, 64, 1, DType.Float16")]
    [InlineData("1024, 1, 64, 1, DType.Float16")]
    [InlineData("1024, 1024, 64, 1024, DType.BFloat16")]
    [InlineData("32, 8, 64, 16, DType.Float16")]
    [InlineData("32, 8, 96, 16, DType.BFloat16")]
    [InlineData("32, 8, 128, 16, DType.BFloat16")]
    [InlineData("32, 8, 192, 16, DType.Float16")]
    [InlineData("32, 8, 256, 16, DType.BFloat16")]
    [InlineData("21, 3, 128, 17, DType.BFloat16")]
    [InlineData("32, 8, 128, 16, DType.Float16, KvDtype = DType.Float16")]
    [InlineData("32, 8, 128, 16, DType.BFloat16, KvDtype = DType.BFloat16, KvLayout = KvLayout.Nhd")]
    [InlineData("32, 8, 128, 16, DType.Float16, KvDtype = DType.Float8E4M3")]
    [InlineData("32, 8, 128, 16, DType.Float16, KvDtype = DType.Float8E5M2")]
    [InlineData("32, 8, 128, 16, DType.BFloat16, KvDtype = DType.Float8E4M3")]
    [InlineData("32, 8, 128, 16, DType.BFloat16, KvDtype = DType.Float8E5M2")]
    [InlineData("32, 8, 128, 16, DType.BFloat16, KvLayout = KvLayout.Hnd")]
    [InlineData("32, 8, 96, 16, DType.BFloat16, ValueDim = 96")]
    [InlineData("128, 128, 192, 16, DType.BFloat16, ValueDim = 128")]
    [InlineData("32, 8, 192, 16, DType.Float16, ValueDim = 192, KvDtype = DType.Float8E4M3")]
    [InlineData("dtype: (DType)1, pageSize: 16, headDim: 128, kvHeads: 8, heads: 32, KvLayout = (KvLayout)1")]
    public void Legal_values_have_no_diagnostic(string arguments) => DiagnosticAssert.Reports(Config(arguments));

    [Theory]
    [InlineData("0")]
    [InlineData("-1")]
    [InlineData("1025")]
    [InlineData("-2147483648")]
    [InlineData("2147483647")]
    public void FI0003_heads(string heads) =>
        Reports(
            $"heads: {heads}, kvHeads: 1, headDim: 128, pageSize: 16, dtype: DType.BFloat16",
            ("FI0003", $"heads: {heads}", $"heads is {heads}; expected 1 to 1024. Give the number of query heads of the model.")
        );

    [Theory]
    [InlineData("0")]
    [InlineData("-8")]
    [InlineData("-2147483648")]
    public void FI0004_kvHeads_below(string kvHeads) =>
        Reports(
            $"heads: 32, kvHeads: {kvHeads}, headDim: 128, pageSize: 16, dtype: DType.BFloat16",
            (
                "FI0004",
                $"kvHeads: {kvHeads}",
                $"kvHeads is {kvHeads}; expected 1 to 1024. Give the number of key/value heads of the model (equal to heads without grouped-query attention)."
            )
        );

    [Fact]
    public void FI0004_kvHeads_above() =>
        Reports(
            "heads: 2050, kvHeads: 1025, headDim: 128, pageSize: 16, dtype: DType.BFloat16",
            ("FI0003", "heads: 2050", "heads is 2050; expected 1 to 1024. Give the number of query heads of the model."),
            (
                "FI0004",
                "kvHeads: 1025",
                "kvHeads is 1025; expected 1 to 1024. Give the number of key/value heads of the model (equal to heads without grouped-query attention)."
            )
        );

    [Theory]
    [InlineData(31, 8, 1)]
    [InlineData(33, 8, 3)]
    [InlineData(32, 31, 16)]
    [InlineData(32, 33, 32)]
    [InlineData(1, 2, 1, "They look swapped: heads counts the query heads, of which there are more. ")]
    [InlineData(8, 32, 8, "They look swapped: heads counts the query heads, of which there are more. ")]
    public void FI0005_not_a_multiple(int heads, int kvHeads, int nearest, string swapped = "") =>
        Reports(
            $"heads: {heads}, kvHeads: {kvHeads}, headDim: 128, pageSize: 16, dtype: DType.BFloat16",
            (
                "FI0005",
                $"kvHeads: {kvHeads}",
                $"heads is {heads} and kvHeads is {kvHeads}; heads must be a multiple of kvHeads, since each key/value head serves heads / kvHeads query heads. {swapped}The nearest kvHeads below is {nearest}."
            )
        );

    [Theory]
    [InlineData("63")]
    [InlineData("65")]
    [InlineData("95")]
    [InlineData("97")]
    [InlineData("127")]
    [InlineData("129")]
    [InlineData("191")]
    [InlineData("193")]
    [InlineData("255")]
    [InlineData("257")]
    [InlineData("511")]
    [InlineData("513")]
    [InlineData("0")]
    [InlineData("-128")]
    public void FI0006_headDim(string headDim) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: {headDim}, pageSize: 16, dtype: DType.BFloat16",
            (
                "FI0006",
                $"headDim: {headDim}",
                $"headDim is {headDim}; supported: 64, 96, 128, 192, 256, 512. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt({headDim})."
            )
        );

    [Theory]
    [InlineData("0")]
    [InlineData("-1")]
    [InlineData("1025")]
    public void FI0007_pageSize(string pageSize) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: {pageSize}, dtype: DType.BFloat16",
            ("FI0007", $"pageSize: {pageSize}", $"pageSize is {pageSize}; expected 1 to 1024 tokens per page. 16 suits most models.")
        );

    [Theory]
    [InlineData("DType.Float32", "Float32", "")]
    [InlineData("DType.Int32", "Int32", "")]
    [InlineData("DType.Float8E4M3", "Float8E4M3", "; for an 8-bit cache give KvDtype = DType.Float8E4M3 beside one of these")]
    [InlineData("DType.Float8E5M2", "Float8E5M2", "; for an 8-bit cache give KvDtype = DType.Float8E5M2 beside one of these")]
    [InlineData("(DType)(-1)", "-1", "")]
    [InlineData("(DType)99", "99", "")]
    // A KvDtype that goes with another dtype is no second error.
    [InlineData("DType.Int32", "Int32", "", ", KvDtype = DType.BFloat16")]
    [InlineData("DType.Int32", "Int32", "", ", KvDtype = DType.Float8E5M2")]
    public void FI0008_dtype(string dtype, string printed, string hint, string kvDtype = "") =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: {dtype}{kvDtype}",
            ("FI0008", $"dtype: {dtype}", $"dtype is {printed}; supported: Float16, BFloat16. Query and output have 16 bits{hint}.")
        );

    [Theory]
    [InlineData("DType.BFloat16", "DType.Int32", "BFloat16", "Int32")]
    [InlineData("DType.BFloat16", "DType.Float32", "BFloat16", "Float32")]
    [InlineData("DType.Float16", "DType.BFloat16", "Float16", "BFloat16")]
    [InlineData("DType.BFloat16", "DType.Float16", "BFloat16", "Float16")]
    [InlineData("DType.BFloat16", "(DType)42", "BFloat16", "42")]
    [InlineData("DType.BFloat16", "(DType)(-1)", "BFloat16", "-1")]
    public void FI0010_kvDtype(string dtype, string kvDtype, string printed, string printedKv) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: {dtype}, KvDtype = {kvDtype}",
            (
                "FI0010",
                $"KvDtype = {kvDtype}",
                $"KvDtype is {printedKv} and dtype is {printed}; supported: the same as dtype, Float8E4M3, Float8E5M2. Leave KvDtype out unless the cache is to be quantised."
            )
        );

    [Fact]
    public void FI0010_beside_FI0008_only_where_it_goes_with_no_dtype() =>
        Reports(
            "heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.Float32, KvDtype = DType.Int32",
            ("FI0008", "dtype: DType.Float32", "dtype is Float32; supported: Float16, BFloat16. Query and output have 16 bits."),
            (
                "FI0010",
                "KvDtype = DType.Int32",
                "KvDtype is Int32 and dtype is Float32; supported: the same as dtype, Float8E4M3, Float8E5M2. Leave KvDtype out unless the cache is to be quantised."
            )
        );

    [Theory]
    [InlineData("-1")]
    [InlineData("2")]
    public void FI0009_layout(string layout) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, KvLayout = (KvLayout)({layout})",
            ("FI0009", $"KvLayout = (KvLayout)({layout})", $"KvLayout is {layout}; expected KvLayout.Nhd or KvLayout.Hnd.")
        );

    [Theory]
    [InlineData("AttentionOptions.CustomMask | AttentionOptions.PackedCustomMask", "CustomMask, PackedCustomMask")]
    [InlineData("AttentionOptions.Rope | AttentionOptions.RopeInterleaved", "Rope, RopeInterleaved")]
    [InlineData("(AttentionOptions)512", "512")]
    public void FI0014_options(string options, string words) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, Options = {options}",
            (
                "FI0014",
                $"Options = {options}",
                $"Options is {words}; expected any of LogitsSoftCap, SlidingWindow, Alibi, Sinks, CustomMask, PackedCustomMask, Rope, RopeInterleaved, MultiItemScoring, but CustomMask or PackedCustomMask, Rope or RopeInterleaved, not both. Name the form that the mask and the pairs have."
            )
        );

    [Theory]
    [InlineData(192, 127)]
    [InlineData(192, 129)]
    [InlineData(192, 64)]
    [InlineData(192, 0)]
    [InlineData(192, -128)]
    [InlineData(128, 192)]
    [InlineData(256, 128)]
    [InlineData(128, 64)]
    public void FI0015_valueDim(int headDim, int valueDim) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: {headDim}, pageSize: 16, dtype: DType.BFloat16, ValueDim = {valueDim}",
            (
                "FI0015",
                $"ValueDim = {valueDim}",
                $"ValueDim is {valueDim} and headDim is {headDim}; supported: the same as headDim, or 128 with headDim 192. Leave ValueDim out where values are as long as keys, or pad values with zeros to headDim and leave the output's last elements."
            )
        );

    [Fact]
    public void FI0015_not_beside_a_headDim_without_kernels() =>
        Reports(
            "heads: 32, kvHeads: 8, headDim: 576, pageSize: 16, dtype: DType.BFloat16, ValueDim = 512",
            (
                "FI0006",
                "headDim: 576",
                "headDim is 576; supported: 64, 96, 128, 192, 256, 512. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt(576)."
            )
        );

    [Theory]
    [InlineData(20)]
    [InlineData(136)]
    [InlineData(-8)]
    public void FI0017_rotaryDim(int rotaryDim) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, Options = AttentionOptions.Rope, RotaryDim = {rotaryDim}",
            (
                "FI0017",
                $"RotaryDim = {rotaryDim}",
                $"RotaryDim is {rotaryDim}; expected a multiple of 8 up to headDim, 128. Leave it out when all elements of a head turn."
            )
        );

    [Fact]
    public void FI0017_nothing_turns() =>
        Reports(
            "heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, Options = AttentionOptions.Sinks, RotaryDim = 64",
            (
                "FI0017",
                "RotaryDim = 64",
                "RotaryDim is 64, but nothing turns: Options has neither Rope nor RopeInterleaved. Add one of them."
            )
        );

    [Fact]
    public void FI0018_headDim() =>
        Reports(
            "heads: 16, kvHeads: 1, headDim: 512, pageSize: 16, dtype: DType.BFloat16",
            (
                "FI0018",
                "headDim: 512",
                "headDim is 512: prefill has kernels up to 256, so this configuration has a cache and decode, and neither prefill nor cascades nor attention without a cache; decode takes up to 8 query tokens a sequence"
            )
        );

    [Theory]
    [InlineData("Float8E4M3")]
    [InlineData("Float8E5M2")]
    public void FI0016_no_cache(string kvDtype) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 192, pageSize: 16, dtype: DType.BFloat16, ValueDim = 128, KvDtype = DType.{kvDtype}",
            (
                "FI0016",
                $"KvDtype = DType.{kvDtype}",
                $"KvDtype is {kvDtype}, but a configuration with headDim 192 and ValueDim 128 has no cache, and ragged keys and values have the query's type; leave KvDtype out."
            )
        );

    [Fact]
    public void All_broken_rules_are_reported_each_once() =>
        Reports(
            "heads: 0, kvHeads: 0, headDim: 72, pageSize: 0, dtype: DType.Int32, KvLayout = (KvLayout)7",
            ("FI0003", "heads: 0", "heads is 0; expected 1 to 1024. Give the number of query heads of the model."),
            (
                "FI0004",
                "kvHeads: 0",
                "kvHeads is 0; expected 1 to 1024. Give the number of key/value heads of the model (equal to heads without grouped-query attention)."
            ),
            (
                "FI0006",
                "headDim: 72",
                "headDim is 72; supported: 64, 96, 128, 192, 256, 512. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt(72)."
            ),
            ("FI0007", "pageSize: 0", "pageSize is 0; expected 1 to 1024 tokens per page. 16 suits most models."),
            ("FI0008", "dtype: DType.Int32", "dtype is Int32; supported: Float16, BFloat16. Query and output have 16 bits."),
            ("FI0009", "KvLayout = (KvLayout)7", "KvLayout is 7; expected KvLayout.Nhd or KvLayout.Hnd.")
        );

    [Fact]
    public void A_positional_argument_is_found() =>
        Reports(
            "32, 8, 128, 4096, DType.BFloat16",
            ("FI0007", "4096", "pageSize is 4096; expected 1 to 1024 tokens per page. 16 suits most models.")
        );

    [Fact]
    public void Arguments_out_of_order_and_computed_are_found() =>
        Reports(
            "dtype: DType.BFloat16, pageSize: 16, headDim: 64 + 8, kvHeads: 8, heads: 32",
            (
                "FI0006",
                "headDim: 64 + 8",
                "headDim is 72; supported: 64, 96, 128, 192, 256, 512. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt(72)."
            )
        );

    [Theory]
    [InlineData("sm_80")]
    [InlineData("sm_80;sm_86;sm_89;sm_90;sm_90a")]
    [InlineData("sm_100, sm_100a, sm_100f, sm_120")]
    [InlineData(" sm_80 sm_80 ")]
    [InlineData("")]
    public void Known_architectures_have_no_diagnostic(string architectures) =>
        DiagnosticAssert.ReportsFor(architectures, Config("32, 8, 128, 16, DType.BFloat16"));

    [Theory]
    [InlineData("sm_75", "sm_75 is too old; the kernels need sm_80 or later. Remove it: such a GPU cannot run this library.")]
    [InlineData("sm_79", "sm_79 is too old; the kernels need sm_80 or later. Remove it: such a GPU cannot run this library.")]
    [InlineData("sm_81", "sm_81 is not a known architecture; expected LEGAL. Correct the name.")]
    [InlineData("sm_89a", "sm_89a is not a known architecture; expected LEGAL. Correct the name.")]
    [InlineData("sm_90f", "sm_90f is not a known architecture; expected LEGAL. Correct the name.")]
    [InlineData("sm_999", "sm_999 is not a known architecture; expected LEGAL. Correct the name.")]
    [InlineData("compute_80", "compute_80 is not an architecture; expected LEGAL. Write such names, separated by commas.")]
    [InlineData("sm_90aa", "sm_90aa is not an architecture; expected LEGAL. Write such names, separated by commas.")]
    [InlineData("sm_8", "sm_8 is not an architecture; expected LEGAL. Write such names, separated by commas.")]
    [InlineData("sm_a", "sm_a is not an architecture; expected LEGAL. Write such names, separated by commas.")]
    [InlineData("90", "90 is not an architecture; expected LEGAL. Write such names, separated by commas.")]
    public void FI0011_architecture(string architecture, string message) =>
        DiagnosticAssert.ReportsFor(
            $"sm_80, {architecture}",
            Config("32, 8, 128, 16, DType.BFloat16"),
            new ExpectedDiagnostic(
                "FI0011",
                1,
                1,
                "",
                "FlashInferArchitectures: " + message.Replace("LEGAL", TargetArchitecture.Legal, StringComparison.Ordinal)
            )
        );

    [Fact]
    public void FI0011_legal_set_in_words() =>
        Assert.Equal(
            "sm_80, sm_86, sm_87, sm_88, sm_89, sm_90, sm_100, sm_101, sm_103, sm_110, sm_120, sm_121, with a from sm_90 on and f from sm_100 on",
            TargetArchitecture.Legal
        );

    [Theory]
    [InlineData("sm_80,sm_89,sm_88", "sm_80, sm_88")]
    [InlineData("sm_86", "sm_86")]
    [InlineData("sm_89,sm_90a", null)]
    [InlineData("", null)]
    public void FI0012_emulated(string architectures, string? failing)
    {
        const string Arguments = "heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, KvDtype = DType.Float8E4M3";
        ReportsFor(
            architectures,
            Arguments,
            failing is null
                ? []
                :
                [
                    (
                        "FI0012",
                        "KvDtype = DType.Float8E4M3",
                        $"KvDtype is Float8E4M3, which {failing} can only convert in software; in hardware from sm_89 on. Use Float8E5M2, which is read without conversion everywhere, or take the architecture out of FlashInferArchitectures."
                    ),
                ]
        );
    }

    [Fact]
    public void FI0012_not_for_the_type_that_needs_no_conversion() =>
        ReportsFor("sm_80", "32, 8, 128, 16, DType.BFloat16, KvDtype = DType.Float8E5M2");

    [Theory]
    [InlineData("1", "sm_90a", true)]
    [InlineData("15", "sm_80,sm_90a", true)]
    [InlineData("16", "sm_90a", false)]
    [InlineData("17", "sm_90a", true)]
    [InlineData("32", "sm_90a", false)]
    [InlineData("5", "sm_90", false)]
    [InlineData("5", "sm_80,sm_100a", false)]
    [InlineData("5", "", false)]
    public void FI0013_pageSize(string pageSize, string architectures, bool isReported) =>
        ReportsFor(
            architectures,
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: {pageSize}, dtype: DType.BFloat16",
            isReported
                ?
                [
                    (
                        "FI0013",
                        $"pageSize: {pageSize}",
                        $"pageSize is {pageSize}, so decode on sm_90a does without the copy engine, which fetches 16 tokens of one page at a time. Use a multiple of 16 unless small pages matter more."
                    ),
                ]
                : []
        );

    [Fact]
    public void FI0013_not_without_a_cache() => ReportsFor("sm_90a", "32, 8, 192, 5, DType.BFloat16, ValueDim = 128");

    [Fact]
    public void An_illegal_shape_is_not_held_to_architectures() =>
        ReportsFor(
            "sm_80,sm_90a",
            "heads: 32, kvHeads: 8, headDim: 128, pageSize: 0, dtype: DType.BFloat16, KvDtype = DType.Float8E4M3",
            ("FI0007", "pageSize: 0", "pageSize is 0; expected 1 to 1024 tokens per page. 16 suits most models.")
        );

    private static string Config(string arguments) =>
        $"using FlashInfer;\n[AttentionConfig({arguments})]\npublic partial class LlamaAttention;\n";

    private static void Reports(string arguments, params (string Id, string Text, string Message)[] expected) =>
        ReportsFor("", arguments, expected);

    private static void ReportsFor(string architectures, string arguments, params (string Id, string Text, string Message)[] expected) =>
        DiagnosticAssert.ReportsFor(
            architectures,
            Config(arguments),
            [
                .. expected.Select(e => new ExpectedDiagnostic(
                    e.Id,
                    2,
                    // The attribute starts its line, so the column follows from the text.
                    ArgumentsColumn + arguments.IndexOf(e.Text, StringComparison.Ordinal),
                    e.Text,
                    e.Message
                )),
            ]
        );
}
