using System.Collections.Generic;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Lowering;

/// <summary>The types beside scalars that hooks see: the context of a logit, their own arguments, and spans in these.</summary>
/// <param name="Class">The configuration.</param>
/// <param name="Context"><c>FlashInfer.LogitsContext</c>; null when the runtime is not referenced.</param>
/// <param name="Arguments">The struct with <c>[VariantArguments]</c>; null when there is none.</param>
internal sealed record VariantTypes(INamedTypeSymbol Class, INamedTypeSymbol? Context, INamedTypeSymbol? Arguments)
{
    // Sequences are shorter than 2^30 tokens, so that differences of positions fit an int.
    private const long MaxTokens = (1 << 30) - 1;

    /// <summary>Members of the context in CUDA, and what they may be.</summary>
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
    };

    public bool IsContext(ITypeSymbol? type) => Context is not null && SymbolEqualityComparer.Default.Equals(type, Context);

    public bool IsArguments(ITypeSymbol? type) => Arguments is not null && SymbolEqualityComparer.Default.Equals(type, Arguments);

    public bool IsClass(ITypeSymbol? type) => SymbolEqualityComparer.Default.Equals(type?.OriginalDefinition, Class);

    /// <summary>A parameter or local of such a type as CUDA declares it, up to its name; null for a type that kernels do not have.</summary>
    public string? Declare(ITypeSymbol type) =>
        Scalars.Of(type) is not Scalar.None and var scalar ? Scalars.Cuda(scalar)
        : Scalars.ElementOf(type) is not Scalar.None and var element ? Span(element)
        : IsContext(type) ? "const flashinfer::LogitsContext&"
        : IsArguments(type) ? "const Arguments&"
        : null;

    /// <summary>A span in CUDA.</summary>
    public static string Span(Scalar element) => $"flashinfer::Span<{Scalars.Cuda(element)}>";
}
