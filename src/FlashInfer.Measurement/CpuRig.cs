using System.Diagnostics;
using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using FlashInfer.Cpu;

namespace FlashInfer.Measurement;

/// <summary>Timing and ceilings on the CPU backend: with as many threads as the device has, and the vectors that its kernels use.</summary>
internal sealed unsafe class CpuRig(Device device, int threads) : Rig
{
    private const long ReadBytes = 512L << 20;
    private const int MultiplyAdds = 4_000_000;
    private const int Accumulators = 12;

    /// <inheritdoc/>
    public override Device Device => device;

    /// <inheritdoc/>
    public override long RotatedBytes => 256L << 20;

    /// <summary>The best of five: memory read by all threads, and multiply-adds of registers by all threads.</summary>
    public override Ceilings MeasureCeilings()
    {
        long elements = Math.Min(ReadBytes, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 8) / sizeof(float) / threads;
        float* data = (float*)NativeMemory.AlignedAlloc((nuint)(elements * threads * sizeof(float)), 64);
        try
        {
            OnAllThreads(thread => new Span<float>(data + (thread * elements), (int)elements).Fill(thread));
            double read = 0;
            double math = 0;
            for (int round = 0; round < 5; round++)
            {
                double us = OnAllThreads(thread =>
                    Keep(TensorPrimitives.Sum(new ReadOnlySpan<float>(data + (thread * elements), (int)elements)))
                );
                read = Math.Max(read, elements * threads * sizeof(float) / us / 1e3);
                math = Math.Max(
                    math,
                    CpuAttentionKernels.BestVectorBits switch
                    {
                        512 => MathTflops<Simd512, Vector512<float>>(),
                        256 => MathTflops<Simd256, Vector256<float>>(),
                        _ => MathTflops<Simd128, Vector128<float>>(),
                    }
                );
            }

            return new Ceilings(read) { MathTflops = math };
        }
        finally
        {
            NativeMemory.AlignedFree(data);
        }
    }

    /// <inheritdoc/>
    public override void Fill(TensorView view, uint seed)
    {
        const int Block = 1 << 16;
        float[] normals = Normals((int)seed, Block);
        int rows = view.Shape[0];
        long row = view.Shape.Elements / Math.Max(1, rows);
        int rowsAtOnce = (int)Math.Clamp(Block / row, 1, rows);
        float[] values = new float[rowsAtOnce * row];
        for (int first = 0; first < rows; first += rowsAtOnce)
        {
            int count = Math.Min(rowsAtOnce, rows - first);
            Span<float> some = values.AsSpan(0, (int)(count * row));

            // From another place of the block each time: rows differ, and the numbers need not be drawn again.
            for (int at = 0, from = first * 7919 % Block; at < some.Length; from = 0)
            {
                int length = Math.Min(Block - from, some.Length - at);
                normals.AsSpan(from, length).CopyTo(some[at..]);
                at += length;
            }

            view.Rows(first, count).CopyFrom(some);
        }
    }

    /// <inheritdoc/>
    public override IRound Rounds(int sets, Action<int> launch) => new LoopRound(sets, launch);

    /// <inheritdoc/>
    public override void Dispose() { }

    private static float[] Normals(int seed, int count)
    {
        Random random = new(seed);
        float[] normals = new float[count];
        for (int i = 0; i < count; i++)
        {
            normals[i] = (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        }

        return normals;
    }

    /// <summary>Trillions of multiplications and additions a second that all threads do of registers: no kernel can do more.</summary>
    private double MathTflops<TSimd, TVector>()
        where TSimd : ISimd<TVector>
        where TVector : struct
    {
        double us = OnAllThreads(static _ => MultiplyAdd<TSimd, TVector>());
        return 2.0 * Accumulators * TSimd.Count * MultiplyAdds * threads / us / 1e6;
    }

    /// <summary>Enough independent sums to hide what an instruction takes, few enough for the registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplyAdd<TSimd, TVector>()
        where TSimd : ISimd<TVector>
        where TVector : struct
    {
        TVector a = TSimd.Create(0.999f);
        TVector b = TSimd.Create(0.001f);
        TVector s0 = b,
            s1 = b,
            s2 = b,
            s3 = b,
            s4 = b,
            s5 = b;
        TVector s6 = b,
            s7 = b,
            s8 = b,
            s9 = b,
            s10 = b,
            s11 = b;
        for (int i = 0; i < MultiplyAdds; i++)
        {
            s0 = TSimd.MultiplyAdd(s0, a, b);
            s1 = TSimd.MultiplyAdd(s1, a, b);
            s2 = TSimd.MultiplyAdd(s2, a, b);
            s3 = TSimd.MultiplyAdd(s3, a, b);
            s4 = TSimd.MultiplyAdd(s4, a, b);
            s5 = TSimd.MultiplyAdd(s5, a, b);
            s6 = TSimd.MultiplyAdd(s6, a, b);
            s7 = TSimd.MultiplyAdd(s7, a, b);
            s8 = TSimd.MultiplyAdd(s8, a, b);
            s9 = TSimd.MultiplyAdd(s9, a, b);
            s10 = TSimd.MultiplyAdd(s10, a, b);
            s11 = TSimd.MultiplyAdd(s11, a, b);
        }

        TVector half = TSimd.Add(TSimd.Add(TSimd.Add(s0, s1), TSimd.Add(s2, s3)), TSimd.Add(s4, s5));
        TVector other = TSimd.Add(TSimd.Add(TSimd.Add(s6, s7), TSimd.Add(s8, s9)), TSimd.Add(s10, s11));
        Keep(TSimd.Sum(TSimd.Add(half, other)));
    }

    /// <summary>Keeps the compiler from leaving out what made the value.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Keep(float value) => _ = value;

    /// <summary>Microseconds until all threads are done.</summary>
    private double OnAllThreads(Action<int> work)
    {
        long start = Stopwatch.GetTimestamp();
        Thread[] others = [.. Enumerable.Range(1, threads - 1).Select(i => new Thread(() => work(i)))];
        Array.ForEach(others, static thread => thread.Start());
        work(0);
        Array.ForEach(others, static thread => thread.Join());
        return Stopwatch.GetElapsedTime(start).TotalMicroseconds;
    }

    /// <summary>Launches one after the other, timed each: on this device a call returns when its work is done.</summary>
    private sealed class LoopRound : IRound
    {
        private const double WarmUs = 300_000;
        private const double RoundUs = 100_000;

        private readonly int _sets;
        private readonly Action<int> _launch;
        private readonly double[] _times;
        private int _set;

        public LoopRound(int sets, Action<int> launch)
        {
            _sets = sets;
            _launch = launch;

            // Until the compiler has made the fast code, which it does behind the program's back.
            double once = Once();
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < 2 || (i < 1000 && Stopwatch.GetElapsedTime(start).TotalMicroseconds < WarmUs); i++)
            {
                once = Once();
            }

            _times = new double[(int)Math.Clamp(RoundUs / once, 1, 101)];
        }

        public double Us()
        {
            for (int i = 0; i < _times.Length; i++)
            {
                _times[i] = Once();
            }

            return Timing.Median(_times);
        }

        public void Dispose() { }

        private double Once()
        {
            long start = Stopwatch.GetTimestamp();
            _launch(_set);
            double us = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            _set = (_set + 1) % _sets;
            return us;
        }
    }
}
