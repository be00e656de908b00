using System.Collections.Generic;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Lowering;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Parsing;

/// <summary>The struct with <c>[VariantArguments]</c>: what a plan gives to a variant.</summary>
internal static class VariantArgumentsReader
{
    public const string Attribute = "VariantArguments";

    private const int ScalarSize = 4;
    private const int SpanSize = 16;

    // With the 16 bytes before them, a kilobyte: what a plan has room for.
    private const int MaxSize = 1008;

    /// <summary>The struct of a class; null when there is none.</summary>
    public static INamedTypeSymbol? Find(INamedTypeSymbol type, VariantProblems problems)
    {
        INamedTypeSymbol? found = null;
        foreach (INamedTypeSymbol nested in type.GetTypeMembers())
        {
            if (!VariantHooks.IsMarked(nested, Attribute))
            {
                continue;
            }

            if (found is not null)
            {
                problems.Report(Descriptors.VariantTwice, nested.Locations[0], nested.Name, Attribute, found.Name);
                continue;
            }

            found = nested;
        }

        return found;
    }

    /// <summary>The properties of the struct, in the order in which they are written.</summary>
    public static VariantArgument[] Read(INamedTypeSymbol type, VariantProblems problems)
    {
        if (!type.IsReadOnly || !type.IsRefLikeType)
        {
            Report(type, "is copied by each plan and may hold spans; declare it as 'public readonly ref struct'");
        }

        if (type.DeclaredAccessibility != Accessibility.Public)
        {
            Report(type, "is a parameter of the generated Plan methods, which are public; declare it as 'public readonly ref struct'");
        }

        if (type.Arity > 0)
        {
            Report(type, "has type parameters, but kernels are compiled for one layout of the arguments; remove them");
        }

        List<VariantArgument> arguments = new();
        foreach (ISymbol member in type.GetMembers())
        {
            if (
                member is IFieldSymbol
                {
                    IsStatic: false,
                    IsImplicitlyDeclared: false,
                    DeclaredAccessibility: Accessibility.Public or Accessibility.Internal
                } field
            )
            {
                Report(field, "is a field; make it a property with 'get' and 'init'");
            }

            if (member is not IPropertySymbol { IsStatic: false } property)
            {
                continue;
            }

            Scalar scalar = Scalars.Of(property.Type);
            Scalar element = Scalars.ElementOf(property.Type);
            if (property.IsIndexer)
            {
                Report(property, "is an indexer, which is not one value; use a ReadOnlySpan");
            }
            else if (!IsUsable(property.GetMethod) || !(IsUsable(property.SetMethod) || IsComputed(property)))
            {
                Report(property, "cannot be read and set by the generated code; give it a public or internal 'get' and 'init'");
            }
            else if (property.Type.TypeKind == TypeKind.Error)
            {
                problems.Broken();
            }
            else if (scalar == Scalar.Byte || (scalar == Scalar.None && element == Scalar.None))
            {
                Report(
                    property,
                    $"is of type {property.Type.ToDisplayString()}; expected int, uint, float, bool, or a ReadOnlySpan of int, uint, float, bool or byte"
                );
            }
            else
            {
                bool isSpan = element != Scalar.None;
                arguments.Add(
                    new VariantArgument(property.Name, Scalars.Keyword(isSpan ? element : scalar), isSpan, property.SetMethod is null)
                );
            }
        }

        int size = arguments.Sum(static argument => argument.IsSpan ? SpanSize : ScalarSize);
        if (size > MaxSize)
        {
            Report(
                type,
                $"takes {size} bytes, {ScalarSize} for each value and {SpanSize} for each span; at most {MaxSize} are copied. Use one span for several values"
            );
        }

        return arguments.OrderBy(static argument => argument.IsComputed).ToArray();

        void Report(ISymbol symbol, string problem) =>
            problems.Report(Descriptors.VariantArguments, symbol.Locations[0], symbol.Name, problem);
    }

    private static bool IsUsable(IMethodSymbol? accessor) =>
        accessor is { DeclaredAccessibility: Accessibility.Public or Accessibility.Internal };

    // A property with a body. One with 'get' alone is set by a constructor, which the generated code does not call.
    private static bool IsComputed(IPropertySymbol property) =>
        property.SetMethod is null
        && !property
            .ContainingType.GetMembers()
            .OfType<IFieldSymbol>()
            .Any(field => SymbolEqualityComparer.Default.Equals(field.AssociatedSymbol, property));
}
