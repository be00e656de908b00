using FlashInfer.CodeFixes;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>What is offered for each diagnostic, what the source is afterwards, and that all of a kind can be fixed at once.</summary>
public sealed class CodeFixTests
{
    private const string Attribute = "[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]";

    /// <summary>Ids without a fix, each for a reason: only the author knows the name, the place or the order.</summary>
    private static readonly string[] s_withoutFix =
    [
        "FI0011",
        "FI0018",
        "FI0102",
        "FI0103",
        "FI0105",
        "FI0106",
        "FI0107",
        "FI0108",
        .. Descriptors.Variant.Select(static d => d.Id),
    ];

    [Fact]
    public void Every_other_id_has_a_fix_in_one_provider() =>
        Assert.Equal(
            Descriptors.All.Select(static d => d.Id).Except(s_withoutFix).Order(),
            FixAssert.Providers.SelectMany(static provider => provider.FixableDiagnosticIds).Order()
        );

    [Theory]
    [InlineData("heads: 0, kvHeads: 8", "FI0003", "Change heads to 8", "heads: 8, kvHeads: 8")]
    [InlineData("heads: -32, kvHeads: 3", "FI0003", "Change heads to 3", "heads: 3, kvHeads: 3")]
    [InlineData("heads: 1025, kvHeads: 5", "FI0003", "Change heads to 1020", "heads: 1020, kvHeads: 5")]
    [InlineData("heads: 32, kvHeads: 0", "FI0004", "Change kvHeads to 32 (multi-head attention)", "heads: 32, kvHeads: 32")]
    [InlineData("heads: 32, kvHeads: 0", "FI0004", "Change kvHeads to 1", "heads: 32, kvHeads: 1")]
    [InlineData("heads: 8, kvHeads: 32", "FI0005", "Swap heads and kvHeads", "heads: 32, kvHeads: 8")]
    [InlineData("heads: 8, kvHeads: 32", "FI0005", "Change kvHeads to 8", "heads: 8, kvHeads: 8")]
    [InlineData("heads: 30, kvHeads: 8", "FI0005", "Change kvHeads to 6", "heads: 30, kvHeads: 6")]
    [InlineData("heads: 30, kvHeads: /* of 32 */ 8", "FI0005", "Change kvHeads to 6", "heads: 30, kvHeads: /* of 32 */ 6")]
    public void Heads(string heads, string id, string title, string expected) =>
        FixAssert.Fixes(Config(heads), id, title, Config(expected));

    [Theory]
    [InlineData("headDim: 0", "FI0006", "Change headDim to 64", "headDim: 64")]
    [InlineData("headDim: 80", "FI0006", "Change headDim to 96", "headDim: 96")]
    [InlineData("headDim: 64 + 8", "FI0006", "Change headDim to 96", "headDim: 96")]
    [InlineData("headDim: 255", "FI0006", "Change headDim to 256", "headDim: 256")]
    [InlineData("headDim: 128, pageSize: 0", "FI0007", "Change pageSize to 16", "headDim: 128, pageSize: 16")]
    [InlineData("headDim: 128, pageSize: 4096", "FI0007", "Change pageSize to 1024", "headDim: 128, pageSize: 1024")]
    [InlineData("headDim: 128, pageSize: 4096", "FI0007", "Change pageSize to 16", "headDim: 128, pageSize: 16")]
    public void Sizes(string sizes, string id, string title, string expected) => FixAssert.Fixes(Sized(sizes), id, title, Sized(expected));

    [Theory]
    [InlineData("DType.Float32", "FI0008", "Change dtype to BFloat16", "DType.BFloat16")]
    [InlineData("DType.Float32", "FI0008", "Change dtype to Float16", "DType.Float16")]
    [InlineData("(DType)9, KvDtype = DType.Float8E4M3", "FI0008", "Change dtype to Float16", "DType.Float16, KvDtype = DType.Float8E4M3")]
    [InlineData(
        "DType.Float8E4M3",
        "FI0008",
        "Change dtype to BFloat16, with Float8E4M3 for KvDtype",
        "DType.BFloat16, KvDtype = DType.Float8E4M3"
    )]
    [InlineData("DType.BFloat16, KvLayout = (KvLayout)2", "FI0009", "Change KvLayout to Hnd", "DType.BFloat16, KvLayout = KvLayout.Hnd")]
    [InlineData("DType.BFloat16, KvLayout = (KvLayout)2", "FI0009", "Change KvLayout to Nhd", "DType.BFloat16, KvLayout = KvLayout.Nhd")]
    [InlineData("DType.BFloat16, KvDtype = DType.Int32", "FI0010", "Remove KvDtype", "DType.BFloat16")]
    [InlineData(
        "DType.BFloat16, KvDtype = DType.Int32, KvLayout = KvLayout.Hnd",
        "FI0010",
        "Remove KvDtype",
        "DType.BFloat16, KvLayout = KvLayout.Hnd"
    )]
    [InlineData("DType.BFloat16, ValueDim = 64", "FI0015", "Remove ValueDim", "DType.BFloat16")]
    [InlineData("DType.BFloat16, RotaryDim = 64", "FI0017", "Remove RotaryDim", "DType.BFloat16")]
    [InlineData("DType.BFloat16, KvDtype = DType.Float16", "FI0010", "Change dtype to Float16", "DType.Float16")]
    public void Types(string dtype, string id, string title, string expected) => FixAssert.Fixes(Typed(dtype), id, title, Typed(expected));

