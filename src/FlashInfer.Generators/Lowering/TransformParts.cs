using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <summary>What a value changes with, the least often first.</summary>
internal enum Varies
{
    WithPlan,
    WithHead,
    WithQuery,
    WithKey,
    WithLogit,
}

/// <summary>A factor of a product, or a divisor.</summary>
internal readonly record struct Factor(IOperation Value, bool Divides);

/// <summary>
/// A transform in the parts that prefill takes for less than the whole: <c>after * bend(before * logit)</c>, or <c>after * logit</c> and a line
/// over the keys' positions. Recognised in a method of declarations and one return.
/// </summary>
internal sealed class TransformParts
{
    private readonly IParameterSymbol _logit;
    private readonly List<IVariableDeclaratorOperation> _locals = [];
    private readonly Dictionary<ISymbol, Varies> _varies = new(SymbolEqualityComparer.Default);

    private TransformParts(IParameterSymbol logit) => _logit = logit;

    /// <summary>Factors of the logit that do not change with the key.</summary>
    public List<Factor> Before { get; } = [];

    /// <summary>Factors of the whole, or of a logit beside a line, that change with the plan only.</summary>
    public List<Factor> After { get; } = [];

    /// <summary>What lies between; null when it is the logit.</summary>
    public IOperation? Bend { get; private set; }

    /// <summary>The product of the logit and <see cref="Before"/> in <see cref="Bend"/>; null when there are no such factors.</summary>
    public IOperation? Scaled { get; private set; }

    /// <summary>Whether that is <c>FastMath.Tanh</c> of the scaled logit, and the scale changes with the plan only.</summary>
    public bool IsCap { get; private set; }

    /// <summary>For a line its slope's factors; else null.</summary>
    public List<Factor>? Slope { get; private set; }

    /// <summary>Whether the line falls where the slope is above 0.</summary>
    public bool Falls { get; private set; }

    /// <summary>Where the line is 0: a position or index of the query token.</summary>
    public IOperation? Zero { get; private set; }

    /// <summary>The parts of a transform; null when it is a whole.</summary>
    public static TransformParts? Of(IMethodSymbol method, IMethodBodyOperation? body)
    {
        TransformParts parts = new(method.Parameters[0]);
        return (body?.BlockBody ?? body?.ExpressionBody) is { } block && parts.Value(block) is { } value && parts.Divide(value)
            ? parts
            : null;
    }

    /// <summary>The locals that values are computed from, in order.</summary>
    public IReadOnlyList<IVariableDeclaratorOperation> Locals(IEnumerable<IOperation> values)
    {
        HashSet<ISymbol> wanted = new(values.SelectMany(LocalsIn), SymbolEqualityComparer.Default);
        List<IVariableDeclaratorOperation> found = [];
        foreach (IVariableDeclaratorOperation local in Enumerable.Reverse(_locals))
        {
            if (wanted.Contains(local.Symbol))
            {
                wanted.UnionWith(LocalsIn(local));
                found.Insert(0, local);
            }
        }

        return found;
    }

    private static IEnumerable<ISymbol> LocalsIn(IOperation operation) =>
        operation.DescendantsAndSelf().OfType<ILocalReferenceOperation>().Select(static local => (ISymbol)local.Local);

    /// <summary>What the method returns, with its locals taken down; null when it does more than that.</summary>
    private IOperation? Value(IBlockOperation block)
    {
        foreach (IOperation statement in block.Operations)
        {
            switch (statement)
            {
                case IVariableDeclarationGroupOperation group:
                    foreach (IVariableDeclaratorOperation local in group.Declarations.SelectMany(static one => one.Declarators))
                    {
                        if (local.GetVariableInitializer() is not { } initializer || Of(initializer.Value) == Varies.WithLogit)
                        {
                            return null;
                        }

                        _locals.Add(local);
                        _varies[local.Symbol] = Of(initializer.Value);
                    }

                    break;
                case IReturnOperation { ReturnedValue: { } value }:
                    return value;
                default:
                    return null;
            }
        }

        return null;
    }

    private bool Divide(IOperation value)
    {
        Peel(ref value, Varies.WithPlan, After);
        if (IsLine(value))
        {
            return true;
        }

        IOperation[] logits = [.. value.DescendantsAndSelf().Where(IsLogit)];
        if (logits.Length == 0)
        {
            return false;
        }

        // Where the logit is read several times, each would have to have the same factors.
        IOperation scaled = logits[0];
        while (logits.Length == 1 && scaled != value && scaled.Parent is IBinaryOperation product && Other(product, scaled) is { } factor)
        {
            Before.Add(factor);
            scaled = product;
        }

        Bend = scaled == value ? null : value;
        Scaled = Before.Count > 0 ? scaled : null;
        IsCap =
            value is IInvocationOperation { TargetMethod: { Name: "Tanh", ContainingType: var type }, Arguments: [{ Value: var argument }] }
            && type.ToDisplayString() == "FlashInfer.FastMath"
            && argument == scaled
            && Before.All(factor => Of(factor.Value) <= Varies.WithPlan);
        return After.Count > 0 || Before.Count > 0;
    }

