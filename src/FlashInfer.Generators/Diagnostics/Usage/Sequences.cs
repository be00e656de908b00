using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>Which sequences a call is given, and whether somebody else may hold them too.</summary>
internal static class Sequences
{
    /// <summary>
    /// The sequences or batches in an argument: one for <c>sequence</c> or <c>batch</c>, several for <c>[a, b]</c>; none where it is not
    /// that simple.
    /// </summary>
    public static IReadOnlyList<ISymbol> In(IOperation? argument, Paths paths)
    {
        IOperation? value = argument.Unwrap();
        IEnumerable<IOperation?> elements = value switch
        {
            ICollectionExpressionOperation collection => collection.Elements,
            IArrayCreationOperation { Initializer: { } initializer } => initializer.ElementValues,
            _ => new[] { value },
        };
        List<ISymbol> symbols = new();
        foreach (IOperation? element in elements)
        {
            if (paths.Symbol(element) is not { } symbol)
            {
                return Array.Empty<ISymbol>();
            }

            symbols.Add(symbol);
        }

        return symbols;
    }

    /// <summary>The first argument of a call on sequences.</summary>
    public static IOperation? Argument(IInvocationOperation call) => call.Argument("sequence") ?? call.Argument("sequences");

    /// <summary>
    /// Whether a sequence is given to code that may do with it what it likes: stored, returned, captured, passed to a method that is not
    /// of this library.
    /// </summary>
    public static bool Escapes(ISymbol symbol, IOperation root, KnownTypes types) =>
        root.Descendants().Any(o => SymbolEqualityComparer.Default.Equals(o.Reference(), symbol) && Escapes(o, symbol, types));

    private static bool Escapes(IOperation reference, ISymbol symbol, KnownTypes types)
    {
        if (reference.IsCaptured(symbol))
        {
            return true;
        }

        IOperation child = reference;
        for (IOperation? parent = reference.Parent; parent is not null; child = parent, parent = parent.Parent)
        {
            switch (parent)
            {
                case IConversionOperation:
                case IParenthesizedOperation:
                case IArgumentOperation:
                case ICollectionExpressionOperation:
                case IArrayInitializerOperation:
                case IArrayCreationOperation:
                    continue;
                case IInvocationOperation call:
                    return !types.IsOurs(call.TargetMethod);
                case IObjectCreationOperation:
                    return true;
                // Length of a sequence; an element of a batch.
                case IMemberReferenceOperation:
                case IArrayElementReferenceOperation:
                case ILoopOperation:
                case IBinaryOperation:
                case IIsPatternOperation:
                    return false;
                case IAssignmentOperation assignment:
                    return !ReferenceEquals(assignment.Target, child);
                default:
                    return true;
            }
        }

        return true;
    }
}
