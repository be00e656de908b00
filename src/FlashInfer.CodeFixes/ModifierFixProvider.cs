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

/// <summary>Replaces a modifier that a configuration cannot have: <c>static</c> by <c>abstract</c>, <c>file</c> by <c>internal</c>.</summary>
[ExportCodeFixProvider(LanguageNames.CSharp, Name = nameof(ModifierFixProvider))]
[Shared]
public sealed class ModifierFixProvider : FixProvider
{
    private static readonly (SyntaxKind Wrong, SyntaxKind Right, string Title)[] s_modifiers =
    {
        (SyntaxKind.StaticKeyword, SyntaxKind.AbstractKeyword, "Replace 'static' by 'abstract'"),
        (SyntaxKind.FileKeyword, SyntaxKind.InternalKeyword, "Replace 'file' by 'internal'"),
    };

    /// <inheritdoc/>
    public override ImmutableArray<string> FixableDiagnosticIds { get; } = ImmutableArray.Create(Descriptors.NotAConfig.Id);

    /// <inheritdoc/>
    protected override IEnumerable<(string Title, string Key)> Fixes(SemanticModel model, Diagnostic diagnostic) =>
        s_modifiers.Where(fix => Modifiers(model, diagnostic).Any(fix.Wrong)).Select(static fix => (fix.Title, fix.Title));

    /// <inheritdoc/>
    protected override SyntaxNode Apply(SemanticModel model, ImmutableArray<Diagnostic> diagnostics, string key)
    {
        (SyntaxKind wrong, SyntaxKind right, _) = s_modifiers.Single(fix => fix.Title == key);
        IEnumerable<SyntaxToken> modifiers = diagnostics
            .SelectMany(diagnostic => Modifiers(model, diagnostic))
            .Where(modifier => modifier.IsKind(wrong))
            .Distinct();
        return model.SyntaxTree.GetRoot().ReplaceTokens(modifiers, (modifier, _) => SyntaxFactory.Token(right).WithTriviaFrom(modifier));
    }

    private static SyntaxTokenList Modifiers(SemanticModel model, Diagnostic diagnostic) =>
        model.SyntaxTree.GetRoot().FindNode(diagnostic.Location.SourceSpan).FirstAncestorOrSelf<TypeDeclarationSyntax>()?.Modifiers
        ?? default;
}
