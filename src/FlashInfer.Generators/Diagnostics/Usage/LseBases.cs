using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0108: host code that takes a base-2 log-sum-exp for a natural one, or the other way round. On the device the type Lse2 forbids it;
/// copied to the host it is a number like any other. Bases are followed through the locals of a member; one that holds both is left alone.
/// </summary>
internal static class LseBases
{
    private enum Base
    {
        /// <summary>A constant, or nothing yet: goes with any.</summary>
        Neutral,
        Two,
        Natural,

        /// <summary>Not a log-sum-exp, or not known to be one.</summary>
        Unknown,
    }

    public static void Check(IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        if (
            root.Descendants()
                .Any(o =>
                    o is IInvocationOperation call
                    && (types.IsLse2(call.Instance?.Type) || types.IsLse2(Viewed(call)?.Type) || IsConversion(call, types))
                )
        )
        {
            new Rule(root, types).Check(report);
        }
    }

    // lse.View.ToArray()
    private static IOperation? Viewed(IInvocationOperation call) => (call.Instance.Unwrap() as IPropertyReferenceOperation)?.Instance;

    private static bool IsConversion(IInvocationOperation call, KnownTypes types) =>
        call.TargetMethod is { Name: "ToNaturalLog" or "FromNaturalLog", ContainingType.Name: "Lse" } method && types.IsOurs(method);

    private sealed class Rule
    {
        private readonly IOperation _root;
        private readonly KnownTypes _types;
        private readonly Dictionary<ISymbol, Base> _locals = new(SymbolEqualityComparer.Default);

        public Rule(IOperation root, KnownTypes types)
        {
            _root = root;
            _types = types;

            // Each pass can only raise a local, so this ends.
            while (_root.Descendants().Aggregate(false, (changed, o) => Note(o) || changed)) { }
        }

        public void Check(Action<Diagnostic> report)
        {
            foreach (IOperation operation in _root.Descendants())
            {
                if (Problem(operation) is var (value, wrong, what))
                {
                    report(
                        Diagnostic.Create(Descriptors.LseBases, operation.Syntax.GetLocation(), value.Syntax.ToString(), Words(wrong), what)
                    );
                }
            }
        }

        private static string Words(Base @base) => @base == Base.Two ? "2" : "e";

        private static Base Join(Base left, Base right) =>
            left == Base.Neutral ? right
            : right == Base.Neutral || left == right ? left
            : Base.Unknown;

        /// <summary>Notes what an operation puts into a local; says whether that was news.</summary>
        private bool Note(IOperation operation)
        {
            switch (operation)
            {
                case IVariableDeclaratorOperation { Initializer.Value: var value } declarator:
                    return Raise(declarator.Symbol, Of(value));
                case ISimpleAssignmentOperation assignment:
                    return Raise(Holder(assignment.Target), Of(assignment.Value));
                case ICompoundAssignmentOperation assignment:
                    return Raise(Holder(assignment.Target), Combine(assignment.OperatorKind, Base.Neutral, Of(assignment.Value)));
                case IInvocationOperation { TargetMethod.Name: "CopyTo" } call when IsLse2(call):
                    return Raise(Holder(call.Arguments[0].Value), Base.Two);
                case IInvocationOperation call when IsConversion(call, _types) && call.Arguments.Length == 2:
                    return Raise(Holder(call.Arguments[1].Value), call.TargetMethod.Name == "ToNaturalLog" ? Base.Natural : Base.Two);
                case IArgumentOperation { Parameter.RefKind: RefKind.Ref or RefKind.Out } argument:
                    return Raise(Holder(argument.Value), Base.Unknown);
                // Declared by a pattern, a deconstruction or an out argument.
                case ILocalReferenceOperation { IsDeclaration: true } declared:
                    return Raise(declared.Local, Base.Unknown);
                case IDeclarationPatternOperation { DeclaredSymbol: { } declared }:
                    return Raise(declared, Base.Unknown);
                case IDeconstructionAssignmentOperation { Target: ITupleOperation tuple }:
                    return tuple.Elements.Aggregate(false, (changed, element) => Raise(Holder(element), Base.Unknown) || changed);
                case IForEachLoopOperation { Locals: [var local] } loop:
                    return Raise(local, Of(loop.Collection));
                default:
                    return false;
            }
        }

        private bool Raise(ISymbol? local, Base @base)
        {
            if (local is null)
            {
                return false;
            }

            _locals.TryGetValue(local, out Base before);
            _locals[local] = Join(before, @base);
            return _locals[local] != before;
        }

        /// <summary>The local that an expression is, or is a part of.</summary>
        private static ISymbol? Holder(IOperation? operation) =>
            operation.Unwrap() switch
            {
                ILocalReferenceOperation local => local.Local,
                IArrayElementReferenceOperation element => Holder(element.ArrayReference),
                IPropertyReferenceOperation { Property.IsIndexer: true, Instance: { } instance } => Holder(instance),
                IInvocationOperation call when IsSameValues(call) => Holder(call.Instance ?? call.Arguments[0].Value),
                IImplicitIndexerReferenceOperation range => Holder(range.Instance),
                _ => null,
            };

        private static bool IsSameValues(IInvocationOperation call) =>
            call.TargetMethod.Name is "AsSpan" or "Slice" or "ToArray" or "Max" or "Min"
            && (call.Instance ?? call.Arguments.FirstOrDefault()?.Value)
                is { Type: not { SpecialType: SpecialType.System_Single or SpecialType.System_Double } };

