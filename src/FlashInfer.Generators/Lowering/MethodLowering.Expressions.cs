using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <content>Expressions: what they read, and which operators they are made of.</content>
internal sealed partial class MethodLowering
{
    private Expression Lower(IOperation operation)
    {
        Scalar type = Scalars.Of(operation.Type);
        if (type != Scalar.None && operation.ConstantValue is { HasValue: true, Value: { } constant })
        {
            return Operators.Constant(constant);
        }

        if (operation == _scaled)
        {
            return Expression.Primary(_scaledName);
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

    private Expression Field(IFieldReferenceOperation reference)
    {
        if (reference.Field.IsStatic && variant.ConstantOf(reference.Field) is { } constant && Scalars.Of(reference.Type) != Scalar.None)
        {
            return Operators.Constant(constant);
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
        if (VariantTypes.IsContext(owner) && VariantTypes.ContextMembers.TryGetValue(name, out Expression? member))
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
                    return Operators.Function("negate", Interval.Int, operand);
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
        return Operators.Binary(kind, type, Lower(binary.LeftOperand), Lower(binary.RightOperand));
    }

    private static bool ReadsElement(IOperation operation) =>
        operation
            .DescendantsAndSelf()
            .Any(static inner => inner is IPropertyReferenceOperation { Property.IsIndexer: true, Instance: { } span } && IsSpan(span));

    private static bool IsSpan(IOperation operation) => Scalars.ElementOf(operation.Type) != Scalar.None;

    private Expression Convert(SyntaxNode syntax, Expression value, Scalar from, Scalar to)
    {
        switch (from, to)
        {
            case var _ when from == to:
                return value;
            case (Scalar.Float, Scalar.Int):
                return Operators.Function("to_int", Interval.Int, value);
            case (Scalar.Float, Scalar.UInt):
                return Operators.Function("to_uint", Interval.UInt, value);
            case (Scalar.Float, Scalar.Byte):
                Unsupported(syntax, "A conversion of a float to a byte", "convert it to an int first: what is then cut off shows");
                return Expression.None;
            case (_, Scalar.Byte):
                return Operators.Function("to_byte", Interval.Byte, value);
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

        return Operators.Conditional(Lower(condition), Lower(whenTrue), Lower(whenFalse));
    }
}
