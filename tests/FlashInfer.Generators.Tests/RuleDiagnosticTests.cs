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
    [InlineData(1, 2, 1)]
    public void FI0005_not_a_multiple(int heads, int kvHeads, int nearest) =>
        Reports(
            $"heads: {heads}, kvHeads: {kvHeads}, headDim: 128, pageSize: 16, dtype: DType.BFloat16",
            (
                "FI0005",
                $"kvHeads: {kvHeads}",
                $"heads is {heads} and kvHeads is {kvHeads}; heads must be a multiple of kvHeads, since each key/value head serves heads / kvHeads query heads. The nearest kvHeads below is {nearest}."
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
    [InlineData("0")]
    [InlineData("-128")]
    public void FI0006_headDim(string headDim) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: {headDim}, pageSize: 16, dtype: DType.BFloat16",
            (
                "FI0006",
                $"headDim: {headDim}",
                $"headDim is {headDim}; supported: 64, 96, 128, 192, 256. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt({headDim})."
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
    [InlineData("DType.Float32", "", "Float32", "Float32")]
    [InlineData("DType.Int32", "", "Int32", "Int32")]
    [InlineData("DType.Float8E4M3", "", "Float8E4M3", "Float8E4M3")]
    [InlineData("DType.Float8E5M2", ", KvDtype = DType.BFloat16", "Float8E5M2", "BFloat16")]
    [InlineData("DType.BFloat16", ", KvDtype = DType.Int32", "BFloat16", "Int32")]
    [InlineData("(DType)(-1)", "", "-1", "-1")]
    [InlineData("(DType)99", "", "99", "99")]
    [InlineData("DType.Float16", ", KvDtype = DType.BFloat16", "Float16", "BFloat16")]
    [InlineData("DType.BFloat16", ", KvDtype = DType.Float16", "BFloat16", "Float16")]
    [InlineData("DType.BFloat16", ", KvDtype = (DType)42", "BFloat16", "42")]
    public void FI0008_dtypes(string dtype, string kvDtype, string printed, string printedKv) =>
        Reports(
            $"heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: {dtype}{kvDtype}",
            (
                "FI0008",
                $"dtype: {dtype}",
                $"dtype is {printed} and KvDtype is {printedKv}; supported: dtype Float16 or BFloat16, with KvDtype the same, Float8E4M3 or Float8E5M2. Use one of the two for query and output, and leave KvDtype out unless the cache is to be quantised."
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
                "headDim is 72; supported: 64, 96, 128, 192, 256. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt(72)."
            ),
            ("FI0007", "pageSize: 0", "pageSize is 0; expected 1 to 1024 tokens per page. 16 suits most models."),
            (
                "FI0008",
                "dtype: DType.Int32",
                "dtype is Int32 and KvDtype is Int32; supported: dtype Float16 or BFloat16, with KvDtype the same, Float8E4M3 or Float8E5M2. Use one of the two for query and output, and leave KvDtype out unless the cache is to be quantised."
            ),
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
                "headDim is 72; supported: 64, 96, 128, 192, 256. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt(72)."
            )
        );

    private static string Config(string arguments) =>
        $"using FlashInfer;\n[AttentionConfig({arguments})]\npublic partial class LlamaAttention;\n";

    private static void Reports(string arguments, params (string Id, string Text, string Message)[] expected) =>
        DiagnosticAssert.Reports(
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
