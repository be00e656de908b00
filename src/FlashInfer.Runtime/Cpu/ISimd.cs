using System.Runtime.Intrinsics;

namespace FlashInfer.Cpu;

/// <summary>
/// Floats in one vector register. The kernels are written once against this and specialised by the JIT for each width: a struct as type
/// argument gets its own machine code, so that no call below survives.
/// </summary>
/// <typeparam name="TVector">The register.</typeparam>
internal unsafe interface ISimd<TVector>
    where TVector : struct
{
    /// <summary>Floats in a vector.</summary>
    static abstract int Count { get; }

    /// <summary>Query heads that a tile of 4 vectors a head can hold in registers: 4 where there are 32 registers, 2 where there are 16.</summary>
    static abstract int HeadTile { get; }

    static abstract TVector Create(float value);

    static abstract TVector Load(float* source);

    /// <summary>Loads IEEE half precision.</summary>
    static abstract TVector LoadHalf(ushort* source);

    static abstract TVector LoadBFloat16(ushort* source);

    /// <summary>Loads 8-bit floats.</summary>
    static abstract TVector LoadFloat8<TFormat>(byte* source)
        where TFormat : struct, IFloat8Format;

    static abstract void Store(TVector value, float* destination);

    static abstract TVector Add(TVector left, TVector right);

    static abstract TVector Subtract(TVector left, TVector right);

    static abstract TVector Multiply(TVector left, TVector right);

    /// <summary>left * right + addend, fused where the machine can.</summary>
    static abstract TVector MultiplyAdd(TVector left, TVector right, TVector addend);

    /// <summary>The larger of each pair; NaN if one is.</summary>
    static abstract TVector Max(TVector left, TVector right);

    /// <summary>Adds the low bits of <paramref name="exponents"/> to the exponents of <paramref name="values"/>.</summary>
    static abstract TVector AddToExponent(TVector values, TVector exponents);

    /// <summary>Zero where <paramref name="tested"/> is below the limit, else <paramref name="values"/>; NaN counts as not below.</summary>
    static abstract TVector ZeroWhereBelow(TVector tested, float limit, TVector values);

    static abstract float Sum(TVector value);

    /// <summary>The sums of four vectors.</summary>
    static abstract Vector128<float> Sum4(TVector a, TVector b, TVector c, TVector d);

    /// <summary>The largest lane; NaN if one is.</summary>
    static abstract float MaxLane(TVector value);
}
