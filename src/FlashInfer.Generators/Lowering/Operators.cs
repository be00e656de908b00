using System;
using System.Linq;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <summary>
/// Operators of C# on expressions in CUDA: the same where C++ means the same, functions of core/csharp.cuh where it does not. What is
/// known of the operands decides which.
/// </summary>
internal static class Operators
{
    /// <summary>Names core/csharp.cuh's namespace in the text, see <see cref="VariantLowering"/>.</summary>
    public const string CSharp = "csharp::";

    public static Expression Constant(object value)
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

    public static Expression Binary(BinaryOperatorKind kind, Scalar type, Expression left, Expression right)
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

        Expression Plain(Interval range) => Infix(Symbol(kind), PrecedenceOf(kind), left, right, range);
    }

    private static bool IsPowerOfTwo(float value)
    {
        int bits = BitConverter.ToInt32(BitConverter.GetBytes(value), 0);
        int exponent = (bits >> 23) & 0xFF;
        // With an inverse that is one too, and no subnormal.
        return (bits & 0x7FFFFF) == 0 && exponent is > 0 and < 254;
    }

    /// <summary>Two operands and their operator, with parentheses where C++ or a reader needs them.</summary>
    public static Expression Infix(string symbol, Precedence precedence, Expression left, Expression right, Interval range)
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

    public static string Symbol(BinaryOperatorKind kind) =>
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

    public static Expression Function(string name, Interval range, params Expression[] arguments) =>
        Expression.Primary($"{CSharp}{name}({string.Join(", ", arguments.Select(static argument => argument.Text))})", range);

    public static Expression Conditional(Expression condition, Expression whenTrue, Expression whenFalse) =>
        new(
            $"{condition.As(Precedence.Or)} ? {whenTrue.As(Precedence.Or)} : {whenFalse.Text}",
            Precedence.Conditional,
            whenTrue.Range.Union(whenFalse.Range)
        );
}
