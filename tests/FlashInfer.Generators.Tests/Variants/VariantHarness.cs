using FlashInfer.Generators.Model;
using FlashInfer.Generators.Parsing;
using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace FlashInfer.Generators.Tests.Variants;

/// <summary>What the generator makes of a variant.</summary>
internal static class VariantHarness
{
    /// <summary>What the SDK and a project add to every file.</summary>
    public const string Usings = "global using System; global using System.Numerics; global using FlashInfer;";

    /// <summary>The configurations of the catalogue, by name, with their source.</summary>
    public static IReadOnlyDictionary<string, string> Catalogue { get; } =
        Directory
            .GetFiles(Path.Combine(TestPaths.RepositoryRoot, "tests", "Shared", "Variants"), "*.cs")
            .ToDictionary(static file => Path.GetFileNameWithoutExtension(file), File.ReadAllText);

    /// <summary>A compilation of source text as a project with the usual usings.</summary>
    public static CSharpCompilation Compile(string source) =>
        GeneratorHarness.Compile(GeneratorHarness.Parse(source), GeneratorHarness.Parse(Usings, "Usings.cs"));

    /// <summary>The model of the only configuration of a compilation, as the generator gets it.</summary>
    public static VariantModel Model(CSharpCompilation compilation)
    {
        INamedTypeSymbol type = compilation
            .GetSymbolsWithName(static _ => true, SymbolFilter.Type)
            .OfType<INamedTypeSymbol>()
            .Single(static type => AttributeReader.Find(type) is not null);
        VariantModel? model = VariantParser.Parse(type, compilation, CancellationToken.None);
        Assert.NotNull(model);
        return model;
    }

    /// <summary>A configuration with these members.</summary>
    public static string Config(string members) =>
        $$"""
            [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
            public partial class Subject
            {
            {{members}}
            }
            """;

    /// <summary>The CUDA text of a configuration with these members.</summary>
    public static string Cuda(string members) => Model(Compile(Config(members))).Cuda;
}
