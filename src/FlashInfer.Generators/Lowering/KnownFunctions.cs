using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Lowering;

/// <summary>
/// The functions that kernels have: of .NET those of MathF, Math, BitOperations, and the same ones of the numbers' own types, and those of FastMath.
/// </summary>
internal static class KnownFunctions
{
    // Name and types of the parameters in C#, and the function in CUDA: of C, where it does the same, else of core/csharp.cuh.
    private static readonly Dictionary<string, string> s_math = new()
    {
        ["Abs(float)"] = "fabsf",
        ["Abs(int)"] = "csharp::abs",
        ["Ceiling(float)"] = "ceilf",
        ["Clamp(float,float,float)"] = "csharp::clamp",
        ["Clamp(int,int,int)"] = "csharp::clamp",
        ["Clamp(uint,uint,uint)"] = "csharp::clamp",
        ["CopySign(float,float)"] = "copysignf",
        ["Cos(float)"] = "csharp::cos",
        ["Exp(float)"] = "expf",
        ["Exp2(float)"] = "exp2f",
        ["Floor(float)"] = "floorf",
        ["FusedMultiplyAdd(float,float,float)"] = "fmaf",
        ["IsFinite(float)"] = "csharp::is_finite",
        ["IsInfinity(float)"] = "csharp::is_infinity",
        ["IsNaN(float)"] = "csharp::is_nan",
        ["IsNegativeInfinity(float)"] = "csharp::is_negative_infinity",
        ["IsPositiveInfinity(float)"] = "csharp::is_positive_infinity",
        ["Log(float)"] = "csharp::log",
        ["Log2(float)"] = "csharp::log2",
        ["Max(float,float)"] = "csharp::max",
        ["Max(int,int)"] = "csharp::max",
        ["Max(uint,uint)"] = "csharp::max",
        ["Min(float,float)"] = "csharp::min",
        ["Min(int,int)"] = "csharp::min",
        ["Min(uint,uint)"] = "csharp::min",
        ["Pow(float,float)"] = "powf",
        ["ReciprocalEstimate(float)"] = "csharp::reciprocal_estimate",
        ["ReciprocalSqrtEstimate(float)"] = "csharp::reciprocal_sqrt_estimate",
        ["Round(float)"] = "rintf",
        ["Sign(float)"] = "csharp::sign",
        ["Sign(int)"] = "csharp::sign",
        ["Sin(float)"] = "csharp::sin",
        ["Sqrt(float)"] = "csharp::sqrt",
        ["Tanh(float)"] = "csharp::tanh",
        ["Truncate(float)"] = "truncf",
    };

    private static readonly Dictionary<string, string> s_bits = new()
    {
        ["IsPow2(int)"] = "csharp::is_pow2",
        ["IsPow2(uint)"] = "csharp::is_pow2",
        ["LeadingZeroCount(uint)"] = "csharp::leading_zero_count",
        ["PopCount(uint)"] = "csharp::pop_count",
        ["RotateLeft(uint,int)"] = "csharp::rotate_left",
        ["RotateRight(uint,int)"] = "csharp::rotate_right",
        ["TrailingZeroCount(int)"] = "csharp::trailing_zero_count",
        ["TrailingZeroCount(uint)"] = "csharp::trailing_zero_count",
    };

    private static readonly Dictionary<string, string> s_fast = new()
    {
        ["Exp(float)"] = "csharp::fast_exp",
        ["Exp2(float)"] = "csharp::fast_exp2",
        ["Sigmoid(float)"] = "csharp::fast_sigmoid",
        ["Tanh(float)"] = "csharp::fast_tanh",
    };

    /// <summary>The function in CUDA; null when kernels have none.</summary>
    public static string? Find(IMethodSymbol method)
    {
        Dictionary<string, string>? functions = method.ContainingType.ToDisplayString() switch
        {
            "System.MathF" or "System.Math" or "float" or "int" or "uint" => s_math,
            "System.Numerics.BitOperations" => s_bits,
            "FlashInfer.FastMath" => s_fast,
            _ => null,
        };
        return functions is not null && functions.TryGetValue(Signature(method), out string? name) ? name : null;
    }

    /// <summary>Whether there is a function of this name for float: the one to use where the one for double was called.</summary>
    public static bool HasFloat(string name) =>
        s_math.Keys.Any(signature => signature.StartsWith(name + "(float", System.StringComparison.Ordinal));

    /// <summary>What an integer result may be.</summary>
    public static Interval Range(string function, IReadOnlyList<Expression> arguments) =>
        function.Substring(function.LastIndexOf(':') + 1) switch
        {
            "min" => new(
                System.Math.Min(arguments[0].Range.Min, arguments[1].Range.Min),
                System.Math.Min(arguments[0].Range.Max, arguments[1].Range.Max)
            ),
            "max" => new(
                System.Math.Max(arguments[0].Range.Min, arguments[1].Range.Min),
                System.Math.Max(arguments[0].Range.Max, arguments[1].Range.Max)
            ),
            "clamp" => arguments[1].Range.Union(arguments[2].Range),
            "sign" => new(-1, 1),
            "pop_count" or "leading_zero_count" or "trailing_zero_count" => new(0, 32),
            _ => default,
        };

    private static string Signature(IMethodSymbol method) =>
        $"{method.Name}({string.Join(",", method.Parameters.Select(static p => p.Type.ToDisplayString()))})";
}
