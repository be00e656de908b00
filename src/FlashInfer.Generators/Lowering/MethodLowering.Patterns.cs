using System.Globalization;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <content>Patterns and the two kinds of switch.</content>
internal sealed partial class MethodLowering
{
    private Expression Test(IIsPatternOperation test)
    {
        if (Scalars.Of(test.Value.Type) is Scalar.None)
        {
            return Lower(test.Value);
        }

        return With(test.Value, Scalar.Bool, value => Matches(test.Pattern, value) ?? Operators.Constant(true));
    }

    private Expression Switch(ISwitchExpressionOperation choice)
    {
        if (!choice.IsExhaustive)
        {
            Unsupported(choice.Syntax, "A switch that throws for some values", "add an arm '_ =>'");
            return Expression.None;
        }

        if (Scalars.Of(choice.Value.Type) is Scalar.None)
        {
            return Lower(choice.Value);
        }

        return With(
            choice.Value,
            Scalars.Of(choice.Type),
            value =>
            {
                // The last arm takes what is left, whatever its pattern: there is nothing else.
                Expression result = Lower(choice.Arms[choice.Arms.Length - 1].Value);
                for (int i = choice.Arms.Length - 2; i >= 0; i--)
                {
                    ISwitchExpressionArmOperation arm = choice.Arms[i];
                    Expression chosen = Lower(arm.Value);
                    result = Condition(arm.Pattern, arm.Guard, value) is { } condition
                        ? Operators.Conditional(condition, chosen, result)
                        : chosen;
                }

                return result;
            }
        );
    }

    /// <summary>An expression that reads a value several times. One that is more than a name is computed once.</summary>
    private Expression With(IOperation operation, Scalar type, System.Func<Expression, Expression> body)
    {
        Expression value = Lower(operation);
        if (IsName(operation))
        {
            return body(value);
        }

        Scalar from = Scalars.Of(operation.Type);
        string name = _names.Unused("value");
        string text = body(Expression.Primary(name, value.Range)).Text;
        return Expression.Primary(
            $"[&]({Scalars.Cuda(from)} {name}) -> {Scalars.Cuda(type)} {{ return {text}; }}({value.Text})",
            Interval.Of(type)
        );
    }

    private static bool IsName(IOperation operation) =>
        operation is ILocalReferenceOperation or IParameterReferenceOperation
        || operation
            is IPropertyReferenceOperation
            {
                Arguments.IsEmpty: true,
                Instance: IParameterReferenceOperation,
                Type.SpecialType: not SpecialType.System_Boolean
            };

    private void Switch(ISwitchOperation choice)
    {
        if (Scalars.Of(choice.Value.Type) is Scalar.None)
        {
            Lower(choice.Value);
            return;
        }

        Expression value = Lower(choice.Value);
        bool isPlain = choice.Cases.SelectMany(static section => section.Clauses).All(static clause => Label(clause) is not null);
        if (isPlain && Scalars.Of(choice.Value.Type) is Scalar.Int or Scalar.UInt or Scalar.Byte)
        {
            _text.Line($"switch ({value.Text}) {{");
            Sections(choice, static (_, clause) => Label(clause)!);
            return;
        }

        // C++ compares with constants only: which section it is comes first.
        if (!IsName(choice.Value))
        {
            string name = _names.Unused("value");
            _text.Line($"const {Scalars.Cuda(Scalars.Of(choice.Value.Type))} {name} = {value.Text};");
            value = Expression.Primary(name, value.Range);
        }

        int Default(ICaseClauseOperation clause) => clause is IDefaultCaseClauseOperation ? 1 : 0;
        int otherwise = choice.Cases.ToList().FindIndex(section => section.Clauses.Any(clause => Default(clause) == 1));
        Expression ordinal = Operators.Constant(otherwise >= 0 ? otherwise : choice.Cases.Length);
        foreach (
            (int section, ICaseClauseOperation clause) in choice
                .Cases.SelectMany(static (section, i) => section.Clauses.Select(clause => (i, clause)))
                .Where(item => Default(item.clause) == 0)
                .Reverse()
        )
        {
            Expression? condition = clause switch
            {
                ISingleValueCaseClauseOperation single => Equal(value, single.Value),
                IPatternCaseClauseOperation pattern => Condition(pattern.Pattern, pattern.Guard, value),
                _ => UnsupportedClause(clause),
            };
            ordinal = condition is null
                ? Operators.Constant(section)
                : Operators.Conditional(condition, Operators.Constant(section), ordinal);
        }

        _text.Line($"switch ({ordinal.Text}) {{");
        Sections(choice, static (section, _) => $"case {section.ToString(CultureInfo.InvariantCulture)}:");
    }

