using System.Runtime.Intrinsics;
using FlashInfer.Cpu;

namespace FlashInfer.Tests.Cpu;

public unsafe class SimdTests
{
    [Fact]
    public void Every_16_and_8_bit_float_widens_exactly_at_every_width()
    {
        CheckLoads<Simd128, Vector128<float>>();
        CheckLoads<Simd256, Vector256<float>>();
        CheckLoads<Simd512, Vector512<float>>();
    }

    [Fact]
    public void Reductions_see_every_lane()
    {
        CheckReductions<Simd128, Vector128<float>>();
        CheckReductions<Simd256, Vector256<float>>();
        CheckReductions<Simd512, Vector512<float>>();
    }

    private static void CheckLoads<TSimd, TVector>()
        where TSimd : ISimd<TVector>
        where TVector : struct
    {
        ushort* source = stackalloc ushort[TSimd.Count];
        float* half = stackalloc float[TSimd.Count];
        float* bfloat = stackalloc float[TSimd.Count];
        for (int first = 0; first <= ushort.MaxValue; first += TSimd.Count)
        {
            for (int i = 0; i < TSimd.Count; i++)
            {
                source[i] = (ushort)(first + i);
            }

            TSimd.Store(TSimd.LoadHalf(source), half);
            TSimd.Store(TSimd.LoadBFloat16(source), bfloat);
            for (int i = 0; i < TSimd.Count; i++)
            {
                float expected = (float)BitConverter.UInt16BitsToHalf(source[i]);
                bool isSame =
                    BitConverter.SingleToInt32Bits(half[i]) == BitConverter.SingleToInt32Bits(expected)
                    || (float.IsNaN(half[i]) && float.IsNaN(expected));
                Assert.True(isSame, $"Half 0x{source[i]:X4}: {half[i]:r} instead of {expected:r} with {typeof(TSimd)}");
                Assert.Equal((uint)source[i] << 16, BitConverter.SingleToUInt32Bits(bfloat[i]));
            }
        }

        CheckFloat8<TSimd, TVector, E4M3Format>();
        CheckFloat8<TSimd, TVector, E5M2Format>();
    }

    private static void CheckFloat8<TSimd, TVector, TFormat>()
        where TSimd : ISimd<TVector>
        where TVector : struct
        where TFormat : struct, IFloat8Format
    {
        byte* source = stackalloc byte[TSimd.Count];
        float* wide = stackalloc float[TSimd.Count];
        for (int first = 0; first <= byte.MaxValue; first += TSimd.Count)
        {
            for (int i = 0; i < TSimd.Count; i++)
            {
                source[i] = (byte)(first + i);
            }

            TSimd.Store(TSimd.LoadFloat8<TFormat>(source), wide);
            for (int i = 0; i < TSimd.Count; i++)
            {
                float expected = Float8<TFormat>.Widen(source[i]);
                bool isSame =
                    BitConverter.SingleToInt32Bits(wide[i]) == BitConverter.SingleToInt32Bits(expected)
                    || (float.IsNaN(wide[i]) && float.IsNaN(expected));
                Assert.True(isSame, $"0x{source[i]:X2} as {typeof(TFormat)}: {wide[i]:r} instead of {expected:r} with {typeof(TSimd)}");
            }
        }
    }

    private static void CheckReductions<TSimd, TVector>()
        where TSimd : ISimd<TVector>
        where TVector : struct
    {
        float* lanes = stackalloc float[TSimd.Count];
        for (int lane = 0; lane < TSimd.Count; lane++)
        {
            new Span<float>(lanes, TSimd.Count).Fill(-1f);
            lanes[lane] = 100f;
            TVector value = TSimd.Load(lanes);
            TVector doubled = TSimd.Add(value, value);
            float sum = 101f - TSimd.Count;
            Assert.Equal(sum, TSimd.Sum(value));
            Assert.Equal(100f, TSimd.MaxLane(value));
            Assert.Equal(
                Vector128.Create(sum, 2 * sum, 0, -sum),
                TSimd.Sum4(value, doubled, TSimd.Create(0f), TSimd.Subtract(value, doubled))
            );
            lanes[lane] = float.NaN;
            Assert.True(float.IsNaN(TSimd.MaxLane(TSimd.Load(lanes))));
            Assert.True(float.IsNaN(TSimd.MaxLane(TSimd.Max(TSimd.Load(lanes), TSimd.Create(1f)))));
        }
    }
}
