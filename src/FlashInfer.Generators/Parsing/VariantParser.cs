using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using FlashInfer.Generators.Lowering;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Parsing;

/// <summary>From a class whose methods describe a variant of attention to its model, for the generator and the analyzer alike.</summary>
internal static class VariantParser
{
    /// <summary>
    /// The variant of a class; null when it describes none. One that cannot be lowered has no CUDA text: its class gets all members and no
    /// units.
    /// </summary>
    /// <param name="type">A class with <c>[AttentionConfig]</c>.</param>
    /// <param name="compilation">The compilation before anything is generated.</param>
    /// <param name="cancellationToken">Stops.</param>
    public static VariantModel? Parse(INamedTypeSymbol type, Compilation compilation, CancellationToken cancellationToken)
    {
        if (!Marked(type).Any())
        {
            return null;
        }

        (type, compilation) = GeneratedConstants.Bind(type, compilation, cancellationToken);
        return Read(type, compilation, new VariantProblems(null), cancellationToken);
    }

    /// <summary>Reports what is wrong with the variant of a class.</summary>
    /// <param name="type">A class with <c>[AttentionConfig]</c>.</param>
    /// <param name="compilation">The compilation with everything that is generated.</param>
    /// <param name="report">Takes the diagnostics.</param>
    /// <param name="cancellationToken">Stops.</param>
    public static void Check(INamedTypeSymbol type, Compilation compilation, Action<Diagnostic> report, CancellationToken cancellationToken)
    {
        if (Marked(type).Any())
        {
            Read(type, compilation, new VariantProblems(report), cancellationToken);
        }
    }

    /// <summary>The members of a class that describe a variant, each with its attribute.</summary>
    public static IEnumerable<(ISymbol Member, string Attribute)> Marked(INamedTypeSymbol type)
    {
        foreach (ISymbol member in type.GetMembers())
        {
            if (member is INamedTypeSymbol && VariantHooks.IsMarked(member, VariantArgumentsReader.Attribute))
            {
                yield return (member, VariantArgumentsReader.Attribute);
            }

            if (member is not IMethodSymbol)
            {
                continue;
            }

            foreach ((string attribute, _) in VariantHooks.Attributes)
            {
                if (VariantHooks.IsMarked(member, attribute))
                {
                    yield return (member, attribute);
                }
            }
        }
    }

    private static VariantModel Read(
        INamedTypeSymbol type,
        Compilation compilation,
        VariantProblems problems,
        CancellationToken cancellationToken
    )
    {
        INamedTypeSymbol? argumentsType = VariantArgumentsReader.Find(type, problems);
        VariantArgument[] arguments = argumentsType is null
            ? Array.Empty<VariantArgument>()
            : VariantArgumentsReader.Read(argumentsType, problems);
        VariantTypes types = new(type, argumentsType);
        List<(VariantHookKind Kind, IMethodSymbol Method)> hooks = VariantHooks.Find(types, problems);
        string cuda = new VariantLowering(types, arguments, compilation, problems, cancellationToken).Lower(hooks);

        // One that public methods cannot name would be wrong in all of them.
        bool isPublic = argumentsType is { DeclaredAccessibility: Accessibility.Public };
        return new VariantModel(
            isPublic ? argumentsType!.ToDisplayString(SymbolDisplayFormat.FullyQualifiedFormat) : null,
            new EquatableArray<VariantArgument>(arguments),
            new EquatableArray<VariantHook>(
                hooks.Select(hook => new VariantHook(hook.Kind, hook.Method.Name, TakesArguments(hook.Method, types))).ToArray()
            ),
            problems.Any ? "" : cuda
        );
    }

    private static bool TakesArguments(IMethodSymbol hook, VariantTypes types) =>
        types.IsArguments(hook.Parameters[hook.Parameters.Length - 1].Type);
}
