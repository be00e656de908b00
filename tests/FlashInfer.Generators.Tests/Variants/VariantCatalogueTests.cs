using FlashInfer.Generators.Model;
using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests.Variants;

/// <summary>Variants as users write them, and the CUDA that they become.</summary>
public sealed class VariantCatalogueTests
{
    public static TheoryData<string> Names => [.. VariantHarness.Catalogue.Keys.Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Names))]
    public void Cuda(string name)
    {
        VariantModel model = VariantHarness.Model(VariantHarness.Compile(VariantHarness.Catalogue[name]));
        SnapshotAssert.Matches(model.Cuda, nameof(VariantCatalogueTests), name, "cu");
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Nothing_is_reported(string name) =>
        Assert.All(
            GeneratorHarness.RunProgram(VariantHarness.Catalogue[name], VariantHarness.Usings).Diagnostics(),
            static diagnostic => Assert.Equal(DiagnosticSeverity.Info, diagnostic.Severity)
        );
}
