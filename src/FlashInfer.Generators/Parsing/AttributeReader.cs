using System.Collections.Immutable;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.Generators.Parsing;

/// <summary>Reads <c>[AttentionConfig]</c>, for the generator and the analyzer alike.</summary>
internal static class AttributeReader
{
    public const string MetadataName = "FlashInfer.AttentionConfigAttribute";

    /// <summary>The attribute's first application to the type; a second one is the compiler's error.</summary>
    public static AttributeData? Find(INamedTypeSymbol type)
    {
        foreach (AttributeData attribute in type.GetAttributes())
        {
            if (attribute.AttributeClass?.ToDisplayString() == MetadataName)
            {
                return attribute;
            }
        }

        return null;
    }

    /// <summary>Whether the compiler bound every argument. If not it has reported why, and more errors would only hide that.</summary>
    public static bool IsBound(AttributeData attribute)
    {
        if (attribute.AttributeConstructor is null)
        {
            return false;
        }

        foreach (TypedConstant argument in attribute.ConstructorArguments)
        {
            if (argument.Kind == TypedConstantKind.Error)
            {
                return false;
            }
        }

        foreach (var argument in attribute.NamedArguments)
        {
            if (argument.Value.Kind == TypedConstantKind.Error)
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>The attribute's values, legal or not; zero where one is not bound.</summary>
    public static AttentionShape Read(AttributeData attribute)
    {
        ImmutableArray<TypedConstant> arguments = attribute.ConstructorArguments;
        DType dtype = (DType)Value(4);
        DType kvDtype = dtype;
        KvLayout kvLayout = KvLayout.Nhd;
        AttentionOptions options = AttentionOptions.None;
        int rotaryDim = 0;
        int valueDim = Value(2);
        foreach (var argument in attribute.NamedArguments)
        {
            switch (argument.Key)
            {
                case "KvDtype":
                    kvDtype = (DType)Int32(argument.Value);
                    break;
                case "KvLayout":
                    kvLayout = (KvLayout)Int32(argument.Value);
                    break;
                case "Options":
                    options = (AttentionOptions)Int32(argument.Value);
                    break;
                case "RotaryDim":
                    rotaryDim = Int32(argument.Value);
                    break;
                case "ValueDim":
                    valueDim = Int32(argument.Value);
                    break;
            }
        }

        return new AttentionShape(Value(0), Value(1), Value(2), Value(3), dtype, kvDtype, kvLayout)
        {
            Options = options,
            RotaryDim = rotaryDim,
            ValueDim = valueDim,
        };

        int Value(int ordinal) => ordinal < arguments.Length ? Int32(arguments[ordinal]) : 0;
    }

    /// <summary>Where an argument is written; the attribute itself when it is not.</summary>
    /// <param name="attribute">The attribute as bound.</param>
    /// <param name="syntax">The attribute as written.</param>
    /// <param name="name">A parameter of the constructor or a property.</param>
    public static Location ArgumentLocation(AttributeData attribute, AttributeSyntax syntax, string name) =>
        (Argument(attribute, syntax, name) ?? (SyntaxNode)syntax).GetLocation();

    /// <summary>An argument as written; null when it is not. Parameters as those of <see cref="ArgumentLocation"/>.</summary>
    public static AttributeArgumentSyntax? Argument(AttributeData attribute, AttributeSyntax syntax, string name)
    {
        if (syntax.ArgumentList is { } list)
        {
            for (int i = 0; i < list.Arguments.Count; i++)
            {
                AttributeArgumentSyntax argument = list.Arguments[i];
                string? written =
                    argument.NameColon?.Name.Identifier.ValueText
                    ?? argument.NameEquals?.Name.Identifier.ValueText
                    ?? PositionalName(attribute, i);
                if (written == name)
                {
                    return argument;
                }
            }
        }

        return null;
    }

    private static string? PositionalName(AttributeData attribute, int ordinal)
    {
        ImmutableArray<IParameterSymbol>? parameters = attribute.AttributeConstructor?.Parameters;
        return parameters is { } list && ordinal < list.Length ? list[ordinal].Name : null;
    }

    // Enums arrive as their underlying int, also when no member has the value.
    private static int Int32(TypedConstant constant) =>
        constant.Kind is TypedConstantKind.Primitive or TypedConstantKind.Enum && constant.Value is int value ? value : 0;
}
