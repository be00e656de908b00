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
using Microsoft.CodeAnalysis.Simplification;

namespace FlashInfer.CodeFixes;

/// <summary>Changes the arguments of an <c>[AttentionConfig]</c> to legal ones, as <see cref="RuleFixes"/> has them.</summary>
[ExportCodeFixProvider(LanguageNames.CSharp, Name = nameof(ArgumentFixProvider))]
[Shared]
public sealed class ArgumentFixProvider : FixProvider
{
    /// <inheritdoc/>
    public override ImmutableArray<string> FixableDiagnosticIds { get; } =
        Descriptors.Rules.Concat(Descriptors.ArchitectureRules).Select(static descriptor => descriptor.Id).ToImmutableArray();

    /// <inheritdoc/>
    protected override IEnumerable<(string Title, string Key)> Fixes(SemanticModel model, Diagnostic diagnostic) =>
        Find(model, diagnostic) is var (_, data)
            ? RuleFixes.For(diagnostic.Id, AttributeReader.Read(data)).Select(static fix => (fix.Title, fix.Key))
            : [];

    /// <inheritdoc/>
    protected override SyntaxNode Apply(SemanticModel model, ImmutableArray<Diagnostic> diagnostics, string key)
    {
        Dictionary<AttributeSyntax, AttributeSyntax> changed = new();
        foreach (Diagnostic diagnostic in diagnostics)
        {
            if (
                Find(model, diagnostic) is var (syntax, data)
                && RuleFixes.For(diagnostic.Id, AttributeReader.Read(data)).FirstOrDefault(fix => fix.Key == key) is { } fix
            )
            {
                changed[syntax] = Change(syntax, data, fix);
            }
        }

        return model.SyntaxTree.GetRoot().ReplaceNodes(changed.Keys, (attribute, _) => changed[attribute]);
    }

    private static (AttributeSyntax Syntax, AttributeData Data)? Find(SemanticModel model, Diagnostic diagnostic)
    {
        SyntaxNode node = model.SyntaxTree.GetRoot().FindNode(diagnostic.Location.SourceSpan);
        return
            node.FirstAncestorOrSelf<AttributeSyntax>() is { } syntax
            && syntax.FirstAncestorOrSelf<TypeDeclarationSyntax>() is { } declaration
            && model.GetDeclaredSymbol(declaration) is { } type
            && AttributeReader.Find(type) is { } data
            ? (syntax, data)
            : null;
    }

    private static AttributeSyntax Change(AttributeSyntax syntax, AttributeData data, ArgumentFix fix)
    {
        foreach ((string parameter, string? value) in fix.Changes)
        {
            AttributeArgumentListSyntax list = syntax.ArgumentList!;
            AttributeArgumentSyntax? argument = AttributeReader.Argument(data, syntax, parameter);
            if (value is null)
            {
                list = argument is null ? list : list.WithArguments(list.Arguments.Remove(argument));
            }
            else
            {
                ExpressionSyntax expression = SyntaxFactory.ParseExpression(value).WithAdditionalAnnotations(Simplifier.Annotation);
                list = argument is null
                    ? list.AddArguments(Property(parameter, expression))
                    : list.ReplaceNode(argument.Expression, expression);
            }

            syntax = syntax.WithArgumentList(list);
        }

        return syntax;
    }

    // Only a property can be missing: the constructor's parameters have no defaults.
    private static AttributeArgumentSyntax Property(string name, ExpressionSyntax value) =>
        SyntaxFactory
            .AttributeArgument(SyntaxFactory.NameEquals(SyntaxFactory.IdentifierName(name)).NormalizeWhitespace(), null, value)
            .WithLeadingTrivia(SyntaxFactory.Space);
}
