using System.Globalization;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Lowering;

/// <summary>The types that a variant computes with. A byte is read from a span and becomes an int at once, as in C#.</summary>
internal enum Scalar
{
    None,
    Int,
    UInt,
    Float,
    Bool,
    Byte,
}

/// <summary>What <see cref="Scalar"/>s are called in C# and in CUDA.</summary>
internal static class Scalars
{
    /// <summary>The scalar that a type is; none for any other type.</summary>
    public static Scalar Of(ITypeSymbol? type) =>
        type?.SpecialType switch
        {
            SpecialType.System_Int32 => Scalar.Int,
            SpecialType.System_UInt32 => Scalar.UInt,
            SpecialType.System_Single => Scalar.Float,
            SpecialType.System_Boolean => Scalar.Bool,
            SpecialType.System_Byte => Scalar.Byte,
            _ => Scalar.None,
        };

    /// <summary>The elements of a <c>ReadOnlySpan</c> of scalars; none for any other type.</summary>
    public static Scalar ElementOf(ITypeSymbol? type) =>
        type is INamedTypeSymbol { Name: "ReadOnlySpan", Arity: 1, ContainingNamespace: { Name: "System" } space } span
        && space.ContainingNamespace.IsGlobalNamespace
            ? Of(span.TypeArguments[0])
            : Scalar.None;

    /// <summary>The keyword in C#.</summary>
    public static string Keyword(Scalar scalar) => scalar.ToString().ToLowerInvariant();

    /// <summary>The type in CUDA.</summary>
    public static string Cuda(Scalar scalar) =>
        scalar switch
        {
            Scalar.UInt => "unsigned",
            Scalar.Byte => "unsigned char",
            _ => Keyword(scalar),
        };

    /// <summary>A constant of C# as CUDA spells it, of the same type and value.</summary>
    public static string Literal(object value) =>
        value switch
        {
            bool truth => truth ? "true" : "false",
            // The number has no sign of its own in C++, and 2147483648 is no int.
            int.MinValue => "(-2147483647 - 1)",
            uint number => number.ToString(CultureInfo.InvariantCulture) + "u",
            float number => Literal(number),
            _ => System.Convert.ToInt32(value, CultureInfo.InvariantCulture).ToString(CultureInfo.InvariantCulture),
        };

    private static string Literal(float value)
    {
        if (float.IsNaN(value))
        {
            return "csharp::nan()";
        }

        if (float.IsInfinity(value))
        {
            return value > 0 ? "csharp::infinity()" : "-csharp::infinity()";
        }

        if (value == 0)
        {
            // The .NET Framework, which compilers may run on, drops the sign.
            return float.IsNegativeInfinity(1 / value) ? "-0.f" : "0.f";
        }

        string digits = value.ToString("R", CultureInfo.InvariantCulture);
        if (float.Parse(digits, CultureInfo.InvariantCulture) != value)
        {
            digits = value.ToString("G9", CultureInfo.InvariantCulture);
        }

        return digits + (digits.IndexOfAny(['.', 'E']) < 0 ? ".f" : "f");
    }
}
