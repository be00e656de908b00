using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Text;
using System.Threading;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.Generators.Parsing;

/// <summary>
/// The constants of a configuration for the generator, which does not see what it adds to the class: a variant that says
/// <c>at.Head / GroupSize</c> would not bind.
/// </summary>
internal static class GeneratedConstants
{
    /// <summary>The class in a compilation that has its constants; the same one where nothing names them.</summary>
    public static (INamedTypeSymbol Type, Compilation Compilation) Bind(
        INamedTypeSymbol type,
        Compilation compilation,
        CancellationToken cancellationToken
    )
    {
        if (AttributeReader.Find(type) is not { } attribute || !Names(type, cancellationToken))
        {
            return (type, compilation);
        }

        SyntaxNode declaration = type.DeclaringSyntaxReferences[0].GetSyntax(cancellationToken);
        string text = Text(type, AttributeReader.Read(attribute));
        SyntaxTree constants = CSharpSyntaxTree.ParseText(
            text,
            (CSharpParseOptions)declaration.SyntaxTree.Options,
            cancellationToken: cancellationToken
        );
        Compilation extended = compilation.AddSyntaxTrees(constants);
        return (
            (INamedTypeSymbol?)extended.GetSemanticModel(declaration.SyntaxTree).GetDeclaredSymbol(declaration, cancellationToken) ?? type,
            extended
        );
    }

    private static (string Name, int Value)[] Values(AttentionShape shape) =>
        new[]
        {
            ("Heads", shape.Heads),
            ("KvHeads", shape.KvHeads),
            ("GroupSize", shape.KvHeads == 0 ? 0 : shape.GroupSize),
            ("HeadDim", shape.HeadDim),
            ("ValueDim", shape.ValueDim),
            ("PageSize", shape.PageSize),
        };

    // By the text alone: binding is what is to be saved.
    private static bool Names(INamedTypeSymbol type, CancellationToken cancellationToken)
    {
        HashSet<string> names = new(Values(default!).Select(static value => value.Name));
        return type
            .DeclaringSyntaxReferences.SelectMany(reference => reference.GetSyntax(cancellationToken).DescendantNodes())
            .OfType<IdentifierNameSyntax>()
            .Any(name => names.Contains(name.Identifier.ValueText));
    }

    private static string Text(INamedTypeSymbol type, AttentionShape shape)
    {
        StringBuilder text = new();
        int depth = 1;
        string space = AttentionConfigParser.Namespace(type.ContainingNamespace);
        if (space.Length > 0)
        {
            text.Append("namespace ").Append(space).Append(" { ");
            depth++;
        }

        foreach (TypeDeclaration outer in AttentionConfigParser.ContainingTypes(type))
        {
            Open(outer);
            depth++;
        }

        Open(AttentionConfigParser.Declaration(type));
        foreach ((string name, int value) in Values(shape))
        {
            text.Append("public const int ").Append(name).Append(" = ").Append(value.ToString(CultureInfo.InvariantCulture)).Append("; ");
        }

        return text.Append('}', depth).ToString();

        void Open(TypeDeclaration part) =>
            text.Append("partial ").Append(part.Keyword).Append(' ').Append(part.Name).Append(part.TypeParameters).Append(" { ");
    }
}
