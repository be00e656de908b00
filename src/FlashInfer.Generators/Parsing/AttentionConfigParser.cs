using System.Collections.Generic;
using System.Linq;
using System.Threading;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.Generators.Parsing;

/// <summary>From an attributed class to its model.</summary>
internal static class AttentionConfigParser
{
    /// <summary>Cheap and syntactic: the attribute is for classes, record classes included.</summary>
    public static bool IsCandidate(SyntaxNode node, CancellationToken cancellationToken) =>
        node is ClassDeclarationSyntax || node.IsKind(SyntaxKind.RecordDeclaration);

    /// <summary>The model, or null when nothing can be added to the class; the analyzer says why.</summary>
    public static AttentionModel? Parse(GeneratorAttributeSyntaxContext context, CancellationToken cancellationToken)
    {
        INamedTypeSymbol type = (INamedTypeSymbol)context.TargetSymbol;
        if (!ConfigTarget.CanBeExtended(type))
        {
            return null;
        }

        cancellationToken.ThrowIfCancellationRequested();

        // Two parts may carry the attribute: the compiler's error, and two files of one name if both came through here.
        AttributeData attribute = context.Attributes[0];
        if (AttributeReader.Find(type)?.ApplicationSyntaxReference?.Span != attribute.ApplicationSyntaxReference?.Span)
        {
            return null;
        }

        cancellationToken.ThrowIfCancellationRequested();
        AttentionShape shape = AttributeReader.Read(attribute);
        return new AttentionModel(
            Namespace(type.ContainingNamespace),
            new EquatableArray<TypeDeclaration>(ContainingTypes(type)),
            Declaration(type),
            type.IsStatic,
            shape,
            VariantParser.Parse(type, context.SemanticModel.Compilation, cancellationToken) ?? VariantModel.Of(shape)
        );
    }

    /// <summary>The types around a type, outermost first.</summary>
    public static TypeDeclaration[] ContainingTypes(INamedTypeSymbol type)
    {
        List<TypeDeclaration> containing = new();
        for (INamedTypeSymbol? t = type.ContainingType; t is not null; t = t.ContainingType)
        {
            containing.Insert(0, Declaration(t));
        }

        return containing.ToArray();
    }

    public static TypeDeclaration Declaration(INamedTypeSymbol type)
    {
        string keyword = (type.TypeKind, type.IsRecord) switch
        {
            (TypeKind.Struct, true) => "record struct",
            (TypeKind.Struct, false) => "struct",
            (TypeKind.Interface, _) => "interface",
            (_, true) => "record",
            _ => "class",
        };
        string parameters = type.Arity == 0 ? "" : $"<{string.Join(", ", type.TypeParameters.Select(static p => Identifier(p.Name)))}>";
        return new TypeDeclaration(keyword, Identifier(type.Name), parameters);
    }

    public static string Namespace(INamespaceSymbol symbol) =>
        symbol.IsGlobalNamespace ? ""
        : symbol.ContainingNamespace.IsGlobalNamespace ? Identifier(symbol.Name)
        : $"{Namespace(symbol.ContainingNamespace)}.{Identifier(symbol.Name)}";

    private static string Identifier(string name) =>
        SyntaxFacts.GetKeywordKind(name) != SyntaxKind.None || SyntaxFacts.GetContextualKeywordKind(name) != SyntaxKind.None
            ? "@" + name
            : name;
}
