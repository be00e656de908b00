using System.Collections;
using System.Reflection;
using FlashInfer.Generators.Emit;
using FlashInfer.Generators.Model;
using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace FlashInfer.Generators.Tests;

/// <summary>The model is values and nothing else, so that typing elsewhere costs nothing and no old compilation is kept alive.</summary>
public sealed class IncrementalityTests
{
    private const string Source = """
        using FlashInfer;

        namespace Models;

        public partial class Outer
        {
            [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
            public partial class LlamaAttention;
        }
        """;

    [Fact]
    public void Equal_source_gives_equal_models()
    {
        AttentionModel first = Model(Source);
        AttentionModel second = Model(Source);
        Assert.NotSame(first, second);
        Assert.Equal(first, second);
        Assert.Equal(first.GetHashCode(), second.GetHashCode());
    }

    [Theory]
    [InlineData("// A comment moves everything.\n\n\n", "")]
    [InlineData("", "\n\npublic class Unrelated { public int Member => 1; }\n")]
    public void Moved_code_gives_equal_models(string before, string after)
    {
        AttentionModel first = Model(Source);
        AttentionModel second = Model(before + Source + after);
        Assert.Equal(first, second);
        Assert.Equal(first.GetHashCode(), second.GetHashCode());
    }

    [Fact]
    public void Another_spelling_of_the_same_values_gives_equal_models()
    {
        AttentionModel positional = Model(Source.Replace("heads: 32, kvHeads: 8", "1 << 5, 4 + 4", StringComparison.Ordinal));
        Assert.Equal(Model(Source), positional);
    }

    [Theory]
    [InlineData("heads: 32", "heads: 64")]
    [InlineData("kvHeads: 8", "kvHeads: 4")]
    [InlineData("headDim: 128", "headDim: 64")]
    [InlineData("pageSize: 16", "pageSize: 32")]
    [InlineData("DType.BFloat16", "DType.Float16")]
    [InlineData("DType.BFloat16)", "DType.BFloat16, KvDtype = DType.Float16)")]
    [InlineData("DType.BFloat16)", "DType.BFloat16, KvLayout = KvLayout.Hnd)")]
    [InlineData("LlamaAttention", "OtherAttention")]
    [InlineData("partial class LlamaAttention", "static partial class LlamaAttention")]
    [InlineData("partial class LlamaAttention", "partial record LlamaAttention")]
    [InlineData("partial class LlamaAttention", "partial class LlamaAttention<T>")]
    [InlineData("class Outer", "class Other")]
    [InlineData("partial class Outer", "partial struct Outer")]
    [InlineData("namespace Models", "namespace Other")]
    public void Another_value_gives_an_unequal_model(string text, string replacement)
    {
        string changed = Source.Replace(text, replacement, StringComparison.Ordinal);
        Assert.NotEqual(Source, changed);
        Assert.NotEqual(Model(Source), Model(changed));
    }

    [Fact]
    public void No_model_holds_anything_of_the_compilation()
    {
        CSharpCompilation compilation = GeneratorHarness.Compile(GeneratorHarness.Parse(Source));
        GeneratorRunResult result = Assert.Single(GeneratorHarness.CreateDriver().RunGenerators(compilation).GetRunResult().Results);
        HashSet<object> seen = new(ReferenceEqualityComparer.Instance);
        int values = 0;
        foreach (string step in GeneratorHarness.Steps)
        {
            foreach ((object value, _) in result.TrackedSteps[step].SelectMany(static s => s.Outputs))
            {
                values++;
                Walk(value, step, seen);
            }
        }

        Assert.Equal(GeneratorHarness.Steps.Length, values);
    }

    [Fact]
    public void The_walk_would_find_a_symbol()
    {
        ISymbol symbol = GeneratorHarness.Compile(GeneratorHarness.Parse(Source)).Assembly;
        object model = new { Names = new object[] { "a", new KeyValuePair<string, object>("b", symbol) } };
        Assert.ThrowsAny<Xunit.Sdk.XunitException>(() => Walk(model, "model", new HashSet<object>(ReferenceEqualityComparer.Instance)));
    }

    [Theory]
    [InlineData("public class Unrelated { public int Member => 2; }")]
    [InlineData("[System.Obsolete] public partial class Unrelated { }")]
    [InlineData("this does not even parse")]
    public void An_unrelated_edit_runs_no_step_again(string edit)
    {
        SyntaxTree unrelated = GeneratorHarness.Parse("public class Unrelated { public int Member => 1; }", "Unrelated.cs");
        CSharpCompilation compilation = GeneratorHarness.Compile(GeneratorHarness.Parse(Source), unrelated);
        GeneratorDriver driver = GeneratorHarness.CreateDriver().RunGenerators(compilation);

        compilation = compilation.ReplaceSyntaxTree(unrelated, GeneratorHarness.Parse(edit, "Unrelated.cs"));
        GeneratorHarness.AssertCached(driver.RunGenerators(compilation).GetRunResult(), GeneratorHarness.Steps);
    }

