using System.Collections.Generic;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Lowering;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Parsing;

/// <summary>The methods of a class that a variant's attributes mark.</summary>
internal static class VariantHooks
{
    /// <summary>The attributes and what they mark, in the order of the kinds.</summary>
    public static readonly IReadOnlyList<(string Attribute, VariantHookKind Kind)> Attributes = new[]
    {
        ("LogitsTransform", VariantHookKind.Transform),
        ("LogitsMask", VariantHookKind.Mask),
        ("FirstKey", VariantHookKind.FirstKey),
        ("AttentionSink", VariantHookKind.Sink),
        ("QueryTransform", VariantHookKind.QueryTransform),
        ("OutputTransform", VariantHookKind.OutputTransform),
    };

    /// <summary>Whether an attribute of this library marks a symbol.</summary>
    /// <param name="symbol">The symbol.</param>
    /// <param name="name">The attribute as it is written.</param>
    public static bool IsMarked(ISymbol symbol, string name)
    {
        foreach (AttributeData attribute in symbol.GetAttributes())
        {
            if (
                attribute.AttributeClass
                    is { ContainingNamespace: { Name: "FlashInfer", ContainingNamespace.IsGlobalNamespace: true } } type
                && type.Name.Length == name.Length + "Attribute".Length
                && type.Name.StartsWith(name, System.StringComparison.Ordinal)
            )
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>The hooks with a right signature, at most one of a kind, in the order of the kinds.</summary>
    public static List<(VariantHookKind Kind, IMethodSymbol Method)> Find(VariantTypes types, VariantProblems problems)
    {
        List<(VariantHookKind Kind, IMethodSymbol Method)> hooks = new();
        foreach ((string attribute, VariantHookKind kind) in Attributes)
        {
            IMethodSymbol? found = null;
            foreach (ISymbol member in types.Class.GetMembers())
            {
                if (member is not IMethodSymbol method || !IsMarked(method, attribute))
                {
                    continue;
                }

                if (found is not null)
                {
                    problems.Report(Descriptors.VariantTwice, method.Locations[0], method.Name, attribute, found.Name);
                    continue;
                }

                found = method;
                if (Problem(method, kind, types) is { } problem)
                {
                    string expected = $"{problem}; expected 'static {Expected(method, kind, types)}'";
                    problems.Report(Descriptors.VariantSignature, method.Locations[0], method.Name, attribute, expected);
                }
                else if (!HasErrors(method))
                {
                    hooks.Add((kind, method));
                }
                else
                {
                    problems.Broken();
                }
            }
        }

        return hooks;
    }

    /// <summary>What is wrong with a hook's signature; null when nothing is.</summary>
    private static string? Problem(IMethodSymbol method, VariantHookKind kind, VariantTypes types)
    {
        if (HasErrors(method))
        {
            return null;
        }

        SpecialType result = Result(kind);
        int own = kind.OwnParameters();
        bool isRight =
            method.ReturnType.SpecialType == result
            && method.Parameters.Length >= own
            && method.Parameters.Take(kind.Floats()).All(static parameter => parameter.Type.SpecialType == SpecialType.System_Single)
            && (
                kind == VariantHookKind.Sink
                    ? method.Parameters[0].Type.SpecialType == SpecialType.System_Int32
                    : VariantTypes.IsContextOf(kind, method.Parameters[own - 1].Type)
            )
            && (method.Parameters.Length == own || (method.Parameters.Length == own + 1 && types.IsArguments(method.Parameters[own].Type)));
        if (!isRight)
        {
            return "it has another signature";
        }

        foreach (IParameterSymbol parameter in method.Parameters)
        {
            if (parameter.RefKind is not (RefKind.None or RefKind.In))
            {
                return $"it takes {parameter.Name} by reference";
            }
        }

        return !method.IsStatic ? "it is not static"
            : method.IsGenericMethod ? "it is generic"
            : method.IsAsync ? "it is async"
            : method.ReturnsByRef || method.ReturnsByRefReadonly ? "it returns a reference"
            : null;
    }

    // What the compiler does not know it has reported itself.
    private static bool HasErrors(IMethodSymbol method)
    {
        bool hasErrors = method.ReturnType.TypeKind == TypeKind.Error;
        foreach (IParameterSymbol parameter in method.Parameters)
        {
            hasErrors |= parameter.Type.TypeKind == TypeKind.Error;
        }

        return hasErrors;
    }

    private static SpecialType Result(VariantHookKind kind) =>
        kind switch
        {
            VariantHookKind.Mask => SpecialType.System_Boolean,
            VariantHookKind.FirstKey => SpecialType.System_Int32,
            _ => SpecialType.System_Single,
        };

    private static string Expected(IMethodSymbol method, VariantHookKind kind, VariantTypes types)
    {
        string arguments = types.Arguments is null ? "" : $", in {types.Arguments.Name} a";
        return kind switch
        {
            VariantHookKind.Transform => $"float {method.Name}(float logit, in LogitsContext at{arguments})",
            VariantHookKind.Mask => $"bool {method.Name}(in LogitsContext at{arguments})",
            VariantHookKind.FirstKey => $"int {method.Name}(in LogitsContext at{arguments})",
            VariantHookKind.QueryTransform => $"float {method.Name}(float element, in ElementContext at{arguments})",
            VariantHookKind.OutputTransform => $"float {method.Name}(float element, float lse2, in ElementContext at{arguments})",
            _ => $"float {method.Name}(int head{arguments})",
        };
    }
}
