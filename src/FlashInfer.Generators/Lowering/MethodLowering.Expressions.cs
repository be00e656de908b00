using System;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <content>Expressions: the same operators where C++ means the same, functions of core/csharp.cuh where it does not.</content>
internal sealed partial class MethodLowering
{
    // Names core/csharp.cuh's namespace in the text, see VariantLowering.
    private const string CSharp = "csharp::";

    private Expression Lower(IOperation operation)
    {
        Scalar type = Scalars.Of(operation.Type);
        if (type != Scalar.None && operation.ConstantValue is { HasValue: true, Value: { } constant })
        {
            return Constant(constant);
        }

        if (!IsSupported(operation))
        {
            Unsupported(operation);
            return Expression.None;
        }

        switch (operation)
        {
            case ILocalReferenceOperation local:
                return Expression.Primary(_names.Of(local.Local.Name), RangeOf(local.Local, local.Type));
            case IParameterReferenceOperation parameter:
                return Expression.Primary(_names.Of(parameter.Parameter.Name), RangeOf(parameter.Parameter, parameter.Type));
            case IFieldReferenceOperation field:
                return Field(field);
            case IPropertyReferenceOperation property:
                return Property(property);
            case IInvocationOperation call:
                return Call(call);
            case IConversionOperation { OperatorMethod: null, IsChecked: false } conversion
                when type != Scalar.None && Scalars.Of(conversion.Operand.Type) is not Scalar.None and var from:
                return Convert(conversion.Syntax, Lower(conversion.Operand), from, type);
            case IConversionOperation { OperatorMethod: null, Conversion: { IsNumeric: true }, IsChecked: false } conversion:
                // From a type that there is none of: the operand says so.
                return Lower(conversion.Operand);
            case IUnaryOperation { OperatorMethod: null, IsLifted: false, IsChecked: false } unary:
                return Unary(unary, type);
            case IBinaryOperation { OperatorMethod: null, IsLifted: false, IsChecked: false } binary:
                return Binary(binary);
            case IConditionalOperation { IsRef: false, WhenFalse: { } otherwise } conditional:
                return Conditional(conditional.Condition, conditional.WhenTrue, otherwise);
            case ISwitchExpressionOperation choice:
                return Switch(choice);
            case IIsPatternOperation test:
                return Test(test);
            default:
                Unsupported(operation);
                return Expression.None;
        }
    }

    private static Expression Constant(object value)
    {
        string text = Scalars.Literal(value);
        Interval range = value switch
        {
            int number => new Interval(number, number),
            uint number => new Interval(number, number),
            byte number => new Interval(number, number),
            _ => default,
        };
        return new Expression(text, text[0] == '-' ? Precedence.Unary : Precedence.Primary, range) { Constant = value };
    }

    private Expression Field(IFieldReferenceOperation reference)
    {
        if (reference.Field.IsStatic && variant.ConstantOf(reference.Field) is { } constant && Scalars.Of(reference.Type) != Scalar.None)
        {
            return Constant(constant);
        }

        variant.Problems.Report(
            Descriptors.VariantState,
            reference.Syntax.GetLocation(),
            reference.Field.Name,
            reference.Field.IsReadOnly
                ? "has no constant value; write a constant, or make it a property of the [VariantArguments]"
                : "can change while kernels run; make it a property of the [VariantArguments], or const"
        );
        return Expression.None;
    }