    [Fact]
    public void An_edit_in_the_same_file_writes_nothing_again()
    {
        SyntaxTree tree = GeneratorHarness.Parse(Source);
        CSharpCompilation compilation = GeneratorHarness.Compile(tree);
        GeneratorDriver driver = GeneratorHarness.CreateDriver().RunGenerators(compilation);

        compilation = compilation.ReplaceSyntaxTree(tree, GeneratorHarness.Parse("// moved\n" + Source));
        GeneratorHarness.AssertCached(driver.RunGenerators(compilation).GetRunResult(), GeneratorHarness.Steps);
    }

    [Fact]
    public void Changing_one_configuration_leaves_the_others_cached()
    {
        const string Other = "[FlashInfer.AttentionConfig(8, 8, 64, 16, FlashInfer.DType.Float16)] public partial class Other;";
        SyntaxTree tree = GeneratorHarness.Parse(Other, "Other.cs");
        CSharpCompilation compilation = GeneratorHarness.Compile(GeneratorHarness.Parse(Source), tree);
        GeneratorDriver driver = GeneratorHarness.CreateDriver().RunGenerators(compilation);

        string changed = Other.Replace("64", "128", StringComparison.Ordinal);
        compilation = compilation.ReplaceSyntaxTree(tree, GeneratorHarness.Parse(changed, "Other.cs"));
        GeneratorRunResult result = Assert.Single(driver.RunGenerators(compilation).GetRunResult().Results);
        IncrementalStepRunReason[] reasons =
        [
            .. result
                .TrackedSteps[AttentionConfigGenerator.ModelStep]
                .SelectMany(static s => s.Outputs)
                .Select(static o => o.Reason)
                .Order(),
        ];
        Assert.Equal([IncrementalStepRunReason.Modified, IncrementalStepRunReason.Cached], reasons);
    }

    /// <summary>A large project: nothing of 100 configurations runs again for an edit elsewhere, and one for an edit of one.</summary>
    [Fact]
    public void In_a_project_of_100_configurations_an_edit_runs_what_it_changes()
    {
        const int Configs = 100;
        int files = ConfigEmitter.Emit(Model(Source), CancellationToken.None).Count;
        SyntaxTree[] trees =
        [
            .. Enumerable
                .Range(0, Configs)
                .Select(static i =>
                    GeneratorHarness.Parse(Source.Replace("LlamaAttention", $"Attention{i}", StringComparison.Ordinal), $"{i}.cs")
                ),
            GeneratorHarness.Parse("public class Unrelated { public int Member => 1; }", "Unrelated.cs"),
        ];
        CSharpCompilation compilation = GeneratorHarness.Compile(trees);
        GeneratorDriver driver = GeneratorHarness.CreateDriver().RunGenerators(compilation);

        compilation = compilation.ReplaceSyntaxTree(
            trees[^1],
            GeneratorHarness.Parse("public class Unrelated { public int Member => 2; }", "Unrelated.cs")
        );
        driver = driver.RunGenerators(compilation);
        GeneratorHarness.AssertCached(driver.GetRunResult(), GeneratorHarness.Steps);
        Assert.Equal((Configs * files) + 1, driver.GetRunResult().GeneratedTrees.Length); // and the attribute that lists them

        string changed = trees[50].ToString().Replace("pageSize: 16", "pageSize: 32", StringComparison.Ordinal);
        compilation = compilation.ReplaceSyntaxTree(trees[50], GeneratorHarness.Parse(changed, "50.cs"));
        GeneratorRunResult result = Assert.Single(driver.RunGenerators(compilation).GetRunResult().Results);
        // The list of names is the same.
        foreach (string step in GeneratorHarness.Steps.Where(static step => step != AttentionConfigGenerator.NamesStep))
        {
            Assert.Single(
                result.TrackedSteps[step].SelectMany(static s => s.Outputs),
                static o => o.Reason == IncrementalStepRunReason.Modified
            );
        }

        Assert.Single(
            result.TrackedOutputSteps.SelectMany(static s => s.Value).SelectMany(static s => s.Outputs),
            static o => o.Reason == IncrementalStepRunReason.Modified
        );
    }

