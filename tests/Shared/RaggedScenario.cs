using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>
/// Prefill over ragged keys and values through the public API: rows with gaps, NaN in the gaps and behind the last row, poisoned outputs.
/// Compares with the oracle on the same rounded inputs.
/// </summary>
internal sealed class RaggedScenario<T>
    where T : unmanaged
{
    private readonly Device _device;
    private readonly DecodeCase _case;
    private readonly Func<float, T> _from;
    private readonly Func<T, float> _to;
    private readonly Random _random;

    public RaggedScenario(Device device, DecodeCase prefillCase, Func<float, T> from, Func<T, float> to)
    {
        _device = device;
        _case = prefillCase;
        _from = from;
        _to = to;
        _random = new Random(prefillCase.Seed * 37);
    }

    /// <summary>Sequences that the plan cut.</summary>
    public int SplitSequences { get; private set; }

    public ScenarioErrors Run()
    {
        int[] queryTokens = _case.QueryTokens ?? _case.Lengths;
        int[] qoIndptr = Indptr(queryTokens);
        int[] kvIndptr = Indptr(_case.Lengths);
        int rows = qoIndptr[^1];
        using BatchPrefillWithRaggedKvCache prefill = new(
            _device,
            _case.Spec,
            maxSequences: Math.Max(4, queryTokens.Length),
            maxQueryTokens: Math.Max(1, rows),
            _case.Determinism
        );
        if (_case.Variant is { } variant)
        {
            variant.Plan(prefill, qoIndptr, kvIndptr, _case.SmScale, _case.Causal);
        }
        else
        {
            prefill.Plan(qoIndptr, kvIndptr, _case.SmScale, _case.Causal);
        }

        Assert.Equal((queryTokens.Length, rows), (prefill.PlanInfo.Sequences, prefill.PlanInfo.Rows));
        SplitSequences = prefill.PlanInfo.SplitSequences;

        int valueDim = _case.ValueDim ?? _case.HeadDim;
        using Rows query = new(this, rows, _case.Heads, _case.HeadDim, 1);
        using Rows key = new(this, kvIndptr[^1], _case.KvHeads, _case.HeadDim, _case.Amplitude);
        using Rows value = new(this, kvIndptr[^1], _case.KvHeads, valueDim, _case.Amplitude);
        using Rows output = new(this, rows, _case.Heads, valueDim, float.NaN);
        using DeviceTensor<float> lse = _device.Allocate<float>(rows, _case.Heads);
        lse.View.CopyFrom([.. Enumerable.Repeat(float.NaN, rows * _case.Heads)]);
        prefill.Run(query.View, key.View, value.View, output.View, lse.View);

        int[] owners = [.. Enumerable.Range(0, queryTokens.Length).SelectMany(i => Enumerable.Repeat(i, queryTokens[i]))];
        int row = _case.Heads * valueDim;
        RowCheck check = new($"ragged, {_case}", row, output.Gap, valueDim);
        return check.Compare(
            output.Written(),
            lse.View.ToArray(),
            RowCheck.Sample(_random, [.. owners.Select(owner => _case.Lengths[owner])], row),
            (i, expected, expectedLse) =>
            {
                int owner = owners[i];
                int after = _case.Causal ? qoIndptr[owner + 1] - 1 - i : 0;
                AttentionOracle.Decode(
                    query.Values(i, 1),
                    key.Values(kvIndptr[owner], _case.Lengths[owner]),
                    value.Values(kvIndptr[owner], _case.Lengths[owner]),
                    Math.Max(0, _case.Lengths[owner] - after),
                    _case.Heads,
                    _case.KvHeads,
                    _case.HeadDim,
                    _case.SmScale ?? (1f / MathF.Sqrt(_case.HeadDim)),
                    expected,
                    expectedLse,
                    _case.Variant?.Oracle(_case.KvHeads, owner, i - qoIndptr[owner], queryTokens[owner], _case.Lengths[owner]),
                    valueDim
                );
            }
        );
    }

    private static int[] Indptr(int[] counts)
    {
        int[] indptr = new int[counts.Length + 1];
        for (int i = 0; i < counts.Length; i++)
        {
            indptr[i + 1] = indptr[i] + counts[i];
        }

        return indptr;
    }

    private float Normal() => (float)(Math.Sqrt(-2 * Math.Log(1 - _random.NextDouble())) * Math.Cos(2 * Math.PI * _random.NextDouble()));

    /// <summary>[rows, heads, headDim] of random values, now and then with gaps between rows; NaN in the gaps and in a few rows behind.</summary>
    private sealed class Rows : IDisposable
    {
        private const int Behind = 3;

        private readonly RaggedScenario<T> _scenario;
        private readonly DeviceTensor<T> _memory;
        private readonly T[] _values;
        private readonly int _rows;
        private readonly int _row;

        public Rows(RaggedScenario<T> scenario, int rows, int heads, int headDim, float amplitude)
        {
            _scenario = scenario;
            _rows = rows;
            _row = heads * headDim;
            Gap = scenario._random.Next(3) == 0 ? 64 : 0;
            _values = new T[(rows + Behind) * (_row + Gap)];
            _values.AsSpan().Fill(scenario._from(float.NaN));
            for (int i = 0; i < rows; i++)
            {
                foreach (ref T value in _values.AsSpan(i * (_row + Gap), _row))
                {
                    value = scenario._from(scenario.Normal() * amplitude);
                }
            }

            _memory = scenario._device.Allocate<T>(_values.Length);
            _memory.View.CopyFrom(_values);
            View = scenario._device.View<T>(_memory.View.Address, [rows, heads, headDim], [_row + Gap, headDim, 1]);
        }

        public int Gap { get; }

        public TensorView<T> View { get; }

        /// <summary>The values of some rows, without gaps.</summary>
        public float[] Values(int first, int count) =>
            [.. Enumerable.Range(first, count).SelectMany(i => _values.AsSpan(i * (_row + Gap), _row).ToArray()).Select(_scenario._to)];

        /// <summary>What lies in memory now, gaps included; nothing was written behind it.</summary>
        public float[] Written()
        {
            float[] all = [.. _memory.View.ToArray().Select(_scenario._to)];
            int end = _rows * (_row + Gap);
            Assert.All(all[end..], value => Assert.True(float.IsNaN(value), $"{_scenario._case}: memory behind the output was written."));
            return all[..end];
        }

        public void Dispose() => _memory.Dispose();
    }
}