    private Expression Property(IPropertyReferenceOperation reference)
    {
        ITypeSymbol? owner = reference.Instance?.Type;
        string name = reference.Property.Name;
        if (variant.Types.IsContext(owner) && VariantTypes.ContextMembers.TryGetValue(name, out Expression? member))
        {
            if (name is "KvPosition" or "Head" or "KvHead")
            {
                ReadsKey = true;
                if (isFirstKey)
                {
                    variant.Problems.Report(Descriptors.VariantFirstKey, reference.Syntax.GetLocation(), $"{name} is");
                }
            }

            return Expression.Primary($"{Lower(reference.Instance!).Text}.{member.Text}", member.Range);
        }

        if (variant.Types.IsArguments(owner) && reference.Arguments.IsEmpty)
        {
            string text = $"{Lower(reference.Instance!).Text}.{variant.ArgumentName(name)}";
            return Scalars.Of(reference.Type) == Scalar.Bool
                ? new Expression(text + " != 0", Precedence.Equality, default)
                : Expression.Primary(text, Interval.Of(Scalars.Of(reference.Type)));
        }

        if (Scalars.ElementOf(owner) is not Scalar.None and var element)
        {
            switch (name)
            {
                case "Length":
                    return Expression.Primary(Lower(reference.Instance!).Text + ".length", Interval.Count);
                case "IsEmpty":
                    return new Expression(Lower(reference.Instance!).Text + ".length == 0", Precedence.Equality, default);
                case "this[]" when reference.Arguments.Length == 1 && Scalars.Of(reference.Arguments[0].Value.Type) == Scalar.Int:
                    string index = Lower(reference.Arguments[0].Value).Text;
                    // [[ begins an attribute.
                    index = index[0] == '[' ? $"({index})" : index;
                    return Expression.Primary($"{Lower(reference.Instance!).Text}[{index}]", Interval.Of(element));
                default:
                    break;
            }
        }

        if (reference.Property.IsStatic)
        {
            variant.Problems.Report(
                Descriptors.VariantState,
                reference.Syntax.GetLocation(),
                name,
                "is computed each time that it is read; make it a property of the [VariantArguments], const, or a static method of the class"
            );
        }
        else
        {
            Unsupported(reference);
        }

        return Expression.None;
    }

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
                return $"has the parameter {parameter.Name} of type {parameter.Type.ToDisplayString()}; expected int, uint, float, bool, LogitsContext, the arguments or a span of them";
            }
        }

        return null;
    }

    private static string NameOf(IMethodSymbol method) => $"{method.ContainingType.Name}.{method.Name}";

    private Expression Unary(IUnaryOperation unary, Scalar type)
    {
        Expression operand = Lower(unary.Operand);
        switch (unary.OperatorKind)
        {
            case UnaryOperatorKind.Plus:
                return operand;
            case UnaryOperatorKind.Not:
                return new Expression("!" + operand.As(Precedence.Unary), Precedence.Unary, default);
            case UnaryOperatorKind.BitwiseNegation:
                Interval inverse = type == Scalar.UInt ? Interval.UInt : new Interval(-1 - operand.Range.Max, -1 - operand.Range.Min);
                return new Expression("~" + operand.As(Precedence.Unary), Precedence.Unary, inverse);
            case UnaryOperatorKind.Minus:
                Interval range = new(-operand.Range.Max, -operand.Range.Min);
                if (type == Scalar.Int && !range.IsInt)
                {
                    return Function("negate", Interval.Int, operand);
                }

                string text = operand.As(Precedence.Unary);
                return new Expression(text[0] == '-' ? $"-({text})" : "-" + text, Precedence.Unary, range);
            default:
                Unsupported(unary);
                return Expression.None;
        }
    }

    private Expression Binary(IBinaryOperation binary)
    {
        Scalar type = Scalars.Of(binary.LeftOperand.Type);
        if (type == Scalar.None || Scalars.Of(binary.RightOperand.Type) == Scalar.None)
        {
            // The operand of a type that there is none of says so.
            Lower(type == Scalar.None ? binary.LeftOperand : binary.RightOperand);
            return Expression.None;
        }

        // Behind a condition an element would be loaded again for each key, though it be the same: all of a kernel's logits are in
        // registers, and the compiler does not move a load before a branch. Nothing throws, so nothing keeps it from being asked first.
        bool loads = ReadsElement(binary.RightOperand);
        BinaryOperatorKind kind = binary.OperatorKind switch
        {
            BinaryOperatorKind.ConditionalAnd when loads => BinaryOperatorKind.And,
            BinaryOperatorKind.ConditionalOr when loads => BinaryOperatorKind.Or,
            var other => other,
        };
        return Binary(kind, type, Lower(binary.LeftOperand), Lower(binary.RightOperand));
    }

    private static bool ReadsElement(IOperation operation) =>
        operation
            .DescendantsAndSelf()
            .Any(static inner => inner is IPropertyReferenceOperation { Property.IsIndexer: true, Instance: { } span } && IsSpan(span));

    private static bool IsSpan(IOperation operation) => Scalars.ElementOf(operation.Type) != Scalar.None;

    private static Expression Binary(BinaryOperatorKind kind, Scalar type, Expression left, Expression right)
    {
        Interval all = Interval.Of(type);
        switch (kind)
        {
            case BinaryOperatorKind.Add:
                return Arithmetic("add", left.Range + right.Range);
            case BinaryOperatorKind.Subtract:
                return Arithmetic("subtract", left.Range - right.Range);
            case BinaryOperatorKind.Multiply:
                return Arithmetic("multiply", left.Range * right.Range);
            case BinaryOperatorKind.Divide when type == Scalar.Float:
                // By a power of two it is a multiplication; else the GPU's division calls a function, which stops all tensor products.
                return right.Constant is float divisor && IsPowerOfTwo(divisor) ? Plain(default) : Function("divide", default, left, right);
            case BinaryOperatorKind.Remainder when type == Scalar.Float:
                return Expression.Primary($"fmodf({left.Text}, {right.Text})");
            case BinaryOperatorKind.Divide or BinaryOperatorKind.Remainder:
                return Division();
            case BinaryOperatorKind.LeftShift or BinaryOperatorKind.RightShift or BinaryOperatorKind.UnsignedRightShift:
                return Shift();
            case BinaryOperatorKind.And when type == Scalar.Bool:
            case BinaryOperatorKind.Or when type == Scalar.Bool:
                return Plain(default);
            case BinaryOperatorKind.ExclusiveOr when type == Scalar.Bool:
                return Infix("!=", Precedence.Equality, left, right, default);
            case BinaryOperatorKind.And:
                return Plain(
                    left.Range.Min >= 0 && right.Range.Min >= 0 ? new Interval(0, Math.Min(left.Range.Max, right.Range.Max))
                    : right.Range.Min >= 0 ? new Interval(0, right.Range.Max)
                    : left.Range.Min >= 0 ? new Interval(0, left.Range.Max)
                    : all
                );
            case BinaryOperatorKind.Or or BinaryOperatorKind.ExclusiveOr:
                return Plain(left.Range.Min >= 0 && right.Range.Min >= 0 ? new Interval(0, all.Max) : all);
            default:
                return Plain(default);
        }

        Expression Arithmetic(string function, Interval exact)
        {
            bool fits = all.Contains(exact.Min) && all.Contains(exact.Max);
            return type != Scalar.Int || fits ? Plain(fits ? exact : all) : Function(function, Interval.Int, left, right);
        }

        // C# throws for a divisor of 0 and for int.MinValue / -1.
        Expression Division()
        {
            bool isSafe =
                !right.Range.Contains(0) && (type != Scalar.Int || !right.Range.Contains(-1) || !left.Range.Contains(int.MinValue));
            bool isPositive = right.Range.Min == right.Range.Max && right.Range.Min > 0;
            Interval range = isPositive
                ? kind == BinaryOperatorKind.Divide
                    ? left.Range.Divide(right.Range.Min)
                    : left.Range.Remainder(right.Range.Min)
                : all;
            return isSafe ? Plain(range) : Function(kind == BinaryOperatorKind.Divide ? "divide" : "remainder", range, left, right);
        }

        // C# takes a count's last five bits.
        Expression Shift()
        {
            bool isConstant = right.Range.Min == right.Range.Max;
            int count = (int)(right.Range.Min & 31);
            Expression by = isConstant ? Constant(count) : Infix("&", Precedence.BitAnd, right, Constant(31), default);
            if (kind == BinaryOperatorKind.LeftShift && type == Scalar.Int)
            {
                Interval shifted = new(left.Range.Min << count, left.Range.Max << count);
                return isConstant && left.Range.Min >= 0 && shifted.IsInt
                    ? Infix("<<", Precedence.Shift, left, by, shifted)
                    : Function("shift_left", Interval.Int, left, right);
            }

            if (kind == BinaryOperatorKind.UnsignedRightShift && type == Scalar.Int && left.Range.Min < 0)
            {
                return Function("shift_right_unsigned", Interval.Int, left, right);
            }

            bool isLeft = kind == BinaryOperatorKind.LeftShift;
            Interval range = isConstant && !isLeft ? new Interval(left.Range.Min >> count, left.Range.Max >> count) : all;
            return Infix(isLeft ? "<<" : ">>", Precedence.Shift, left, by, range);
        }

        Expression Plain(Interval range) => Infix(Operator(kind), PrecedenceOf(kind), left, right, range);
    }

    private static bool IsPowerOfTwo(float value)
    {
        int bits = BitConverter.ToInt32(BitConverter.GetBytes(value), 0);
        int exponent = (bits >> 23) & 0xFF;
        // With an inverse that is one too, and no subnormal.
        return (bits & 0x7FFFFF) == 0 && exponent is > 0 and < 254;
    }

    /// <summary>Two operands and their operator, with parentheses where C++ or a reader needs them.</summary>
    private static Expression Infix(string symbol, Precedence precedence, Expression left, Expression right, Interval range)
    {
        // Few readers know how bits, shifts and && in || bind.
        bool isBits = precedence is Precedence.BitAnd or Precedence.BitOr or Precedence.BitXor or Precedence.Shift;
        Precedence leftLeast =
            isBits && left.Precedence != precedence ? Precedence.Unary
            : precedence == Precedence.Or && left.Precedence != Precedence.Or ? Precedence.BitOr
            : precedence;
        Precedence rightLeast =
            isBits ? Precedence.Unary
            : precedence == Precedence.Or ? Precedence.BitOr
            : precedence + 1;
        return new Expression($"{left.As(leftLeast)} {symbol} {right.As(rightLeast)}", precedence, range);
    }

    private static string Operator(BinaryOperatorKind kind) =>
        kind switch
        {
            BinaryOperatorKind.Add => "+",
            BinaryOperatorKind.Subtract => "-",
            BinaryOperatorKind.Multiply => "*",
            BinaryOperatorKind.Divide => "/",
            BinaryOperatorKind.Remainder => "%",
            BinaryOperatorKind.LeftShift => "<<",
            BinaryOperatorKind.RightShift or BinaryOperatorKind.UnsignedRightShift => ">>",
            BinaryOperatorKind.And => "&",
            BinaryOperatorKind.Or => "|",
            BinaryOperatorKind.ExclusiveOr => "^",
            BinaryOperatorKind.ConditionalAnd => "&&",
            BinaryOperatorKind.ConditionalOr => "||",
            BinaryOperatorKind.Equals => "==",
            BinaryOperatorKind.NotEquals => "!=",
            BinaryOperatorKind.LessThan => "<",
            BinaryOperatorKind.LessThanOrEqual => "<=",
            BinaryOperatorKind.GreaterThan => ">",
            BinaryOperatorKind.GreaterThanOrEqual => ">=",
            _ => throw new InvalidOperationException($"C# has no binary operator {kind}."),
        };

    private static Precedence PrecedenceOf(BinaryOperatorKind kind) =>
        kind switch
        {
            BinaryOperatorKind.Multiply or BinaryOperatorKind.Divide or BinaryOperatorKind.Remainder => Precedence.Multiplicative,
            BinaryOperatorKind.Add or BinaryOperatorKind.Subtract => Precedence.Additive,
            BinaryOperatorKind.And => Precedence.BitAnd,
            BinaryOperatorKind.Or => Precedence.BitOr,
            BinaryOperatorKind.ExclusiveOr => Precedence.BitXor,
            BinaryOperatorKind.ConditionalAnd => Precedence.And,
            BinaryOperatorKind.ConditionalOr => Precedence.Or,
            BinaryOperatorKind.Equals or BinaryOperatorKind.NotEquals => Precedence.Equality,
            _ => Precedence.Relational,
        };

    private static Expression Function(string name, Interval range, params Expression[] arguments) =>
        Expression.Primary($"{CSharp}{name}({string.Join(", ", arguments.Select(static argument => argument.Text))})", range);

    private Expression Convert(SyntaxNode syntax, Expression value, Scalar from, Scalar to)
    {
        switch (from, to)
        {
            case var _ when from == to:
                return value;
            case (Scalar.Float, Scalar.Int):
                return Function("to_int", Interval.Int, value);
            case (Scalar.Float, Scalar.UInt):
                return Function("to_uint", Interval.UInt, value);
            case (Scalar.Float, Scalar.Byte):
                Unsupported(syntax, "A conversion of a float to a byte", "convert it to an int first: what is then cut off shows");
                return Expression.None;
            case (_, Scalar.Byte):
                return Function("to_byte", Interval.Byte, value);
            default:
                bool keeps = Interval.Of(to).Contains(value.Range.Min) && Interval.Of(to).Contains(value.Range.Max);
                return Expression.Primary($"{Scalars.Cuda(to)}({value.Text})", keeps ? value.Range : Interval.Of(to));
        }
    }

    private Expression Conditional(IOperation condition, IOperation whenTrue, IOperation whenFalse)
    {
        // Decided at compile time: by a constant of the configuration, say.
        if (condition.ConstantValue is { HasValue: true, Value: bool constant })
        {
            return Lower(constant ? whenTrue : whenFalse);
        }

        return Conditional(Lower(condition), Lower(whenTrue), Lower(whenFalse));
    }

    private static Expression Conditional(Expression condition, Expression whenTrue, Expression whenFalse) =>
        new(
            $"{condition.As(Precedence.Or)} ? {whenTrue.As(Precedence.Or)} : {whenFalse.Text}",
            Precedence.Conditional,
            whenTrue.Range.Union(whenFalse.Range)
        );
}
