namespace FlashInfer.Cpu;

/// <summary>Turns rows of queries or keys with their positions, as kernels/attention/rotary.cuh does.</summary>
internal static unsafe class RotaryRows<TSimd, TVector>
    where TSimd : ISimd<TVector>
    where TVector : struct
{
    /// <summary>Turns rows of consecutive positions, in place.</summary>
    /// <param name="rows">[count, headDim].</param>
    /// <param name="count">Rows.</param>
    /// <param name="headDim">Elements of a row.</param>
    /// <param name="rotation">How they turn.</param>
    /// <param name="position">Position of the first row.</param>
    public static void Turn(float* rows, int count, int headDim, in Rotation rotation, int position)
    {
        int pairs = rotation.Angles.Length;
        float* cosine = stackalloc float[4 * pairs];
        float* sine = cosine + pairs;
        float* stepCosine = sine + pairs;
        float* stepSine = stepCosine + pairs;
        for (int i = 0; i < pairs; i++)
        {
            // 32 bits forget whole turns.
            (sine[i], cosine[i]) = SinCos(unchecked(rotation.Angles[i] * (uint)position));
            (stepSine[i], stepCosine[i]) = SinCos(rotation.Angles[i]);
        }

        for (int row = 0; row < count; row++, rows += headDim)
        {
            if (rotation.TurnsNeighbours)
            {
                TurnNeighbours(rows, cosine, sine, pairs);
            }
            else
            {
                Turn(rows, rows + pairs, cosine, sine, pairs);
            }

            // Single precision stays good for the rows of a block.
            Turn(cosine, sine, stepCosine, stepSine, pairs);
        }
    }

    /// <summary>Turns the vectors (x, y) by angles of which cosine and sine are given.</summary>
    private static void Turn(float* x, float* y, float* cosine, float* sine, int count)
    {
        int i = 0;
        for (; i <= count - TSimd.Count; i += TSimd.Count)
        {
            TVector a = TSimd.Load(x + i);
            TVector b = TSimd.Load(y + i);
            TVector c = TSimd.Load(cosine + i);
            TVector s = TSimd.Load(sine + i);
            TSimd.Store(TSimd.Subtract(TSimd.Multiply(a, c), TSimd.Multiply(b, s)), x + i);
            TSimd.Store(TSimd.MultiplyAdd(b, c, TSimd.Multiply(a, s)), y + i);
        }

        for (; i < count; i++)
        {
            (x[i], y[i]) = ((x[i] * cosine[i]) - (y[i] * sine[i]), (y[i] * cosine[i]) + (x[i] * sine[i]));
        }
    }

    private static void TurnNeighbours(float* row, float* cosine, float* sine, int count)
    {
        for (int i = 0; i < count; i++, row += 2)
        {
            (row[0], row[1]) = ((row[0] * cosine[i]) - (row[1] * sine[i]), (row[1] * cosine[i]) + (row[0] * sine[i]));
        }
    }

    private static (float Sin, float Cos) SinCos(uint phase) => MathF.SinCos((int)phase * (MathF.Tau / 4294967296f));
}
