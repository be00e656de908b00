using System.Collections.Generic;
using System.Collections.Immutable;
using System.Linq;
using FlashInfer.Generators.Parsing;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Diagnostics;

namespace FlashInfer.Generators.Diagnostics;

/// <summary>
/// Reports every condition that a class with <c>[AttentionConfig]</c> breaks, each once, and how legal ones fare on the architectures that
/// the project names.
/// </summary>
[DiagnosticAnalyzer(LanguageNames.CSharp)]
public sealed class AttentionConfigAnalyzer : DiagnosticAnalyzer
{
    private const string ArchitecturesProperty = "build_property.FlashInferArchitectures";

    /// <inheritdoc/>
    public override ImmutableArray<DiagnosticDescriptor> SupportedDiagnostics => Descriptors.Config;

    /// <inheritdoc/>
    public override void Initialize(AnalysisContext context)
    {
        // A configuration that a tool wrote must be legal as well.
        context.ConfigureGeneratedCodeAnalysis(GeneratedCodeAnalysisFlags.Analyze | GeneratedCodeAnalysisFlags.ReportDiagnostics);
        context.EnableConcurrentExecution();
        context.RegisterCompilationStartAction(static context =>
        {
            context.Options.AnalyzerConfigOptionsProvider.GlobalOptions.TryGetValue(ArchitecturesProperty, out string? property);
            TargetArchitecture.Read(
                property ?? "",
                out IReadOnlyList<TargetArchitecture> architectures,
                out IReadOnlyList<string> problems
            );
            context.RegisterSymbolAction(context => Analyze(context, architectures), SymbolKind.NamedType);
            context.RegisterCompilationEndAction(context =>
            {
                foreach (string problem in problems)
                {
                    // Written in a project file, of which the compiler knows no position.
                    context.ReportDiagnostic(Diagnostic.Create(Descriptors.Architecture, Location.None, problem));
                }
            });
        });
    }

    private static void Analyze(SymbolAnalysisContext context, IReadOnlyList<TargetArchitecture> architectures)
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
                Report(Descriptors.Rules[i], rule.Parameter, rule.Message(shape));
            }
        }

        if (!AttentionRules.IsLegal(shape))
        {
            return;
        }

        if (!shape.HasPrefill)
        {
            Report(Descriptors.DecodeOnly, "headDim", shape.HeadDim);
        }

        for (int i = 0; i < ArchitectureRules.All.Count; i++)
        {
            ArchitectureRule rule = ArchitectureRules.All[i];
            string failing = string.Join(", ", architectures.Where(architecture => !rule.IsMet(shape, architecture)));
            if (failing.Length > 0)
            {
                Report(Descriptors.ArchitectureRules[i], rule.Parameter, rule.Message(shape, failing));
            }
        }

        void Report(DiagnosticDescriptor descriptor, string parameter, object message) =>
            context.ReportDiagnostic(
                Diagnostic.Create(descriptor, AttributeReader.ArgumentLocation(attribute, syntax, parameter), message)
            );
    }

    // The name in the part that carries the attribute: the one whose author can do something about it.
    private static Location Name(INamedTypeSymbol type, AttributeSyntax syntax) =>
        syntax.FirstAncestorOrSelf<TypeDeclarationSyntax>()?.Identifier.GetLocation() ?? type.Locations[0];
}
