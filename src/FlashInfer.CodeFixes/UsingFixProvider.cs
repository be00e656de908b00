using System.Collections.Generic;
using System.Collections.Immutable;
using System.Composition;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CodeFixes;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.CodeFixes;

/// <summary>Disposes a local at the end of its block: declares it with <c>using</c>.</summary>
[ExportCodeFixProvider(LanguageNames.CSharp, Name = nameof(UsingFixProvider))]
[Shared]
public sealed class UsingFixProvider : FixProvider
{
    private const string Title = "Declare with 'using'";

    /// <inheritdoc/>
    public override ImmutableArray<string> FixableDiagnosticIds { get; } = ImmutableArray.Create(Descriptors.NotDisposed.Id);

    /// <inheritdoc/>
    protected override IEnumerable<(string Title, string Key)> Fixes(SemanticModel model, Diagnostic diagnostic) =>
        Declaration(model, diagnostic) is null ? [] : [(Title, Title)];

    /// <inheritdoc/>
    protected override SyntaxNode Apply(SemanticModel model, ImmutableArray<Diagnostic> diagnostics, string key) =>
        model
            .SyntaxTree.GetRoot()
            .ReplaceNodes(
                diagnostics.Select(diagnostic => Declaration(model, diagnostic)).OfType<LocalDeclarationStatementSyntax>().Distinct(),
                static (_, declaration) => WithUsing(declaration)
            );

    // Where the object is the initialiser: a variable that is assigned later cannot be a 'using' one.
    private static LocalDeclarationStatementSyntax? Declaration(SemanticModel model, Diagnostic diagnostic) =>
        model
            .SyntaxTree.GetRoot()
            .FindNode(diagnostic.Location.SourceSpan, getInnermostNodeForTie: true)
            .FirstAncestorOrSelf<EqualsValueClauseSyntax>()
            is { Parent: VariableDeclaratorSyntax { Parent.Parent: LocalDeclarationStatementSyntax declaration } } initializer
        && initializer.Value.Span == diagnostic.Location.SourceSpan
        && !IsAssignedLater(model, declaration)
            ? declaration
            : null;

    private static bool IsAssignedLater(SemanticModel model, LocalDeclarationStatementSyntax declaration) =>
        model.AnalyzeDataFlow(declaration) is { Succeeded: true } flow
        && flow.WrittenOutside.Intersect(flow.VariablesDeclared, SymbolEqualityComparer.Default).Any();

    private static LocalDeclarationStatementSyntax WithUsing(LocalDeclarationStatementSyntax declaration)
    {
        SyntaxToken first = declaration.GetFirstToken();
        SyntaxToken keyword = SyntaxFactory.Token(SyntaxKind.UsingKeyword).WithLeadingTrivia(first.LeadingTrivia);
        return declaration.ReplaceToken(first, first.WithLeadingTrivia()).WithUsingKeyword(keyword.WithTrailingTrivia(SyntaxFactory.Space));
    }
}
