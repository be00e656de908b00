using System.Collections.Generic;
using System.Linq;
using FlashInfer.Generators.Emit;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.Generators.Parsing;

/// <summary>Whether a class can be a configuration, said once for the generator (emit or not) and the analyzer (report or not).</summary>
internal static class ConfigTarget
{
    /// <summary>The class and the types around it that are not partial, innermost first.</summary>
    public static IEnumerable<INamedTypeSymbol> NotPartial(INamedTypeSymbol type)
    {
        for (INamedTypeSymbol? t = type; t is not null; t = t.ContainingType)
        {
            // One part with the modifier is enough here: a part without it is the compiler's error.
            bool partial = false;
            foreach (SyntaxReference reference in t.DeclaringSyntaxReferences)
            {
                partial |=
                    reference.GetSyntax() is TypeDeclarationSyntax declaration && declaration.Modifiers.Any(SyntaxKind.PartialKeyword);
            }

            if (!partial)
            {
                yield return t;
            }
        }
    }

    /// <summary>Why the class cannot be a configuration although it can be extended: clauses that follow its name.</summary>
    public static IEnumerable<string> Problems(INamedTypeSymbol type)
    {
        if (type.IsStatic)
        {
            yield return "is static, but a configuration implements IAttentionConfig, which a static class cannot. Remove 'static'; write 'abstract' to forbid instances.";
        }

        if (type.Arity > 0)
        {
            yield return "has type parameters, but a configuration is one set of constants and kernels. Remove the type parameters.";
        }

        for (INamedTypeSymbol? t = type.ContainingType; t is not null; t = t.ContainingType)
        {
            if (t.Arity > 0)
            {
                yield return $"is nested in the generic type {t.Name}, but a configuration is one set of constants and kernels. Move it out of {t.Name}.";
            }
        }

        if (
            AttributeReader.Find(type) is { } attribute
            && AttributeReader.Read(attribute).Options != AttentionOptions.None
            && VariantParser.Marked(type).Any()
        )
        {
            yield return "has Options and a variant of attention of its own, but a configuration has one of them. Remove the options and write what they do into the methods.";
        }

        if (IsFileLocal(type))
        {
            yield return "is local to its file, so generated code cannot add to it. Remove 'file'; write 'internal' or nest it as 'private' instead.";
        }

        if (IsNameTaken(type))
        {
            yield return "has the name of a member that is generated into it. Rename the class.";
        }
    }

    /// <summary>
    /// Whether a part can be added to the class. A static or generic class can take one: with its members there, the only error is ours.
    /// </summary>
    public static bool CanBeExtended(INamedTypeSymbol type)
    {
        foreach (INamedTypeSymbol _ in NotPartial(type))
        {
            return false;
        }

        return !IsFileLocal(type) && !IsNameTaken(type);
    }

    private static bool IsNameTaken(INamedTypeSymbol type) => ConfigEmitter.MemberNames.Contains(type.Name);

    private static bool IsFileLocal(INamedTypeSymbol type)
    {
        for (INamedTypeSymbol? t = type; t is not null; t = t.ContainingType)
        {
            if (t.IsFileLocal)
            {
                return true;
            }
        }

        return false;
    }
}
