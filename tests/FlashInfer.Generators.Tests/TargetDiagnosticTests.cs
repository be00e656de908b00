using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>Which classes can be configurations, what is said of the others, and that one mistake is one error.</summary>
public sealed class TargetDiagnosticTests
{
    private const string Attribute = "[FlashInfer.AttentionConfig(32, 8, 128, 16, FlashInfer.DType.BFloat16)]";

    private const string Global = "[global::FlashInfer.AttentionConfig(32, 8, 128, 16, global::FlashInfer.DType.BFloat16)]";

    [Theory]
    [InlineData("public partial class LlamaAttention;")]
    [InlineData("internal sealed partial class LlamaAttention { int Own => Heads; }")]
    [InlineData("public abstract partial class LlamaAttention;")]
    [InlineData("public partial record LlamaAttention;")]
    [InlineData("public partial record class LlamaAttention(int Layers);")]
    [InlineData("partial class @class;")]
    [InlineData("partial class @record;")]
    // A base class of the generated wrappers has members of these names.
    [InlineData("partial class Layers;")]
    [InlineData("partial class Device;")]
    [InlineData("partial class Sequence;")]
    [InlineData("partial class Cache;")]
    public void Classes_that_can(string declaration) => DiagnosticAssert.Reports($"{Attribute}\n{declaration}");

    [Fact]
    public void A_base_class_may_have_the_same_members() =>
        DiagnosticAssert.Reports(
            $$"""
            using FlashInfer;

            {{Attribute}}
            public partial class Base;

            [AttentionConfig(16, 8, 64, 16, DType.Float16)]
            public partial class Derived : Base
            {
                public static int Own(Query query, PagedKvCache cache) => Heads + query.Tokens + cache.Spec.Heads;
            }
            """
        );

    [Theory]
    [InlineData("System")]
    [InlineData("FlashInfer")]
    public void Names_that_hide_a_namespace(string name) => DiagnosticAssert.Reports($"namespace N;\n{Global}\npartial class {name};");

    [Theory]
    [InlineData("namespace A.B.C", "class")]
    [InlineData("partial class Outer", "class")]
    [InlineData("static partial class Outer", "record")]
    [InlineData("partial struct Outer", "class")]
    [InlineData("ref partial struct Outer", "class")]
    [InlineData("partial record Outer", "class")]
    [InlineData("readonly partial record struct Outer", "class")]
    [InlineData("partial interface Outer", "class")]
    [InlineData("namespace @namespace.@int", "class")]
    public void Containers_that_can(string container, string kind) =>
        DiagnosticAssert.Reports($"{container}\n{{\n{Attribute}\npublic partial {kind} LlamaAttention;\n}}");

    [Fact]
    public void Same_name_in_two_places_and_with_two_arities_gives_files_of_their_own()
    {
        GeneratorRun run = GeneratorHarness.Run(
            $$"""
            {{Attribute}} partial class A;
            namespace N { {{Attribute}} partial class A; }
            partial class O { {{Attribute}} partial class A; }
            partial class O<T> { {{Attribute}} partial class A; }
            """
        );
        string[] files = [.. run.Files.Select(static file => file.HintName)];
        Assert.Equal(
            ["A.g.cs", "N.A.g.cs", "O.A.g.cs", "O{T}.A.g.cs"],
            files.Where(static name => name.EndsWith("A.g.cs", StringComparison.Ordinal))
        );
        Assert.Equal(files.Length, files.Distinct(StringComparer.OrdinalIgnoreCase).Count());
    }

    [Fact]
    public void FI0001_class() =>
        DiagnosticAssert.Reports(
            $"{Attribute}\npublic class LlamaAttention;",
            new ExpectedDiagnostic(
                "FI0001",
                2,
                14,
                "LlamaAttention",
                "LlamaAttention is not partial, so nothing can be generated into LlamaAttention; add 'partial' to the declaration of LlamaAttention"
            )
        );

    [Fact]
    public void FI0001_containing_type() =>
        DiagnosticAssert.Reports(
            $"public class Outer {{ public partial struct Middle {{\n{Attribute}\npublic partial class LlamaAttention; }} }}",
            new ExpectedDiagnostic(
                "FI0001",
                1,
                14,
                "Outer",
                "Outer is not partial, so nothing can be generated into LlamaAttention; add 'partial' to the declaration of Outer"
            )
        );

    [Fact]
    public void FI0001_names_each_type() =>
        Assert.Equal(
            ["Outer", "LlamaAttention"],
            GeneratorHarness
                .Run($"class Outer {{ {Attribute} class LlamaAttention; }}")
                .Diagnostics()
                .Where(static d => d.Id == "FI0001")
                .Select(static d => d.GetMessage().Split(' ')[0])
        );

