using System;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0101: a plan made in each pass of a loop whose passes run one layer each. Not where the plan's arguments change from pass to pass,
/// nor where a forward begins or ends in the loop: then its passes are steps.
/// </summary>
internal static class PlanInLayerLoop
{
    public static void Check(IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        foreach (IInvocationOperation plan in root.Descendants().OfType<IInvocationOperation>())
        {
            if (
                plan.TargetMethod.Name != "Plan"
                || !types.IsWrapper(plan.Instance?.Type)
                || plan.Instance.Symbol() is not { } wrapper
                || plan.Loop() is not { } loop
                || !plan.IsInEveryPass(loop)
                || plan.Arguments.Any(argument => Varying(argument, loop) is not null)
                || loop.Varies(wrapper)
                || loop.Descendants().Any(o => ChangesSequences(o, types))
            )
            {
                continue;
            }

            ISymbol? layer = loop
                .Body.Descendants()
                .OfType<IInvocationOperation>()
                .Where(call =>
                    call.TargetMethod.Name is "Run" or "Append" && SymbolEqualityComparer.Default.Equals(call.Instance.Symbol(), wrapper)
                )
                .Where(call => ReferenceEquals(call.Loop(), loop))
                .Select(call => call.Argument("layer") is { } argument ? Varying(argument, loop) : null)
                .FirstOrDefault(static symbol => symbol is not null);
            if (layer is not null)
            {
                report(Diagnostic.Create(Descriptors.PlanInLayerLoop, plan.Syntax.GetLocation(), wrapper.Name, layer.Name));
            }
        }
    }

    private static ISymbol? Varying(IOperation argument, ILoopOperation loop) =>
        argument.DescendantsAndSelf().Select(static o => o.Reference()).FirstOrDefault(symbol => symbol is not null && loop.Varies(symbol));

    private static bool ChangesSequences(IOperation operation, KnownTypes types) =>
        operation
            is IInvocationOperation
            {
                TargetMethod.Name: "BeginForward" or "TryBeginForward" or "EndForward" or "AbandonForward" or "Free"
            } call
        && types.IsCache(call.Instance?.Type);
}