    /// <summary>Takes factors off a product that change no more often than given.</summary>
    private void Peel(ref IOperation value, Varies most, List<Factor> factors)
    {
        while (value is IBinaryOperation product && IsProduct(product))
        {
            if (Of(product.RightOperand) <= most)
            {
                factors.Add(new Factor(product.RightOperand, product.OperatorKind == BinaryOperatorKind.Divide));
                value = product.LeftOperand;
            }
            else if (product.OperatorKind == BinaryOperatorKind.Multiply && Of(product.LeftOperand) <= most)
            {
                factors.Add(new Factor(product.LeftOperand, false));
                value = product.RightOperand;
            }
            else
            {
                return;
            }
        }
    }

    /// <summary>The other operand of a product, if it does not change with the key.</summary>
    private Factor? Other(IBinaryOperation product, IOperation one)
    {
        bool isLeft = product.LeftOperand == one;
        bool divides = product.OperatorKind == BinaryOperatorKind.Divide;
        IOperation other = isLeft ? product.RightOperand : product.LeftOperand;
        return IsProduct(product) && (isLeft || !divides) && Of(other) <= Varies.WithQuery ? new Factor(other, divides) : null;
    }

    /// <summary>
    /// Whether a value is the logit, or a product of it, plus a slope times the distance of the key from the query token. Then
    /// <see cref="After"/>, until now factors of the whole, has those of the logit.
    /// </summary>
    private bool IsLine(IOperation value)
    {
        if (
            value
            is not IBinaryOperation
            {
                OperatorKind: BinaryOperatorKind.Add or BinaryOperatorKind.Subtract,
                OperatorMethod: null,
                IsChecked: false
            } sum
        )
        {
            return false;
        }

        bool isSum = sum.OperatorKind == BinaryOperatorKind.Add;
        bool isFirst = IsScaledLogit(sum.LeftOperand, out List<Factor> factors);
        if (!isFirst && !(isSum && IsScaledLogit(sum.RightOperand, out factors)))
        {
            return false;
        }

        IOperation term = isFirst ? sum.RightOperand : sum.LeftOperand;
        List<Factor> slope = [];
        Falls = !isSum;
        Peel(ref term, Varies.WithHead, slope);
        while (Negated(term) is { } negated)
        {
            Falls = !Falls;
            term = negated;
            Peel(ref term, Varies.WithHead, slope);
        }

        if (term is not IConversionOperation { Operand: var distance } || Scalars.Of(term.Type) != Scalar.Float)
        {
            return false;
        }

        // Positions are so small that their differences change sign as numbers do.
        while (Negated(distance) is { } negated)
        {
            Falls = !Falls;
            distance = negated;
        }

        if (distance is not IBinaryOperation { OperatorKind: BinaryOperatorKind.Subtract, LeftOperand: var left, RightOperand: var right })
        {
            return false;
        }

        bool startsAtKey = Member(left) == "KvPosition";
        Zero = startsAtKey ? right : left;
        if (Member(Zero) is not ("QoPosition" or "QoIndex") || (!startsAtKey && Member(right) != "KvPosition"))
        {
            return false;
        }

        Falls ^= !startsAtKey;
        Slope = [.. slope, .. After];
        After.AddRange(factors);
        return true;
    }

    /// <summary>Whether a value is the logit times factors that change with the plan only.</summary>
    private bool IsScaledLogit(IOperation value, out List<Factor> factors)
    {
        factors = [];
        Peel(ref value, Varies.WithPlan, factors);
        return IsLogit(value);
    }

    private static IOperation? Negated(IOperation operation) =>
        operation is IUnaryOperation { OperatorKind: UnaryOperatorKind.Minus, OperatorMethod: null, IsChecked: false } unary
            ? unary.Operand
            : null;

    private static bool IsProduct(IBinaryOperation operation) =>
        operation
            is {
                OperatorKind: BinaryOperatorKind.Multiply or BinaryOperatorKind.Divide,
                OperatorMethod: null,
                IsLifted: false,
                IsChecked: false
            }
        && Scalars.Of(operation.Type) == Scalar.Float;

    private bool IsLogit(IOperation operation) =>
        operation is IParameterReferenceOperation parameter && SymbolEqualityComparer.Default.Equals(parameter.Parameter, _logit);

    private static string? Member(IOperation operation) =>
        operation is IPropertyReferenceOperation property && VariantTypes.IsContext(property.Instance?.Type)
            ? property.Property.Name
            : null;

    private Varies Of(IOperation operation) => operation.DescendantsAndSelf().Max(OfOne);

    private Varies OfOne(IOperation operation) =>
        operation switch
        {
            ILocalReferenceOperation local => _varies.TryGetValue(local.Local, out Varies varies) ? varies : Varies.WithLogit,
            IParameterReferenceOperation when IsLogit(operation) => Varies.WithLogit,
            // A method that gets the context may read all of it.
            IParameterReferenceOperation
                when VariantTypes.IsContext(operation.Type) && operation.Parent is not IPropertyReferenceOperation => Varies.WithKey,
            IPropertyReferenceOperation when Member(operation) is { } name => name switch
            {
                "KvPosition" => Varies.WithKey,
                "QoIndex" or "QoPosition" => Varies.WithQuery,
                _ => Varies.WithHead,
            },
            _ => Varies.WithPlan,
        };
}
