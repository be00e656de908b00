using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>
/// Random states through every way to merge them, against the definition in fp64: gaps between rows and heads, states of no token whose
/// outputs hold NaN, rows without any token, poisoned results.
/// </summary>
internal sealed class MergeScenario<T>(Device device, int seed, Func<float, T> from, Func<T, float> to)
    where T : unmanaged
{
    private readonly Random _random = new(seed);

    /// <summary>Draws shapes and merges some states in every way.</summary>
    public void Run()
    {
        int rows = _random.Next(1, 40);
        int heads = _random.Next(1, 9);
        int headDim = 8 * _random.Next(1, _random.Next(4) == 0 ? 129 : 33);
        int count = _random.Next(1, 7);
        string what = $"{typeof(T).Name}, {rows} rows, {heads} heads, headDim {headDim}, {count} states, seed {seed}";
        States many = new(this, rows, count, heads, headDim);
        using DeviceTensor<T> output = device.Allocate<T>(rows, heads, headDim);
        using DeviceTensor<float> lse = device.Allocate<float>(rows, heads);

        Poison(output, lse);
        AttentionStates.MergeStates(many.Outputs, many.Lses, output, lse);
        Check(many, row => count, output, lse, $"all at once: {what}");
        Poison(output, lse);
        AttentionStates.MergeStates(many.Outputs, many.Lses, output);
        Assert.All(lse.View.ToArray(), value => Assert.True(float.IsNaN(value)));

        States two = new(this, rows, 2, heads, headDim);
        Poison(output, lse);
        AttentionStates.MergeState(two.Output(0), two.Lse(0), two.Output(1), two.Lse(1), output, lse);
        Check(two, row => 2, output, lse, $"two: {what}");

        int[] mask = [.. Enumerable.Range(0, rows).Select(_ => _random.Next(3) == 0 ? 0 : _random.Next(-1, 3))];
        using DeviceTensor<int> merges = device.Allocate<int>(rows);
        merges.View.CopyFrom(mask);
        Copy(two, output, lse);
        AttentionStates.MergeStateInPlace(output, lse, two.Output(1), two.Lse(1), merges);
        foreach (int pair in Enumerable.Range(0, two.Pairs).Where(pair => mask[pair / heads] == 0))
        {
            Assert.Equal(two.HostOutput(pair, 0), output.View.ToArray().AsSpan(pair * headDim, headDim).ToArray().Select(to));
            Assert.Equal(two.HostLse(pair, 0), lse.View.ToArray()[pair]);
        }

        // What was left alone, once more with all, so that all can be checked.
        merges.View.CopyFrom([.. mask.Select(merged => merged == 0 ? 1 : 0)]);
        AttentionStates.MergeStateInPlace(output, lse, two.Output(1), two.Lse(1), merges);
        Check(two, row => 2, output, lse, $"in place, masked: {what}");
        Copy(two, output, lse);
        AttentionStates.MergeStateInPlace(output, lse, two.Output(1), two.Lse(1));
        Check(two, row => 2, output, lse, $"in place: {what}");
        many.Dispose();
        two.Dispose();
        Ragged(rows, heads, headDim);
    }

    /// <summary>Rows with any number of states, none among them, one behind the other.</summary>
    private void Ragged(int rows, int heads, int headDim)
    {
        int[] indptr = new int[rows + 1];
        for (int row = 0; row < rows; row++)
        {
            indptr[row + 1] = indptr[row] + (_random.Next(3) == 0 ? _random.Next(2) : _random.Next(7));
        }

        using States states = new(this, indptr[rows], 1, heads, headDim);
        using DeviceTensor<int> starts = device.Allocate<int>(rows + 1);
        using DeviceTensor<T> output = device.Allocate<T>(rows, heads, headDim);
        using DeviceTensor<float> lse = device.Allocate<float>(rows, heads);
        starts.View.CopyFrom(indptr);
        Poison(output, lse);
        AttentionStates.MergeRaggedStates(states.Output(0), states.Lse(0), starts, output, lse);
        Check(
            states,
            row => [.. Enumerable.Range(indptr[row], indptr[row + 1] - indptr[row]).Select(static one => (one, 0))],
            output,
            lse,
            $"ragged: {typeof(T).Name}, {rows} rows, {heads} heads, headDim {headDim}, seed {seed}"
        );
    }

    private static void Poison(DeviceTensor<T> output, DeviceTensor<float> lse)
    {
        float[] nan = new float[output.View.Shape.Elements];
        nan.AsSpan().Fill(float.NaN);
        ((TensorView)output).CopyFrom(nan);
        ((TensorView)lse).CopyFrom(nan.AsSpan(0, (int)lse.View.Shape.Elements));
    }

    /// <summary>Makes the first state a contiguous one.</summary>
    private void Copy(States states, DeviceTensor<T> output, DeviceTensor<float> lse)
    {
        output.View.CopyFrom([.. Enumerable.Range(0, states.Pairs).SelectMany(pair => states.HostOutput(pair, 0)).Select(from)]);
        lse.View.CopyFrom([.. Enumerable.Range(0, states.Pairs).Select(pair => states.HostLse(pair, 0))]);
    }

    /// <summary>Holds a result against the first states of each row.</summary>
    private void Check(States states, Func<int, int> count, DeviceTensor<T> output, DeviceTensor<float> lse, string what) =>
        Check(states, row => [.. Enumerable.Range(0, count(row)).Select(k => (row, k))], output, lse, what);

    /// <summary>Holds a result against the states of each row, by row and number.</summary>
    private void Check(
        States states,
        Func<int, (int Row, int State)[]> merged,
        DeviceTensor<T> output,
        DeviceTensor<float> lse,
        string what
    )
    {
        double[] expected = new double[output.View.Shape.Elements];
        double[] expectedLse = new double[lse.View.Shape.Elements];
        for (int pair = 0; pair < expectedLse.Length; pair++)
        {
            (int Pair, int State)[] read =
            [
                .. merged(pair / states.Heads).Select(one => ((one.Row * states.Heads) + (pair % states.Heads), one.State)),
            ];
            double[] lses = [.. read.Select(one => (double)states.HostLse(one.Pair, one.State))];
            double max = lses.Append(double.NegativeInfinity).Max();
            double sum = lses.Sum(value => double.IsNegativeInfinity(value) ? 0 : Math.Pow(2, value - max));
            expectedLse[pair] = sum == 0 ? double.NegativeInfinity : max + Math.Log2(sum);
            for (int k = 0; k < read.Length; k++)
            {
                for (int d = 0; d < states.HeadDim && lses[k] > double.NegativeInfinity; d++)
                {
                    expected[(pair * states.HeadDim) + d] +=
                        Math.Pow(2, lses[k] - expectedLse[pair]) * states.HostOutput(read[k].Pair, read[k].State)[d];
                }
            }
        }

        float[] actual = [.. output.View.ToArray().Select(to)];
        double error = ErrorNorms.WorstRow(actual, expected, states.HeadDim);
        double lseError = ErrorNorms.WorstRelative(lse.View.ToArray(), expectedLse, 1);
        double tolerance =
            typeof(T) == typeof(float) ? 1e-5
            : typeof(T) == typeof(Half) ? 1e-3
            : 8e-3;
        Assert.True(error <= tolerance && lseError <= 1e-5, $"{what}: output {error:g3}, LSE {lseError:g3}");
    }

    /// <summary>States on the device, with gaps between rows, states and heads, and what they hold.</summary>
    private sealed class States : IDisposable
    {
        private readonly DeviceTensor<T> _outputs;
        private readonly DeviceTensor<float> _lses;
        private readonly float[] _hostOutputs;
        private readonly float[] _hostLses;
        private readonly long[] _strides;
        private readonly long[] _lseStrides;
        private readonly Device _device;
        private readonly int _rows;
        private readonly int _count;

        public States(MergeScenario<T> scenario, int rows, int count, int heads, int headDim)
        {
            Random random = scenario._random;
            (_device, _rows, _count, Heads, HeadDim) = (scenario.Device, rows, count, heads, headDim);
            long head = headDim + (8 * random.Next(3));
            bool rowsFirst = random.Next(2) == 0;
            _strides = rowsFirst ? [count * heads * head, heads * head, head] : [heads * head, rows * heads * head, head];
            _lseStrides = rowsFirst ? [count * (heads + 1), heads + 1, 1] : [1, rows * heads, rows];
            _hostOutputs = new float[rows * count * heads * head];
            _hostLses = new float[rows * count * (heads + 1)];
            for (int i = 0; i < _hostOutputs.Length; i++)
            {
                _hostOutputs[i] = scenario.Rounded((random.NextSingle() * 2) - 1);
            }

            for (int pair = 0; pair < Pairs; pair++)
            {
                bool seesNothing = random.Next(6) == 0;
                for (int k = 0; k < count; k++)
                {
                    bool isEmpty = seesNothing || random.Next(4) == 0;
                    _hostLses[LseAt(pair, k)] = isEmpty ? float.NegativeInfinity : (random.NextSingle() * 30) - 15;
                    if (isEmpty && random.Next(2) == 0)
                    {
                        _hostOutputs.AsSpan((int)OutputAt(pair, k), headDim).Fill(float.NaN);
                    }
                }
            }

            _outputs = _device.Allocate<T>(_hostOutputs.Length);
            _lses = _device.Allocate<float>(_hostLses.Length);
            _outputs.View.CopyFrom([.. _hostOutputs.Select(scenario.From)]);
            _lses.View.CopyFrom(_hostLses);
        }

        public int Heads { get; }

        public int HeadDim { get; }

        public int Pairs => _rows * Heads;

        public TensorView<T> Outputs => _device.View<T>(_outputs.View.Address, [_rows, _count, Heads, HeadDim], [.. _strides, 1]);

        public TensorView<float> Lses => _device.View<float>(_lses.View.Address, [_rows, _count, Heads], _lseStrides);

        public TensorView<T> Output(int state) =>
            _device.View<T>(
                _outputs.View.Address + (nint)(state * _strides[1] * System.Runtime.CompilerServices.Unsafe.SizeOf<T>()),
                [_rows, Heads, HeadDim],
                [_strides[0], _strides[2], 1]
            );

        public TensorView<float> Lse(int state) =>
            _device.View<float>(
                _lses.View.Address + (nint)(state * _lseStrides[1] * sizeof(float)),
                [_rows, Heads],
                [_lseStrides[0], _lseStrides[2]]
            );

        public float[] HostOutput(int pair, int state) => _hostOutputs.AsSpan((int)OutputAt(pair, state), HeadDim).ToArray();

        public float HostLse(int pair, int state) => _hostLses[LseAt(pair, state)];

        public void Dispose()
        {
            _outputs.Dispose();
            _lses.Dispose();
        }

        private long OutputAt(int pair, int state) => (pair / Heads * _strides[0]) + (state * _strides[1]) + (pair % Heads * _strides[2]);

        private long LseAt(int pair, int state) =>
            (pair / Heads * _lseStrides[0]) + (state * _lseStrides[1]) + (pair % Heads * _lseStrides[2]);
    }

    private Device Device => device;

    private Func<float, T> From => from;

    private float Rounded(float value) => to(from(value));
}

/// <summary>Random states of every element type.</summary>
internal static class MergeScenario
{
    public static void Check(Device device, int seed)
    {
        new MergeScenario<Half>(device, seed, x => (Half)x, x => (float)x).Run();
        new MergeScenario<BFloat16>(device, seed, x => (BFloat16)x, x => x).Run();
        new MergeScenario<float>(device, seed, x => x, x => x).Run();
    }
}
