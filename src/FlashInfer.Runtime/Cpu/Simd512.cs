using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashInfer.Cpu;

/// <summary>16 floats: AVX-512.</summary>
internal readonly unsafe struct Simd512 : ISimd<Vector512<float>>
{
    public static int Count => 16;

    public static int HeadTile => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Create(float value) => Vector512.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(float* source) => Vector512.Load(source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadHalf(ushort* source)
    {
        // Exponent and mantissa move to their places in a single; sign extension has put the sign into the topmost bit. One product
        // then corrects the exponent's bias, for subnormal values too. What had the largest exponent gets a single's largest.
        Vector512<int> bits = Widen(Vector256.Load((short*)source));
        Vector512<float> value =
            ((bits << 13) & Vector512.Create(unchecked((int)0x8FFF_E000))).AsSingle() * Vector512.Create(HalfBits.Rebias);
        return SetSpecial(value, HalfBits.FirstSpecial, float.PositiveInfinity);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadBFloat16(ushort* source) => (Widen(Vector256.Load(source)) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadFloat8<TFormat>(byte* source)
        where TFormat : struct, IFloat8Format
    {
        // See Simd512.LoadHalf.
        Vector512<int> bits = Widen(Vector128.Load((sbyte*)source));
        Vector512<float> value =
            ((bits << Float8<TFormat>.Shift) & Vector512.Create(Float8<TFormat>.Mask)).AsSingle()
            * Vector512.Create(Float8<TFormat>.Rebias);
        return SetSpecial(value, TFormat.FirstSpecial, TFormat.Special);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector512<float> value, float* destination) => value.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Add(Vector512<float> left, Vector512<float> right) => left + right;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Subtract(Vector512<float> left, Vector512<float> right) => left - right;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Multiply(Vector512<float> left, Vector512<float> right) => left * right;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> MultiplyAdd(Vector512<float> left, Vector512<float> right, Vector512<float> addend) =>
        Vector512.MultiplyAddEstimate(left, right, addend);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Max(Vector512<float> left, Vector512<float> right) => Vector512.Max(left, right);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> AddToExponent(Vector512<float> values, Vector512<float> exponents) =>
        (values.AsInt32() + (exponents.AsInt32() << 23)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> ZeroWhereBelow(Vector512<float> tested, float limit, Vector512<float> values) =>
        Vector512.AndNot(values, Vector512.LessThan(tested, Vector512.Create(limit)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector512<float> value) => Simd256.Sum(value.GetLower() + value.GetUpper());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Sum4(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d) =>
        Simd256.Sum4(a.GetLower() + a.GetUpper(), b.GetLower() + b.GetUpper(), c.GetLower() + c.GetUpper(), d.GetLower() + d.GetUpper());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float MaxLane(Vector512<float> value) => Simd256.MaxLane(Vector256.Max(value.GetLower(), value.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Widen(Vector256<short> value) =>
        Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(value)
            : Vector512.Create(Vector256.WidenLower(value), Vector256.WidenUpper(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Widen(Vector256<ushort> value) =>
        Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(value)
            : Vector512.Create(Vector256.WidenLower(value), Vector256.WidenUpper(value)).AsInt32();

    /// <summary>Makes what had the largest exponent infinite or NaN.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> SetSpecial(Vector512<float> value, float first, float special) =>
        value | (Vector512.GreaterThanOrEqual(Vector512.Abs(value), Vector512.Create(first)) & Vector512.Create(special));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Widen(Vector128<sbyte> value) =>
        Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(value)
            : Widen(Vector256.Create(Vector128.WidenLower(value), Vector128.WidenUpper(value)));
}