    [Fact]
    public void Values_of_another_size()
    {
        const string Shape = "[AttentionConfig(heads: 32, kvHeads: 8, headDim: 192, pageSize: 16, dtype: DType.BFloat16, ValueDim = ";
        FixAssert.Fixes(Class(Shape + "64)]"), "FI0015", "Change ValueDim to 128", Class(Shape + "128)]"));
        FixAssert.Fixes(Class(Shape + "128, KvDtype = DType.Float8E5M2)]"), "FI0016", "Remove KvDtype", Class(Shape + "128)]"));

        static string Class(string attribute) => $"using FlashInfer;\n\n{attribute}\npublic partial class LlamaAttention;\n";
    }

    [Fact]
    public void Architectures()
    {
        FixAssert.Fixes(
            Typed("DType.BFloat16, KvDtype = DType.Float8E4M3"),
            "FI0012",
            "Change KvDtype to Float8E5M2",
            Typed("DType.BFloat16, KvDtype = DType.Float8E5M2"),
            "sm_80"
        );
        FixAssert.Fixes(
            Sized("headDim: 128, pageSize: 1"),
            "FI0013",
            "Change pageSize to 16",
            Sized("headDim: 128, pageSize: 16"),
            "sm_90a"
        );
        FixAssert.Fixes(
            Sized("headDim: 128, pageSize: 24"),
            "FI0013",
            "Change pageSize to 32",
            Sized("headDim: 128, pageSize: 32"),
            "sm_90a"
        );
        FixAssert.Fixes(
            Sized("headDim: 128, pageSize: 1023"),
            "FI0013",
            "Change pageSize to 1024",
            Sized("headDim: 128, pageSize: 1024"),
            "sm_90a"
        );
    }

    [Theory]
    [InlineData("heads: 32, kvHeads: 2000", "FI0004", "Change kvHeads to 32 (multi-head attention)")]
    [InlineData("heads: 30, kvHeads: 8", "FI0005", "Change kvHeads to 6")]
    public void Nothing_else_is_offered(string heads, string id, string title) =>
        Assert.Equal([title], FixAssert.Titles(Config(heads), id));

    [Theory]
    [InlineData("headDim: 513", "FI0006")]
    [InlineData("headDim: 1024", "FI0006")]
    public void Nothing_is_offered_where_no_number_is_right(string sizes, string id) => Assert.Empty(FixAssert.Titles(Sized(sizes), id));

    /// <summary>Each fix leads to a configuration that breaks one rule less, and no other.</summary>
    [Fact]
    public void A_fix_leads_to_no_other_error()
    {
        foreach (int heads in new[] { -1, 0, 7, 32, 1024, 1025 })
        {
            foreach (int kvHeads in new[] { -3, 0, 1, 5, 8, 64, 1024, 3000 })
            {
                AttentionShape shape = new(heads, kvHeads, 128, 16, DType.BFloat16, DType.BFloat16, KvLayout.Nhd);
                foreach (AttentionRule rule in AttentionRules.All.Where(rule => !rule.IsMet(shape)))
                {
                    foreach (ArgumentFix fix in RuleFixes.For(rule.Id, shape))
                    {
                        AttentionShape after = fix.Changes.Aggregate(shape, static (s, change) => With(s, change.Parameter, change.Value!));
                        Assert.True(rule.IsMet(after), $"{rule.Id}: {fix.Title} of {heads} on {kvHeads}");
                        Assert.DoesNotContain(
                            AttentionRules.All,
                            other => other.IsMet(shape) && !other.IsMet(after) && other.Id != "FI0005"
                        );
                        bool isLegalBeside = AttentionRules.All.All(other => other == rule || other.IsMet(shape));
                        Assert.True(!isLegalBeside || AttentionRules.IsLegal(after), $"{rule.Id}: {fix.Title} of {heads} on {kvHeads}");
                    }
                }
            }
        }

        static AttentionShape With(AttentionShape shape, string parameter, string value) =>
            parameter == "heads" ? shape with { Heads = int.Parse(value) } : shape with { KvHeads = int.Parse(value) };
    }

    [Fact]
    public void Partial()
    {
        FixAssert.Fixes(
            $"using FlashInfer;\n\n{Attribute}\npublic sealed class Llama;\n",
            "FI0001",
            "Make partial, with the types around it",
            $"using FlashInfer;\n\n{Attribute}\npublic sealed partial class Llama;\n"
        );
        FixAssert.Fixes(
            $"using FlashInfer;\n\n// Nothing before the keyword.\nclass Outer\n{{\n    {Attribute}\n    record Llama;\n}}\n",
            "FI0001",
            "Make partial, with the types around it",
            $"using FlashInfer;\n\n// Nothing before the keyword.\npartial class Outer\n{{\n    {Attribute}\n    partial record Llama;\n}}\n"
        );
    }

