using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <summary>Why a <c>for</c> ends: a variable goes by a step, in its last part only, and ends at something that the loop does not change.</summary>
/// <param name="Variable">The variable: a local or parameter.</param>
/// <param name="Type">Its type, int or uint.</param>
/// <param name="Step">By how much, not 0.</param>
/// <param name="End">What it is compared with.</param>
/// <param name="IsInclusive">Whether the loop runs for the end itself as well.</param>
internal sealed record LoopBound(ISymbol Variable, Scalar Type, long Step, IOperation End, bool IsInclusive)
{
    /// <summary>The bound of a loop; null when there is none to be seen.</summary>
    public static LoopBound? Of(IForLoopOperation loop)
    {
        HashSet<ISymbol> changed = new(Changes(loop.Body).Select(static change => change.Variable), SymbolEqualityComparer.Default);
        List<(ISymbol Variable, long? Step)> steps = loop.AtLoopBottom.SelectMany(Changes).ToList();
        changed.UnionWith(steps.Select(static step => step.Variable));
        return loop.Condition is null
            ? null
            : Conjuncts(loop.Condition)
                .Select(condition => Of(condition, loop, steps, changed))
                .FirstOrDefault(static bound => bound is not null);
    }

    /// <summary>Whether no value of the variable lies past the end, as with <c>i >= 0</c> for a uint.</summary>
    /// <param name="end">What the end may be.</param>
    public bool NeverEnds(Interval end)
    {
        Interval all = Interval.Of(Type);
        return IsInclusive && (Step > 0 ? end.Min >= all.Max : end.Max <= all.Min);
    }

    /// <summary>Whether the step may wrap the variable around while the condition holds.</summary>
    public bool MayWrap(Interval start, Interval end)
    {
        Interval all = Interval.Of(Type);
        Interval next = InBody(start, end) + new Interval(Step, Step);
        return Step > 0 ? next.Max > all.Max : next.Min < all.Min;
    }

    /// <summary>What the variable may be in the body.</summary>
    public Interval InBody(Interval start, Interval end) =>
        Step > 0 ? new Interval(start.Min, end.Max - (IsInclusive ? 0 : 1)) : new Interval(end.Min + (IsInclusive ? 0 : 1), start.Max);

    /// <summary>What the variable may be where the condition is asked, which is not where it has wrapped around.</summary>
    public Interval AtCondition(Interval start, Interval end)
    {
        Interval all = Interval.Of(Type);
        Interval next = InBody(start, end) + new Interval(Step, Step);
        return Step > 0
            ? new Interval(start.Min, Math.Max(start.Max, Math.Min(next.Max, all.Max)))
            : new Interval(Math.Min(start.Min, Math.Max(next.Min, all.Min)), start.Max);
    }

    /// <summary>Whether an operation at the loop's bottom is the variable's step.</summary>
    public bool IsStep(IOperation operation) => Changes(operation).Any(change => Same(change.Variable, Variable));

    private static LoopBound? Of(
        IOperation condition,
        IForLoopOperation loop,
        List<(ISymbol Variable, long? Step)> steps,
        HashSet<ISymbol> changed
    )
    {
        if (condition is not IBinaryOperation { OperatorMethod: null } comparison)
        {
            return null;
        }

        (IOperation variable, IOperation end, BinaryOperatorKind kind) =
            VariableOf(comparison.LeftOperand) is { } left && steps.Any(step => Same(step.Variable, left))
                ? (comparison.LeftOperand, comparison.RightOperand, comparison.OperatorKind)
                : (comparison.RightOperand, comparison.LeftOperand, Flipped(comparison.OperatorKind));
        Scalar type = Scalars.Of(variable.Type);
        if (VariableOf(variable) is not { } symbol || type is not (Scalar.Int or Scalar.UInt))
        {
            return null;
        }

        List<(ISymbol Variable, long? Step)> own = steps.Where(step => Same(step.Variable, symbol)).ToList();
        bool isUp = kind is BinaryOperatorKind.LessThan or BinaryOperatorKind.LessThanOrEqual;
        bool isDown = kind is BinaryOperatorKind.GreaterThan or BinaryOperatorKind.GreaterThanOrEqual;
        if (
            own.Count != 1
            || own[0].Step is not { } by
            || !(isUp ? by > 0 : isDown && by < 0)
            || Changes(loop.Body).Any(change => Same(change.Variable, symbol))
            || end.DescendantsAndSelf().Any(operation => VariableOf(operation) is { } read && changed.Contains(read))
        )
        {
            return null;
        }

        bool isInclusive = kind is BinaryOperatorKind.LessThanOrEqual or BinaryOperatorKind.GreaterThanOrEqual;
        return new LoopBound(symbol, type, by, end, isInclusive);
    }

    private static IEnumerable<IOperation> Conjuncts(IOperation condition) =>
        condition is IBinaryOperation { OperatorKind: BinaryOperatorKind.ConditionalAnd } both
            ? Conjuncts(both.LeftOperand).Concat(Conjuncts(both.RightOperand))
            : new[] { condition };

    /// <summary>The variables that are written, and by which constant they go, where they do.</summary>
    private static IEnumerable<(ISymbol Variable, long? Step)> Changes(IOperation operation)
    {
        foreach (IOperation child in operation.DescendantsAndSelf())
        {
            (IOperation? target, long? step) = child switch
            {
                IIncrementOrDecrementOperation one => (one.Target, one.Kind == OperationKind.Increment ? 1L : -1L),
                ICompoundAssignmentOperation { OperatorKind: BinaryOperatorKind.Add } sum => (sum.Target, ConstantOf(sum.Value)),
                ICompoundAssignmentOperation { OperatorKind: BinaryOperatorKind.Subtract } difference => (
                    difference.Target,
                    -ConstantOf(difference.Value)
                ),
                IAssignmentOperation assignment => (assignment.Target, (long?)null),
                _ => (null, null),
            };
            if (target is not null && VariableOf(target) is { } variable)
            {
                yield return (variable, step);
            }
        }
    }

    private static long? ConstantOf(IOperation value) =>
        value.ConstantValue.Value switch
        {
            int number => number,
            uint number => number,
            _ => null,
        };

    private static ISymbol? VariableOf(IOperation operation) =>
        operation switch
        {
            ILocalReferenceOperation local => local.Local,
            IParameterReferenceOperation parameter => parameter.Parameter,
            _ => null,
        };

    private static BinaryOperatorKind Flipped(BinaryOperatorKind kind) =>
        kind switch
        {
            BinaryOperatorKind.LessThan => BinaryOperatorKind.GreaterThan,
            BinaryOperatorKind.LessThanOrEqual => BinaryOperatorKind.GreaterThanOrEqual,
            BinaryOperatorKind.GreaterThan => BinaryOperatorKind.LessThan,
            BinaryOperatorKind.GreaterThanOrEqual => BinaryOperatorKind.LessThanOrEqual,
            _ => kind,
        };

    private static bool Same(ISymbol a, ISymbol b) => SymbolEqualityComparer.Default.Equals(a, b);
}
