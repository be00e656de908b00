using System.Collections.Generic;
using System.Collections.Immutable;
using System.Composition;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Parsing;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CodeFixes;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.CodeFixes;

/// <summary>Declares a configuration, and every type around it, partial.</summary>
[ExportCodeFixProvider(LanguageNames.CSharp, Name = nameof(PartialFixProvider))]
[Shared]
public sealed class PartialFixProvider : FixProvider
{
    private const string Title = "Make partial, with the types around it";

    /// <inheritdoc/>
    public override ImmutableArray<string> FixableDiagnosticIds { get; } = ImmutableArray.Create(Descriptors.NotPartial.Id);

    /// <inheritdoc/>
    protected override IEnumerable<(string Title, string Key)> Fixes(SemanticModel model, Diagnostic diagnostic) => [(Title, Title)];

    /// <inheritdoc/>
    protected override SyntaxNode Apply(SemanticModel model, ImmutableArray<Diagnostic> diagnostics, string key)
    {
        // Two configurations in one class report that class twice; it gets the word once.
        SyntaxNode root = model.SyntaxTree.GetRoot();
        IEnumerable<TypeDeclarationSyntax> declarations = diagnostics
            .SelectMany(diagnostic => Chain(root.FindNode(diagnostic.Location.SourceSpan), model))
            .Where(static declaration => !declaration.Modifiers.Any(SyntaxKind.PartialKeyword))
            .Distinct();
        return root.ReplaceNodes(declarations, static (_, declaration) => MakePartial(declaration));
    }

    // The reported type, those around it, and the configurations inside it with what lies between.
    private static IEnumerable<TypeDeclarationSyntax> Chain(SyntaxNode reported, SemanticModel model) =>
        reported
            .DescendantNodesAndSelf()
            .OfType<TypeDeclarationSyntax>()
            .Where(declaration => model.GetDeclaredSymbol(declaration) is { } type && AttributeReader.Find(type) is not null)
            .Append(reported)
            .SelectMany(static node => node.AncestorsAndSelf().OfType<TypeDeclarationSyntax>());

    // The last of the modifiers. What stood before the keyword, a comment say, then stands before the word.
    private static TypeDeclarationSyntax MakePartial(TypeDeclarationSyntax declaration)
    {
        SyntaxToken partial = SyntaxFactory.Token(SyntaxKind.PartialKeyword).WithTrailingTrivia(SyntaxFactory.Space);
        if (declaration.Modifiers.Count > 0)
        {
            return declaration.WithModifiers(declaration.Modifiers.Add(partial));
        }

        SyntaxToken keyword = declaration.Keyword;
        return declaration
            .WithKeyword(keyword.WithLeadingTrivia())
            .WithModifiers(SyntaxFactory.TokenList(partial.WithLeadingTrivia(keyword.LeadingTrivia)));
    }
}