    /// <summary>
    /// The body of a variant's method is part of what is emitted: an edit of it, or of a constant elsewhere that it reads, writes its
    /// configuration again and no other; any other edit writes nothing.
    /// </summary>
    [Theory]
    [InlineData("Sloped.cs", "logit + a.Slopes[at.Head]", "logit - a.Slopes[at.Head]", 1)]
    [InlineData("Sloped.cs", "logit + a", "/* moved */ logit  + a", 0)]
    [InlineData("Sloped.cs", "private static int Own => 1;", "private static int Own => 2;", 0)]
    [InlineData("Unrelated.cs", "Window = 64", "Window = 65", 1)]
    [InlineData("Unrelated.cs", "Member => 1", "Member => 2", 0)]
    public void An_edit_of_a_variant_writes_its_configuration_again_and_no_other(string file, string text, string replacement, int written)
    {
        const string Using = "using FlashInfer;\nusing System;\n";
        const string Attribute = "[AttentionConfig(heads: 8, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.Float16)]";
        Dictionary<string, string> files = new()
        {
            ["Sloped.cs"] =
                Using
                + Attribute
                + """
                    public partial class SlopedAttention
                    {
                        [VariantArguments]
                        public readonly ref struct Arguments
                        {
                            public required ReadOnlySpan<float> Slopes { get; init; }
                        }

                        [LogitsTransform]
                        private static float Transform(float logit, in LogitsContext at, in Arguments a) => logit + a.Slopes[at.Head];

                        private static int Own => 1;
                    }
                    """,
            ["Window.cs"] =
                Using
                + Attribute
                + """
                    public partial class WindowAttention
                    {
                        [FirstKey]
                        private static int First(in LogitsContext at) => at.QoPosition - Unrelated.Window;
                    }
                    """,
            ["Unrelated.cs"] = "public class Unrelated { public const int Window = 64; public int Member => 1; }",
        };
        CSharpCompilation compilation = GeneratorHarness.Compile([.. files.Select(static f => GeneratorHarness.Parse(f.Value, f.Key))]);
        GeneratorDriver driver = GeneratorHarness.CreateDriver().RunGenerators(compilation);
        HashSet<string> before = [.. driver.GetRunResult().GeneratedTrees.Select(static tree => tree.ToString())];

        string changed = files[file].Replace(text, replacement, StringComparison.Ordinal);
        Assert.NotEqual(files[file], changed);
        SyntaxTree tree = compilation.SyntaxTrees.Single(tree => tree.FilePath == file);
        GeneratorDriverRunResult run = driver
            .RunGenerators(compilation.ReplaceSyntaxTree(tree, GeneratorHarness.Parse(changed, file)))
            .GetRunResult();

        Assert.Equal(
            written,
            Assert
                .Single(run.Results)
                .TrackedOutputSteps.SelectMany(static step => step.Value)
                .SelectMany(static step => step.Outputs)
                .Count(static output => output.Reason == IncrementalStepRunReason.Modified)
        );
        string[] again =
        [
            .. run
                .GeneratedTrees.Where(tree => !before.Contains(tree.ToString()))
                .Select(static tree => Path.GetFileName(tree.FilePath).Split('.')[0])
                .Distinct(),
        ];
        Assert.Equal(written == 0 ? [] : [file == "Sloped.cs" ? "SlopedAttention" : "WindowAttention"], again);
    }

    private static AttentionModel Model(string source)
    {
        CSharpCompilation compilation = GeneratorHarness.Compile(GeneratorHarness.Parse(source));
        GeneratorRunResult result = Assert.Single(GeneratorHarness.CreateDriver().RunGenerators(compilation).GetRunResult().Results);
        (object value, _) = Assert.Single(Assert.Single(result.TrackedSteps[AttentionConfigGenerator.ModelStep]).Outputs);
        return Assert.IsType<AttentionModel>(value);
    }

    private static void Walk(object? node, string path, HashSet<object> seen)
    {
        if (node is null || (!node.GetType().IsValueType && !seen.Add(node)))
        {
            return;
        }

        Assert.False(
            node is ISymbol or SyntaxNode or SyntaxTree or SyntaxReference or Location or Compilation or SemanticModel or AttributeData,
            $"{path} holds a {node.GetType()}"
        );
        Type type = node.GetType();
        if (type.IsPrimitive || type.IsEnum || node is string or Type)
        {
            return;
        }

        if (node is IEnumerable items)
        {
            int index = 0;
            foreach (object? item in items)
            {
                Walk(item, $"{path}[{index++}]", seen);
            }
        }

        for (Type? t = type; t is not null; t = t.BaseType)
        {
            const BindingFlags Fields = BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly;
            foreach (FieldInfo field in t.GetFields(Fields))
            {
                Walk(field.GetValue(node), $"{path}.{field.Name}", seen);
            }
        }
    }
}
