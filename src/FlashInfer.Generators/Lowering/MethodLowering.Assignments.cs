using System.Collections.Generic;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <content>Assignments, of which statements are made.</content>
internal sealed partial class MethodLowering
{
    /// <summary>
    /// An assignment without its semicolon. Only statements assign: an expression then has no side effects, and the order in which C++
    /// evaluates operands does not matter.
    /// </summary>
    private string Assignment(IOperation operation)
    {
        switch (operation)
        {
            case ISimpleAssignmentOperation { Target: IDiscardOperation, Value: var value }:
                Lower(value);
                return "";
            case ISimpleAssignmentOperation { IsRef: false } assignment:
                return Target(assignment.Target) is { } name ? $"{name} = {Lower(assignment.Value).Text}" : "";
            case ICompoundAssignmentOperation assignment:
                return Compound(assignment);
            case IIncrementOrDecrementOperation step:
                return Step(step);
            case IInvocationOperation call:
                Lower(call);
                return "";
            default:
                Unsupported(operation);
                return "";
        }
    }

    private string Compound(ICompoundAssignmentOperation assignment)
    {
        if (Target(assignment.Target) is not { } name)
        {
            return "";
        }

        if (assignment.OperatorMethod is not null || assignment.IsChecked)
        {
            Unsupported(assignment);
            return "";
        }

        Scalar target = Scalars.Of(assignment.Target.Type);
        Scalar value = Scalars.Of(assignment.Value.Type);
        bool isShift =
            assignment.OperatorKind
            is BinaryOperatorKind.LeftShift
                or BinaryOperatorKind.RightShift
                or BinaryOperatorKind.UnsignedRightShift;
        // The type that C# computes in: both operands' after promotion, of which the value shows its own.
        Scalar computed =
            !isShift ? value
            : target == Scalar.Byte ? Scalar.Int
            : target;
        Expression right = Lower(assignment.Value);
        if (value == Scalar.None)
        {
            return "";
        }

        Expression left = Convert(assignment.Syntax, Lower(assignment.Target), target, computed);
        Expression result = Operators.Binary(assignment.OperatorKind, computed, left, right);
        string operation = $"{name} {Operators.Symbol(assignment.OperatorKind)} ";
        // As it was written, where that means the same.
        return computed == target && result.Text.StartsWith(operation, System.StringComparison.Ordinal)
            ? $"{operation.TrimEnd()}= {Unwrapped(result.Text.Substring(operation.Length), right)}"
            : $"{name} = {Convert(assignment.Syntax, result, computed, target).Text}";
    }

    // A right operand needs no parentheses as a value.
    private static string Unwrapped(string operand, Expression right) => operand == $"({right.Text})" ? right.Text : operand;

    private string Step(IIncrementOrDecrementOperation step)
    {
        if (Target(step.Target) is not { } name)
        {
            return "";
        }

        if (step.OperatorMethod is not null || step.IsChecked)
        {
            Unsupported(step);
            return "";
        }

        Scalar target = Scalars.Of(step.Target.Type);
        Scalar computed = target == Scalar.Byte ? Scalar.Int : target;
        bool isUp = step.Kind == OperationKind.Increment;
        Expression one = Operators.Constant(
            computed == Scalar.Float ? 1f
            : computed == Scalar.UInt ? 1u
            : (object)1
        );
        Expression left = Convert(step.Syntax, Lower(step.Target), target, computed);
        Expression result = Operators.Binary(isUp ? BinaryOperatorKind.Add : BinaryOperatorKind.Subtract, computed, left, one);
        return computed == target && result.Precedence == Precedence.Additive
            ? (isUp ? "++" : "--") + name
            : $"{name} = {Convert(step.Syntax, result, computed, target).Text}";
    }

    /// <summary>The name of a scalar local or parameter that is written; null for anything else, which is reported.</summary>
    private string? Target(IOperation target)
    {
        ISymbol? symbol = target switch
        {
            ILocalReferenceOperation local => local.Local,
            IParameterReferenceOperation parameter => parameter.Parameter,
            _ => null,
        };
        if (symbol is null)
        {
            Unsupported(
                target.Syntax,
                "An assignment to anything but a local or a parameter",
                "a method of a variant changes nothing outside it"
            );
            return null;
        }

        if (Scalars.Of(target.Type) == Scalar.None)
        {
            UnsupportedType(target.Syntax, target.Type!);
            return null;
        }

        return _names.Of(symbol.Name);
    }

    private static IEnumerable<ISymbol> AssignedIn(IOperation operation)
    {
        foreach (IOperation child in operation.DescendantsAndSelf())
        {
            IOperation? target = child switch
            {
                IAssignmentOperation assignment => assignment.Target,
                IIncrementOrDecrementOperation step => step.Target,
                _ => null,
            };
            if (target is ILocalReferenceOperation local)
            {
                yield return local.Local;
            }
            else if (target is IParameterReferenceOperation parameter)
            {
                yield return parameter.Parameter;
            }
        }
    }
}
