using System.Collections.Generic;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Lowering;

/// <summary>The types beside scalars that hooks see: the contexts of what they are asked for, their own arguments, and spans in these.</summary>
/// <param name="Class">The configuration.</param>
/// <param name="Arguments">The struct with <c>[VariantArguments]</c>; null when there is none.</param>
internal sealed record VariantTypes(INamedTypeSymbol Class, INamedTypeSymbol? Arguments)
{
    private const string Logits = "LogitsContext";
    private const string Element = "ElementContext";

    // Sequences are shorter than 2^30 tokens, so that differences of positions fit an int.
    private const long MaxTokens = (1 << 30) - 1;

    /// <summary>Members of contexts in CUDA, and what they may be.</summary>
    public static readonly IReadOnlyDictionary<string, Expression> ContextMembers = new Dictionary<string, Expression>
    {
        ["Head"] = Expression.Primary("head", new Interval(0, AttentionRules.MaxHeads - 1)),
        ["KvHead"] = Expression.Primary("kv_head", new Interval(0, AttentionRules.MaxHeads - 1)),
        ["Sequence"] = Expression.Primary("sequence", Interval.Count),
        ["QoIndex"] = Expression.Primary("qo_index", new Interval(0, MaxTokens)),
        // Below 0 where a ragged sequence has more query tokens than keys.
        ["QoPosition"] = Expression.Primary("qo_position", new Interval(-MaxTokens, MaxTokens)),
        ["KvPosition"] = Expression.Primary("kv_position", new Interval(0, MaxTokens)),
        ["QoLen"] = Expression.Primary("qo_len", new Interval(0, MaxTokens)),
        ["KvLen"] = Expression.Primary("kv_len", new Interval(0, MaxTokens)),
        ["Element"] = Expression.Primary("element", new Interval(0, AttentionRules.HeadDims[AttentionRules.HeadDims.Count - 1] - 1)),
    };

    public static bool IsContext(ITypeSymbol? type) => ContextName(type) is not null;

    /// <summary>Whether a type is the context of what a hook is asked for.</summary>
    public static bool IsContextOf(VariantHookKind kind, ITypeSymbol? type) =>
        ContextName(type) == (kind is VariantHookKind.QueryTransform or VariantHookKind.OutputTransform ? Element : Logits);

    public bool IsArguments(ITypeSymbol? type) => Arguments is not null && SymbolEqualityComparer.Default.Equals(type, Arguments);

    public bool IsClass(ITypeSymbol? type) => SymbolEqualityComparer.Default.Equals(type?.OriginalDefinition, Class);

    /// <summary>A parameter or local of such a type as CUDA declares it, up to its name; null for a type that kernels do not have.</summary>
    public string? Declare(ITypeSymbol type) =>
        Scalars.Of(type) is not Scalar.None and var scalar ? Scalars.Cuda(scalar)
        : Scalars.ElementOf(type) is not Scalar.None and var element ? Span(element)
        : ContextName(type) is { } context ? $"const flashinfer::{context}&"
        : IsArguments(type) ? "const Arguments&"
        : null;

    /// <summary>The name of a context, in C# and in CUDA; null of another type.</summary>
    private static string? ContextName(ITypeSymbol? type) =>
        type
            is {
                Name: Logits or Element,
                ContainingType: null,
                ContainingNamespace: { Name: "FlashInfer", ContainingNamespace.IsGlobalNamespace: true }
            }
            ? type.Name
            : null;

    /// <summary>A span in CUDA.</summary>
    public static string Span(Scalar element) => $"flashinfer::Span<{Scalars.Cuda(element)}>";
}
