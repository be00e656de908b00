using System.Collections.Immutable;
using FlashInfer.Generators.Parsing;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Diagnostics;

namespace FlashInfer.Generators.Diagnostics;

/// <summary>Reports every condition that a class with <c>[AttentionConfig]</c> breaks, each once.</summary>
[DiagnosticAnalyzer(LanguageNames.CSharp)]
public sealed class AttentionConfigAnalyzer : DiagnosticAnalyzer
{
    /// <inheritdoc/>
    public override ImmutableArray<DiagnosticDescriptor> SupportedDiagnostics => Descriptors.All;

    /// <inheritdoc/>
    public override void Initialize(AnalysisContext context)
    {
        // A configuration that a tool wrote must be legal as well.
        context.ConfigureGeneratedCodeAnalysis(GeneratedCodeAnalysisFlags.Analyze | GeneratedCodeAnalysisFlags.ReportDiagnostics);
        context.EnableConcurrentExecution();
        context.RegisterSymbolAction(static context => Analyze(context), SymbolKind.NamedType);
    }

    private static void Analyze(SymbolAnalysisContext context)
    {
        INamedTypeSymbol type = (INamedTypeSymbol)context.Symbol;
        if (
            type.TypeKind != TypeKind.Class
            || AttributeReader.Find(type) is not { } attribute
            || attribute.ApplicationSyntaxReference?.GetSyntax(context.CancellationToken) is not AttributeSyntax syntax
        )
        {
            return;
        }

        foreach (INamedTypeSymbol notPartial in ConfigTarget.NotPartial(type))
        {
            context.ReportDiagnostic(Diagnostic.Create(Descriptors.NotPartial, notPartial.Locations[0], notPartial.Name, type.Name));
        }

        foreach (string problem in ConfigTarget.Problems(type))
        {
            context.ReportDiagnostic(Diagnostic.Create(Descriptors.NotAConfig, Name(type, syntax), type.Name, problem));
        }

        if (!AttributeReader.IsBound(attribute))
        {
            return;
        }

        AttentionShape shape = AttributeReader.Read(attribute);
        for (int i = 0; i < AttentionRules.All.Count; i++)
        {
            AttentionRule rule = AttentionRules.All[i];
            if (!rule.IsMet(shape))
            {
                Location location = AttributeReader.ArgumentLocation(attribute, syntax, rule.Parameter);
                context.ReportDiagnostic(Diagnostic.Create(Descriptors.Rules[i], location, rule.Message(shape)));
            }
        }
    }

    // The name in the part that carries the attribute: the one whose author can do something about it.
    private static Location Name(INamedTypeSymbol type, AttributeSyntax syntax) =>
        syntax.FirstAncestorOrSelf<TypeDeclarationSyntax>()?.Identifier.GetLocation() ?? type.Locations[0];
}
