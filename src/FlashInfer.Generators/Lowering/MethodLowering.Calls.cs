using System;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <content>Calls: of functions that kernels have, and of other methods of the class, which are lowered with it.</content>
internal sealed partial class MethodLowering
{
    private Expression Call(IInvocationOperation call)
    {
        IMethodSymbol target = call.TargetMethod;
        if (KnownFunctions.Find(target) is { } function)
        {
            Expression[] values = Arguments(call);
            // 2 to a power is an instruction, any other base is not.
            if (function == "powf" && values[0].Constant is 2f)
            {
                return Expression.Primary($"exp2f({values[1].Text})");
            }

            Interval range = KnownFunctions.Range(function, values);
            string text = $"{function}({string.Join(", ", values.Select(static value => value.Text))})";
            return Expression.Primary(text, range == default ? Interval.Of(Scalars.Of(target.ReturnType)) : range);
        }

        if (target.MethodKind == MethodKind.LocalFunction)
        {
            // Its declaration is reported.
            variant.Problems.Broken();
            return Expression.None;
        }

        if (ProblemOf(call) is { } problem)
        {
            variant.Problems.Report(Descriptors.VariantCall, call.Syntax.GetLocation(), NameOf(target), problem);
            return Expression.None;
        }

        if (!variant.Require(target, out bool readsKey))
        {
            variant.Problems.Report(
                Descriptors.VariantCall,
                call.Syntax.GetLocation(),
                NameOf(target),
                "calls itself in the end, and kernels have no stack; write a loop"
            );
            return Expression.None;
        }

        ReadsKey |= readsKey;
        if (readsKey && isFirstKey)
        {
            variant.Problems.Report(
                Descriptors.VariantFirstKey,
                call.Syntax.GetLocation(),
                $"{target.Name} reads KvPosition, Head or KvHead, which are"
            );
        }

        string list = string.Join(", ", Arguments(call).Select(static argument => argument.Text));
        return Expression.Primary($"{variant.NameOf(target)}({list})", Interval.Of(Scalars.Of(target.ReturnType)));
    }

    // Named arguments stand in an order of their own; evaluating them has no side effects.
    private Expression[] Arguments(IInvocationOperation call) =>
        call.Arguments.OrderBy(static argument => argument.Parameter?.Ordinal).Select(argument => Lower(argument.Value)).ToArray();

    /// <summary>Why a method cannot be called; null when it can.</summary>
    private string? ProblemOf(IInvocationOperation call)
    {
        IMethodSymbol target = call.TargetMethod;
        if (target.ContainingType.ToDisplayString() is "System.Math" or "double" && KnownFunctions.HasFloat(target.Name))
        {
            return $"computes in double, which kernels do not; call MathF.{target.Name}";
        }

        if (!variant.Types.IsClass(target.ContainingType))
        {
            return target.ContainingType.ToDisplayString().StartsWith("System", StringComparison.Ordinal)
                ? "is not among the functions that kernels have; docs/variants.md lists them"
                : $"is not a method of {variant.Types.Class.Name}; only those are lowered with it. Move it there";
        }

        if (!target.IsStatic)
        {
            return "is an instance method, and kernels have no instance; make it static";
        }

        if (target.IsGenericMethod)
        {
            return "is generic; write it for the types that it is called with";
        }

        if (Scalars.Of(target.ReturnType) == Scalar.None)
        {
            return $"returns {target.ReturnType.ToDisplayString()}; expected int, uint, float or bool";
        }

        foreach (IParameterSymbol parameter in target.Parameters)
        {
            if (parameter.RefKind is not (RefKind.None or RefKind.In))
            {
                return $"has the parameter {parameter.Name} by reference, but a method of a variant only returns; make it a value";
            }

            if (parameter.Type.TypeKind != TypeKind.Error && variant.Types.Declare(parameter.Type) is null)
            {
                return $"has the parameter {parameter.Name} of type {parameter.Type.ToDisplayString()}; expected int, uint, float, bool, a context, the arguments or a span of them";
            }
        }

        return null;
    }

    private static string NameOf(IMethodSymbol method) => $"{method.ContainingType.Name}.{method.Name}";
}