    [Theory]
    [InlineData(
        "static partial class LlamaAttention;",
        "LlamaAttention is static, but a configuration implements IAttentionConfig, which a static class cannot. Remove 'static'; write 'abstract' to forbid instances."
    )]
    [InlineData(
        "partial class LlamaAttention<T>;",
        "LlamaAttention has type parameters, but a configuration is one set of constants and kernels. Remove the type parameters."
    )]
    [InlineData(
        "file partial class LlamaAttention;",
        "LlamaAttention is local to its file, so generated code cannot add to it. Remove 'file'; write 'internal' or nest it as 'private' instead."
    )]
    [InlineData("partial class Query;", "Query has the name of a member that is generated into it. Rename the class.")]
    [InlineData("partial class PagedKvCache;", "PagedKvCache has the name of a member that is generated into it. Rename the class.")]
    public void FI0002_class(string declaration, string message)
    {
        string name = message.Split(' ')[0];
        DiagnosticAssert.Reports(
            $"{Attribute}\n{declaration}",
            new ExpectedDiagnostic("FI0002", 2, 1 + declaration.IndexOf(name, StringComparison.Ordinal), name, message)
        );
    }

    [Fact]
    public void FI0002_in_a_generic_type() =>
        DiagnosticAssert.Reports(
            $"partial class Outer<T> {{\n{Attribute}\npartial class LlamaAttention; }}",
            new ExpectedDiagnostic(
                "FI0002",
                3,
                15,
                "LlamaAttention",
                "LlamaAttention is nested in the generic type Outer, but a configuration is one set of constants and kernels. Move it out of Outer."
            )
        );

    /// <summary>One variant a configuration: with the methods beside options neither of them is silently left out.</summary>
    [Theory]
    [InlineData("[LogitsMask] private static bool Keep(in LogitsContext at) => at.KvPosition > 3;")]
    [InlineData("[FirstKey] private static int First(in LogitsContext at) => at.QoPosition - 64;")]
    public void FI0002_options_beside_methods(string method) =>
        DiagnosticAssert.Reports(
            $$"""
            using FlashInfer;
            [AttentionConfig(32, 8, 128, 16, DType.BFloat16, Options = AttentionOptions.LogitsSoftCap)]
            public partial class LlamaAttention
            {
                {{method}}
            }
            """,
            new ExpectedDiagnostic(
                "FI0002",
                3,
                22,
                "LlamaAttention",
                "LlamaAttention has Options and a variant of attention of its own, but a configuration has one of them. Remove the options and write what they do into the methods."
            )
        );

    [Fact]
    public void Class_and_values_are_reported_together() =>
        Assert.Equal(
            ["FI0007", "FI0002"],
            GeneratorHarness
                .Run("[FlashInfer.AttentionConfig(32, 8, 128, 0, FlashInfer.DType.BFloat16)] static partial class LlamaAttention;")
                .Diagnostics()
                .Select(static d => d.Id)
        );

    [Theory]
    [InlineData("CS7036", "[FlashInfer.AttentionConfig(32, 8, 128)]")]
    [InlineData("CS1503", "[FlashInfer.AttentionConfig(32, 8, 128, \"16\", FlashInfer.DType.BFloat16)]")]
    [InlineData("CS0103", "[FlashInfer.AttentionConfig(32, 8, 128, Unknown, FlashInfer.DType.BFloat16)]")]
    [InlineData("CS0246", "[FlashInfer.AttentionConfig(32, 8, 128, 16, FlashInfer.DType.BFloat16, Unknown = 1)]")]
    [InlineData("CS0182", "[FlashInfer.AttentionConfig(32, 8, 128, 16, FlashInfer.DType.BFloat16, KvDtype = LlamaAttention.Own)]")]
    public void What_the_compiler_reports_is_not_reported_again(string id, string attribute) =>
        Assert.Equal(
            [id],
            GeneratorHarness
                .Run($"{attribute}\npartial class LlamaAttention {{ public static FlashInfer.DType Own => Dtype; }}")
                .Diagnostics()
                .Select(static d => d.Id)
        );

    [Fact]
    public void Two_attributes_on_two_parts_are_the_compilers_error() =>
        Assert.Equal(
            ["CS0579"],
            GeneratorHarness
                .Run($"{Attribute} partial class LlamaAttention;\n{Attribute} partial class LlamaAttention {{ int Own => Heads; }}")
                .Diagnostics()
                .Select(static d => d.Id)
        );

    [Fact]
    public void An_attribute_of_the_same_name_elsewhere_is_not_ours() =>
        DiagnosticAssert.Reports("namespace Mine { class AttentionConfigAttribute : System.Attribute; [AttentionConfig] class A; }");

    [Fact]
    public void A_configuration_in_generated_code_is_checked_too() =>
        Assert.Equal(
            ["FI0003"],
            GeneratorHarness
                .Run("// <auto-generated/>\n[FlashInfer.AttentionConfig(0, 8, 128, 16, FlashInfer.DType.BFloat16)] partial class A;")
                .Diagnostics()
                .Select(static d => d.Id)
        );
}
