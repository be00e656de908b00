using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <content>Parts of a transform as functions of their own.</content>
internal sealed partial class MethodLowering
{
    // What a parameter stands for, and the parameter.
    private IOperation? _scaled;
    private string _scaledName = "";

    /// <summary>Writes a function that returns a product.</summary>
    /// <param name="text">Where to.</param>
    /// <param name="head">Its return type, name and parameters.</param>
    /// <param name="parts">The transform.</param>
    /// <param name="factors">The factors.</param>
    public void WriteProduct(CudaWriter text, string head, TransformParts parts, IReadOnlyList<Factor> factors) =>
        Write(text, head, parts.Locals(factors.Select(static factor => factor.Value)), () => Product(factors).Text);

    /// <summary>Writes the function of what lies between the factors.</summary>
    public void WriteBend(CudaWriter text, string head, TransformParts parts, IParameterSymbol logit)
    {
        _scaled = parts.Scaled;
        _scaledName = _names.Of(logit.Name);
        Write(text, head, parts.Locals([parts.Bend!]), () => Lower(parts.Bend!).Text);
    }

    /// <summary>Writes the function of a line.</summary>
    public void WriteLine(CudaWriter text, string head, TransformParts parts) =>
        Write(
            text,
            head,
            parts.Locals(parts.Slope!.Select(static factor => factor.Value)),
            () =>
            {
                Expression slope = Product(parts.Slope!);
                return $"{{{(parts.Falls ? "-" + slope.As(Precedence.Primary) : slope.Text)}, {Lower(parts.Zero!).Text}}}";
            }
        );

    private void Write(CudaWriter text, string head, IEnumerable<IVariableDeclaratorOperation> locals, System.Func<string> value)
    {
        _text = text;
        _text.Open($"static __device__ __forceinline__ {head}");
        foreach (IVariableDeclaratorOperation local in locals)
        {
            Declare(local);
        }

        _text.Line($"return {value()};");
        _text.Close();
    }

    private Expression Product(IReadOnlyList<Factor> factors)
    {
        Expression? product = null;
        // Divisors last: a product of several takes one division less than their quotients.
        foreach (Factor factor in factors.OrderBy(static factor => factor.Divides))
        {
            Expression value = Lower(factor.Value);
            product =
                product is null && !factor.Divides
                    ? value
                    : Operators.Binary(
                        factor.Divides ? BinaryOperatorKind.Divide : BinaryOperatorKind.Multiply,
                        Scalar.Float,
                        product ?? Operators.Constant(1f),
                        value
                    );
        }

        return product ?? Operators.Constant(1f);
    }
}
