using System;

namespace FlashInfer.Generators.Lowering;

/// <summary>
/// What an int or uint may be. Where a result certainly fits its type, plain operators do: C# wraps around on overflow, which C++ leaves
/// undefined for int, so everything else goes through a function.
/// </summary>
/// <param name="Min">The least value.</param>
/// <param name="Max">The greatest value.</param>
internal readonly record struct Interval(long Min, long Max)
{
    public static readonly Interval Int = new(int.MinValue, int.MaxValue);
    public static readonly Interval UInt = new(0, uint.MaxValue);
    public static readonly Interval Byte = new(0, byte.MaxValue);
    public static readonly Interval Count = new(0, int.MaxValue);

    /// <summary>Everything that a type can hold; of no interest for types without order.</summary>
    public static Interval Of(Scalar scalar) =>
        scalar switch
        {
            Scalar.UInt => UInt,
            Scalar.Byte => Byte,
            _ => Int,
        };

    /// <summary>Whether an int can hold all of it.</summary>
    public bool IsInt => Min >= int.MinValue && Max <= int.MaxValue;

    public bool Contains(long value) => Min <= value && value <= Max;

    public Interval Union(Interval other) => new(Math.Min(Min, other.Min), Math.Max(Max, other.Max));

    public static Interval operator +(Interval a, Interval b) => new(a.Min + b.Min, a.Max + b.Max);

    public static Interval operator -(Interval a, Interval b) => new(a.Min - b.Max, a.Max - b.Min);

    public static Interval operator *(Interval a, Interval b)
    {
        // Of 32-bit values, so no product overflows.
        long w = a.Min * b.Min;
        long x = a.Min * b.Max;
        long y = a.Max * b.Min;
        long z = a.Max * b.Max;
        return new Interval(Math.Min(Math.Min(w, x), Math.Min(y, z)), Math.Max(Math.Max(w, x), Math.Max(y, z)));
    }

    /// <summary>The quotient by a positive constant, rounded to zero.</summary>
    public Interval Divide(long divisor) => new(Min / divisor, Max / divisor);

    /// <summary>The remainder by a positive constant, which has the dividend's sign.</summary>
    public Interval Remainder(long divisor) => new(Min >= 0 ? 0 : Math.Max(Min, -(divisor - 1)), Max <= 0 ? 0 : Math.Min(Max, divisor - 1));
}