    private void Sections(ISwitchOperation choice, System.Func<int, ICaseClauseOperation, string> label)
    {
        CudaWriter outer = _text;
        for (int i = 0; i < choice.Cases.Length; i++)
        {
            int section = i;
            string labels = string.Join(" ", choice.Cases[i].Clauses.Select(clause => label(section, clause)).Distinct());
            _text = outer.Inner();
            _text.Line(labels + " {");
            CudaWriter inner = _text;
            _text = inner.Inner();
            Statements(
                choice.Cases[i].Body.Length == 1 && choice.Cases[i].Body[0] is IBlockOperation block
                    ? block.Operations
                    : choice.Cases[i].Body
            );
            inner.Append(_text);
            inner.Line("}");
            outer.Append(inner);
        }

        _text = outer;
        _text.Line("}");
    }

    private static string? Label(ICaseClauseOperation clause) =>
        clause switch
        {
            IDefaultCaseClauseOperation => "default:",
            ISingleValueCaseClauseOperation { Value.ConstantValue: { HasValue: true, Value: { } constant } } =>
                $"case {Scalars.Literal(constant)}:",
            _ => null,
        };

    private Expression UnsupportedClause(ICaseClauseOperation clause)
    {
        Unsupported(clause);
        return Expression.None;
    }

    /// <summary>When an arm is taken; null for always.</summary>
    private Expression? Condition(IPatternOperation pattern, IOperation? guard, Expression value)
    {
        Expression? matches = Matches(pattern, value);
        Expression? holds = guard is null ? null : Lower(guard);
        return matches is null ? holds
            : holds is null ? matches
            : Operators.Infix("&&", Precedence.And, matches, holds, default);
    }

    /// <summary>Whether a value has a pattern; null for always.</summary>
    private Expression? Matches(IPatternOperation pattern, Expression value)
    {
        switch (pattern)
        {
            case IDiscardPatternOperation:
                return null;
            case IConstantPatternOperation constant:
                return Equal(value, constant.Value);
            case IRelationalPatternOperation relation:
                return Operators.Infix(
                    Operators.Symbol(relation.OperatorKind),
                    Precedence.Relational,
                    value,
                    Lower(relation.Value),
                    default
                );
            case INegatedPatternOperation negation:
                return Matches(negation.Pattern, value) is { } matches
                    ? new Expression("!" + matches.As(Precedence.Unary), Precedence.Unary, default)
                    : Operators.Constant(false);
            case IBinaryPatternOperation { OperatorKind: BinaryOperatorKind.And } both:
                return (Matches(both.LeftPattern, value), Matches(both.RightPattern, value)) switch
                {
                    (null, var right) => right,
                    (var left, null) => left,
                    (var left, var right) => Operators.Infix("&&", Precedence.And, left, right, default),
                };
            case IBinaryPatternOperation either:
                return Matches(either.LeftPattern, value) is { } first && Matches(either.RightPattern, value) is { } second
                    ? Operators.Infix("||", Precedence.Or, first, second, default)
                    : null;
            default:
                Unsupported(
                    pattern.Syntax,
                    "A pattern that declares a variable or tests a type",
                    "compare with constants, and read the value by its own name"
                );
                return Expression.None;
        }
    }

    private Expression Equal(Expression value, IOperation constant)
    {
        if (constant.ConstantValue.Value is bool truth)
        {
            return truth ? value : new Expression("!" + value.As(Precedence.Unary), Precedence.Unary, default);
        }

        // A pattern finds NaN, == does not.
        return constant.ConstantValue.Value is float.NaN
            ? Operators.Function("is_nan", default, value)
            : Operators.Infix("==", Precedence.Equality, value, Lower(constant), default);
    }
}