        private Base Of(IOperation? operation)
        {
            switch (operation.Unwrap())
            {
                case { ConstantValue.HasValue: true }:
                    return Base.Neutral;
                // new float[n], to be filled.
                case IArrayCreationOperation { Initializer: null }:
                    return Base.Neutral;
                case IInvocationOperation { TargetMethod.Name: "ToArray" } call when IsLse2(call):
                    return Base.Two;
                case IInvocationOperation { TargetMethod.Name: "ToNaturalLog" } call when IsLse2(call) || IsConversion(call, _types):
                    return Base.Natural;
                case IInvocationOperation { TargetMethod.Name: "FromNaturalLog" } call when IsConversion(call, _types):
                    return Base.Two;
                case IInvocationOperation { TargetMethod.Name: "Max" or "Min", Instance: null, Arguments.Length: 2 } call:
                    return Join(Of(call.Arguments[0]), Of(call.Arguments[1]));
                case IBinaryOperation binary:
                    return Combine(binary.OperatorKind, Of(binary.LeftOperand), Of(binary.RightOperand));
                case IUnaryOperation { OperatorKind: UnaryOperatorKind.Minus } unary:
                    return Of(unary.Operand);
                case { } other when Holder(other) is { } local:
                    return _locals.TryGetValue(local, out Base @base) ? @base : Base.Neutral;
                case IInvocationOperation call when IsSameValues(call):
                    return Of(call.Instance ?? call.Arguments[0].Value);
                case IArrayElementReferenceOperation element:
                    return Of(element.ArrayReference);
                default:
                    return Base.Unknown;
            }
        }

        // Sums and differences keep a base; a factor may be the conversion.
        private static Base Combine(BinaryOperatorKind kind, Base left, Base right) =>
            kind is BinaryOperatorKind.Add or BinaryOperatorKind.Subtract ? Join(left, right) : Base.Unknown;

        private bool IsLse2(IInvocationOperation call) => _types.IsLse2(call.Instance?.Type) || _types.IsLse2(Viewed(call)?.Type);

        private (IOperation Value, Base Wrong, string What)? Problem(IOperation operation)
        {
            switch (operation)
            {
                case IInvocationOperation { TargetMethod: { Name: "Exp", IsStatic: true } method, Arguments.Length: 1 } call
                    when IsMath(method):
                    return Wants(
                        call.Arguments[0],
                        Base.Two,
                        $"{method.ContainingType.Name}.Exp takes a natural one; use float.Exp2, or convert it with ToNaturalLog"
                    );
                case IInvocationOperation { TargetMethod: { Name: "Exp2", IsStatic: true } method, Arguments.Length: 1 } call
                    when IsMath(method):
                    return Wants(call.Arguments[0], Base.Natural, "Exp2 takes one of base 2; use Exp, or do not convert it");
                case IInvocationOperation { TargetMethod: { Name: "Pow", IsStatic: true } method, Arguments: [var number, var exponent] }
                    when IsMath(method) && IsTwo(number):
                    return Wants(exponent, Base.Natural, "a power of 2 takes one of base 2; use Exp, or do not convert it");
                case IInvocationOperation { TargetMethod.Name: "ToNaturalLog" } call when IsConversion(call, _types):
                    return Wants(
                        call.Arguments[0],
                        Base.Natural,
                        "Lse.ToNaturalLog takes one of base 2; it is converted already, so leave the call out"
                    );
                case IInvocationOperation { TargetMethod.Name: "FromNaturalLog" } call when IsConversion(call, _types):
                    return Wants(
                        call.Arguments[0],
                        Base.Two,
                        "Lse.FromNaturalLog takes a natural one; it needs no conversion, so leave the call out"
                    );
                case IInvocationOperation { TargetMethod.Name: "CopyFrom" } call when IsLse2(call):
                    return Wants(call.Arguments[0], Base.Natural, "Lse2 holds base 2; convert it with Lse.FromNaturalLog first");
                case IInvocationOperation { TargetMethod.Name: "Max" or "Min", Instance: null, Arguments: [var left, var right] }:
                    return Mixed(left, right);
                case IBinaryOperation binary when IsComparison(binary.OperatorKind):
                    return Mixed(binary.LeftOperand, binary.RightOperand);
                default:
                    return null;
            }
        }

        private (IOperation, Base, string)? Wants(IOperation argument, Base wrong, string what) =>
            Of(argument) == wrong ? (argument, wrong, what) : null;

        private (IOperation, Base, string)? Mixed(IOperation left, IOperation right)
        {
            (Base first, Base second) = (Of(left), Of(right));
            return first is Base.Two or Base.Natural && second is Base.Two or Base.Natural && first != second
                ? (
                    left,
                    first,
                    $"{right.Syntax} is one of base {Words(second)}; convert one of the two with Lse.ToNaturalLog or Lse.FromNaturalLog"
                )
                : null;
        }

        private static bool IsComparison(BinaryOperatorKind kind) =>
            kind
                is BinaryOperatorKind.Add
                    or BinaryOperatorKind.Subtract
                    or BinaryOperatorKind.LessThan
                    or BinaryOperatorKind.LessThanOrEqual
                    or BinaryOperatorKind.GreaterThan
                    or BinaryOperatorKind.GreaterThanOrEqual
                    or BinaryOperatorKind.Equals
                    or BinaryOperatorKind.NotEquals;

        private static bool IsTwo(IOperation argument) => argument.Unwrap()?.ConstantValue is { HasValue: true, Value: 2 or 2f or 2d };

        private static bool IsMath(IMethodSymbol method) =>
            method.ContainingNamespace is { Name: "System" }
            && method.ContainingType.Name is "Math" or "MathF" or "Single" or "Double" or "Half";
    }
}