    [Fact]
    public void Modifiers()
    {
        FixAssert.Fixes(
            $"using FlashInfer;\n\n{Attribute}\npublic static partial class Llama;\n",
            "FI0002",
            "Replace 'static' by 'abstract'",
            $"using FlashInfer;\n\n{Attribute}\npublic abstract partial class Llama;\n"
        );
        FixAssert.Fixes(
            $"using FlashInfer;\n\n{Attribute}\nfile partial class Llama;\n",
            "FI0002",
            "Replace 'file' by 'internal'",
            $"using FlashInfer;\n\n{Attribute}\ninternal partial class Llama;\n"
        );
        Assert.Empty(FixAssert.Titles($"using FlashInfer;\n\n{Attribute}\npublic partial class Llama<T>;\n", "FI0002"));
    }

    [Fact]
    public void Using()
    {
        FixAssert.Fixes(
            Method("        // One row.\n        Llama.Query query = Llama.AllocateQuery(device, 1);"),
            "FI0104",
            "Declare with 'using'",
            Method("        // One row.\n        using Llama.Query query = Llama.AllocateQuery(device, 1);")
        );
        Assert.Empty(FixAssert.Titles(Method("        decode.Run(0, given);"), "FI0104"));
        Assert.Empty(
            FixAssert.Titles(
                Method("        Llama.Query query = Llama.AllocateQuery(device, 1);\n        query = Llama.AllocateQuery(device, 2);"),
                "FI0104"
            )
        );
    }

    [Fact]
    public void Plan() =>
        FixAssert.Fixes(
            Method(
                """
                        // All layers.
                        for (int layer = 0; layer < 2; layer++)
                        {
                            decode.Plan(batch);
                            decode.Run(layer, given, output);
                        }
                """
            ),
            "FI0101",
            "Plan once, before the loop",
            Method(
                """
                        decode.Plan(batch);
                        // All layers.
                        for (int layer = 0; layer < 2; layer++)
                        {
                            decode.Run(layer, given, output);
                        }
                """
            )
        );

    [Fact]
    public void All_at_once()
    {
        FixAssert.FixesAll(
            $"using FlashInfer;\n\npublic class Models\n{{\n    {Attribute}\n    public class A;\n\n    {Attribute}\n    public class B;\n}}\n",
            "FI0001",
            "Make partial, with the types around it",
            $"using FlashInfer;\n\npublic partial class Models\n{{\n    {Attribute}\n    public partial class A;\n\n    {Attribute}\n    public partial class B;\n}}\n"
        );
        FixAssert.FixesAll(
            "using FlashInfer;\n\n[AttentionConfig(8, 32, 128, 16, DType.Float16)]\npublic partial class A;\n\n[AttentionConfig(4, 12, 64, 16, DType.Float16)]\npublic partial class B;\n",
            "FI0005",
            "Swap heads and kvHeads",
            "using FlashInfer;\n\n[AttentionConfig(32, 8, 128, 16, DType.Float16)]\npublic partial class A;\n\n[AttentionConfig(12, 4, 64, 16, DType.Float16)]\npublic partial class B;\n"
        );
        FixAssert.FixesAll(
            "using FlashInfer;\n\n[AttentionConfig(8, 8, 80, 16, DType.Float16)]\npublic partial class A;\n\n[AttentionConfig(8, 8, 160, 16, DType.Float16)]\npublic partial class B;\n",
            "FI0006",
            "Change headDim to 96",
            "using FlashInfer;\n\n[AttentionConfig(8, 8, 96, 16, DType.Float16)]\npublic partial class A;\n\n[AttentionConfig(8, 8, 192, 16, DType.Float16)]\npublic partial class B;\n"
        );
        FixAssert.FixesAll(
            Method("        Llama.Query a = Llama.AllocateQuery(device, 1);\n        Llama.Key b = Llama.AllocateKey(device, 1);"),
            "FI0104",
            "Declare with 'using'",
            Method(
                "        using Llama.Query a = Llama.AllocateQuery(device, 1);\n        using Llama.Key b = Llama.AllocateKey(device, 1);"
            )
        );
    }

    private static string Config(string heads) =>
        $"using FlashInfer;\n\n[AttentionConfig({heads}, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]\npublic partial class Llama;\n";

    private static string Sized(string sizes) =>
        $"using FlashInfer;\n\n[AttentionConfig(heads: 32, kvHeads: 8, {sizes}{(sizes.Contains("pageSize", StringComparison.Ordinal) ? "" : ", pageSize: 16")}, dtype: DType.BFloat16)]\npublic partial class Llama;\n";

    private static string Typed(string dtype) =>
        $"using FlashInfer;\n\n[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: {dtype})]\npublic partial class Llama;\n";

    private static string Method(string statements) =>
        $$"""
            using FlashInfer;

            {{Attribute}}
            public partial class Llama;

            public static class Step
            {
                public static void Do(Device device, Llama.BatchDecodeWithPagedKvCache decode, Sequence[] batch, Llama.Query given, Llama.Output output)
                {
            {{statements}}
                }
            }

            """;
}
