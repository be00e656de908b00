namespace FlashInfer.Tests;

/// <summary>
/// [rows, heads, headDim] of random values on a device: dense, with gaps between rows or between rows and heads, or heads first. NaN in all gaps and in a
/// few rows behind.
/// </summary>
internal sealed class TestRows<T> : IDisposable
    where T : unmanaged
{
    private const int Behind = 3;
    private const int RowGap = 64;
    private const int HeadGap = 8;

    private readonly Func<T, float> _to;
    private readonly DeviceTensor<T> _memory;
    private readonly T[] _values;
    private readonly int _rows;
    private readonly int _heads;
    private readonly int _headDim;
    private readonly int _rowStride;
    private readonly int _headStride;

    /// <param name="device">Where.</param>
    /// <param name="random">The case's random numbers, which decide about the layout too.</param>
    /// <param name="from">To an element.</param>
    /// <param name="to">From an element.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="heads">Heads of a row.</param>
    /// <param name="headDim">Elements of a head.</param>
    /// <param name="amplitude">Of the normal distribution; NaN for an output.</param>
    public TestRows(Device device, Random random, Func<float, T> from, Func<T, float> to, int rows, int heads, int headDim, float amplitude)
    {
        (_to, _rows, _heads, _headDim) = (to, rows, heads, headDim);
        (_rowStride, _headStride) = random.Next(6) switch
        {
            0 => ((heads * headDim) + RowGap, headDim),
            1 => ((heads * (headDim + HeadGap)) + RowGap, headDim + HeadGap),
            2 => (headDim, (rows + Behind) * headDim),
            _ => (heads * headDim, headDim),
        };
        _values = new T[Math.Max((rows + Behind) * _rowStride, heads * _headStride)];
        _values.AsSpan().Fill(from(float.NaN));
        for (int i = 0; i < rows * heads; i++)
        {
            foreach (ref T value in _values.AsSpan(Start(i), headDim))
            {
                value = from(Normals.Next(random) * amplitude);
            }
        }

        _memory = device.Allocate<T>(_values.Length);
        _memory.View.CopyFrom(_values);
        View = device.View<T>(_memory.View.Address, [rows, heads, headDim], [_rowStride, _headStride, 1]);
    }

    public TensorView<T> View { get; }

    /// <summary>The values of some rows, without gaps.</summary>
    public float[] Values(int first, int count) => Gather(_values, first, count);

    /// <summary>What lies in memory now, without gaps; nothing was written into those or behind the rows.</summary>
    public float[] Written(string what)
    {
        T[] all = _memory.View.ToArray();
        bool[] inside = new bool[all.Length];
        for (int i = 0; i < _rows * _heads; i++)
        {
            inside.AsSpan(Start(i), _headDim).Fill(true);
        }

        for (int i = 0; i < all.Length; i++)
        {
            if (!inside[i] && !float.IsNaN(_to(all[i])))
            {
                Assert.Fail($"{what}: memory between or behind the rows of an output was written, at element {i}.");
            }
        }

        return Gather(all, 0, _rows);
    }

    public void Dispose() => _memory.Dispose();

    private int Start(int rowOfHeads) => (rowOfHeads / _heads * _rowStride) + (rowOfHeads % _heads * _headStride);

    private float[] Gather(T[] memory, int first, int count)
    {
        float[] values = new float[count * _heads * _headDim];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = _to(memory[Start((first * _heads) + (i / _headDim)) + (i % _headDim)]);
        }

        return values;
    }
}

/// <summary>Normally distributed numbers, from a table: those of a large case are drawn in a moment.</summary>
internal static class Normals
{
    private static readonly float[] s_table = Draw();

    public static float Next(Random random) => s_table[random.Next(s_table.Length)];

    private static float[] Draw()
    {
        Random random = new(1);
        return
        [
            .. Enumerable
                .Range(0, 1 << 16)
                .Select(_ => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()))),
        ];
    }
}
