using System.Collections.Immutable;
using FlashInfer.Generators.Parsing;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Diagnostics;

namespace FlashInfer.Generators.Diagnostics;

/// <summary>Reports what keeps a variant of attention, written in C#, from becoming part of kernels.</summary>
[DiagnosticAnalyzer(LanguageNames.CSharp)]
public sealed class VariantAnalyzer : DiagnosticAnalyzer
{
    /// <inheritdoc/>
    public override ImmutableArray<DiagnosticDescriptor> SupportedDiagnostics => Descriptors.Variant;

    /// <inheritdoc/>
    public override void Initialize(AnalysisContext context)
    {
        context.ConfigureGeneratedCodeAnalysis(GeneratedCodeAnalysisFlags.Analyze | GeneratedCodeAnalysisFlags.ReportDiagnostics);
        context.EnableConcurrentExecution();
        context.RegisterSymbolAction(Analyze, SymbolKind.NamedType);
    }

    private static void Analyze(SymbolAnalysisContext context)
    {
        INamedTypeSymbol type = (INamedTypeSymbol)context.Symbol;
        if (AttributeReader.Find(type) is not null)
        {
            VariantParser.Check(type, context.Compilation, context.ReportDiagnostic, context.CancellationToken);
            return;
        }

        foreach ((ISymbol member, string attribute) in VariantParser.Marked(type))
        {
            context.ReportDiagnostic(
                Diagnostic.Create(Descriptors.VariantWithoutConfig, member.Locations[0], member.Name, attribute, type.Name)
            );
        }
    }
}
