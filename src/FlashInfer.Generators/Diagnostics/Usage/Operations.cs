using System.Collections.Generic;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>Questions about one operation that several rules ask.</summary>
internal static class Operations
{
    /// <summary>The operation without conversions and parentheses.</summary>
    public static IOperation? Unwrap(this IOperation? operation)
    {
        while (true)
        {
            switch (operation)
            {
                case IConversionOperation conversion:
                    operation = conversion.Operand;
                    break;
                case IParenthesizedOperation parenthesized:
                    operation = parenthesized.Operand;
                    break;
                case IArgumentOperation argument:
                    operation = argument.Value;
                    break;
                default:
                    return operation;
            }
        }
    }

    /// <summary>The local, parameter, field or property that an operation reads or writes; null for anything less simple.</summary>
    public static ISymbol? Symbol(this IOperation? operation) =>
        operation.Unwrap() switch
        {
            ILocalReferenceOperation local => local.Local,
            IParameterReferenceOperation parameter => parameter.Parameter,
            IFieldReferenceOperation { Instance: null or IInstanceReferenceOperation } field => field.Field,
            IPropertyReferenceOperation { Instance: null or IInstanceReferenceOperation, Arguments.Length: 0 } property =>
                property.Property,
            _ => null,
        };

    /// <summary>The argument of a parameter, given or not.</summary>
    public static IArgumentOperation? Argument(this IInvocationOperation call, string parameter)
    {
        foreach (IArgumentOperation argument in call.Arguments)
        {
            if (argument.Parameter?.Name == parameter)
            {
                return argument;
            }
        }

        return null;
    }

    /// <summary>All operations inside, children before parents: the order in which they are evaluated, near enough.</summary>
    public static IEnumerable<IOperation> InOrder(this IOperation operation)
    {
        foreach (IOperation child in operation.ChildOperations)
        {
            foreach (IOperation descendant in child.InOrder())
            {
                yield return descendant;
            }
        }

        yield return operation;
    }

    /// <summary>Whether the symbol is referred to anywhere inside.</summary>
    public static bool Mentions(this IOperation operation, ISymbol symbol)
    {
        foreach (IOperation descendant in operation.DescendantsAndSelf())
        {
            if (SymbolEqualityComparer.Default.Equals(descendant.Reference(), symbol))
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>The symbol that this very operation refers to.</summary>
    public static ISymbol? Reference(this IOperation operation) =>
        operation switch
        {
            ILocalReferenceOperation local => local.Local,
            IParameterReferenceOperation parameter => parameter.Parameter,
            IFieldReferenceOperation field => field.Field,
            IPropertyReferenceOperation property => property.Property,
            _ => null,
        };

    /// <summary>What an operation assigns to, if it is one that assigns.</summary>
    public static IOperation? AssignmentTarget(this IOperation operation) =>
        operation switch
        {
            IAssignmentOperation assignment => assignment.Target,
            IIncrementOrDecrementOperation increment => increment.Target,
            IArgumentOperation { Parameter.RefKind: RefKind.Ref or RefKind.Out } argument => argument.Value,
            _ => null,
        };

    /// <summary>The innermost loop around an operation inside its function; null when there is none.</summary>
    public static ILoopOperation? Loop(this IOperation operation)
    {
        for (IOperation? o = operation; o.Parent is { } parent; o = parent)
        {
            if (parent is IAnonymousFunctionOperation or ILocalFunctionOperation)
            {
                return null;
            }

            if (parent is ILoopOperation loop && ReferenceEquals(loop.Body, o))
            {
                return loop;
            }
        }

        return null;
    }

    /// <summary>Whether an operation is done in every pass of a loop: nothing between the two decides about it.</summary>
    public static bool IsInEveryPass(this IOperation operation, ILoopOperation loop)
    {
        for (IOperation? o = operation.Parent; o is not null && !ReferenceEquals(o, loop); o = o.Parent)
        {
            if (
                o
                is IConditionalOperation
                    or ISwitchOperation
                    or ISwitchExpressionOperation
                    or ICatchClauseOperation
                    or IConditionalAccessOperation
                    or ICoalesceOperation
                    or ILoopOperation
                    or IAnonymousFunctionOperation
                    or ILocalFunctionOperation
                    or IBinaryOperation { OperatorKind: BinaryOperatorKind.ConditionalAnd or BinaryOperatorKind.ConditionalOr }
            )
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Whether a symbol is declared or written inside a loop, so that it may differ from pass to pass.</summary>
    public static bool Varies(this ILoopOperation loop, ISymbol symbol)
    {
        foreach (IOperation operation in loop.DescendantsAndSelf())
        {
            bool declares = operation switch
            {
                IVariableDeclaratorOperation declarator => Same(declarator.Symbol),
                ILoopOperation { Locals: var locals } => locals.Contains((symbol as ILocalSymbol)!, SymbolEqualityComparer.Default),
                _ => false,
            };
            if (declares || Same(operation.AssignmentTarget()?.Symbol()))
            {
                return true;
            }
        }

        return false;

        bool Same(ISymbol? other) => SymbolEqualityComparer.Default.Equals(other, symbol);
    }

    /// <summary>Whether a reference to a local or parameter stands in a function inside the one that declares it.</summary>
    public static bool IsCaptured(this IOperation reference, ISymbol symbol)
    {
        if (symbol is not (ILocalSymbol or IParameterSymbol))
        {
            return false;
        }

        for (IOperation? o = reference.Parent; o is not null; o = o.Parent)
        {
            IMethodSymbol? function = o switch
            {
                IAnonymousFunctionOperation lambda => lambda.Symbol,
                ILocalFunctionOperation local => local.Symbol,
                _ => null,
            };
            if (function is not null)
            {
                return !SymbolEqualityComparer.Default.Equals(symbol.ContainingSymbol, function);
            }
        }

        return false;
    }
}
