using System.Collections.Immutable;
using System.Linq;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Diagnostics;

/// <summary>Every diagnostic of this package. The limits of a configuration are in <see cref="AttentionRules"/> alone.</summary>
internal static class Descriptors
{
    private const string Category = "FlashInfer";
    private const string HelpLink = "https://github.com/flashinfer-net/flashinfer-net/blob/main/docs/diagnostics/";

    /// <summary>{0}: the type that is not partial; {1}: the class with the attribute.</summary>
    public static readonly DiagnosticDescriptor NotPartial = Create(
        "FI0001",
        "An attention configuration is not partial",
        "{0} is not partial, so nothing can be generated into {1}; add 'partial' to the declaration of {0}"
    );

    /// <summary>{0}: the class; {1}: the clause of <see cref="Parsing.ConfigTarget.Problems"/>.</summary>
    public static readonly DiagnosticDescriptor NotAConfig = Create("FI0002", "The class cannot be an attention configuration", "{0} {1}");

    /// <summary>One descriptor for each rule of <see cref="AttentionRules.All"/>, in the same order.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> Rules = AttentionRules
        .All.Select(static rule => Create(rule.Id, rule.Title, "{0}"))
        .ToImmutableArray();

    public static readonly ImmutableArray<DiagnosticDescriptor> All = Rules.InsertRange(0, new[] { NotPartial, NotAConfig });

    private static DiagnosticDescriptor Create(string id, string title, string message) =>
        new(id, title, message, Category, DiagnosticSeverity.Error, isEnabledByDefault: true, helpLinkUri: HelpLink + id + ".md");
}
