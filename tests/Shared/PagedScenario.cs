using System.Runtime.InteropServices;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>
/// Drives a case through the public API of decode or prefill as a server would: scattered pages, NaN in every slot that holds no token, tokens appended in
/// uneven steps, the last one by the wrapper, poisoned outputs, strided tensors; of a quantised cache random scales, or none set. Compares
/// with the oracle on the same rounded inputs, which for a quantised cache are what is stored times its scale.
/// </summary>
internal sealed class PagedScenario<T>
    where T : unmanaged
{
    private readonly Device _device;
    private readonly DecodeCase _case;
    private readonly bool _prefill;
    private readonly Func<float, T> _from;
    private readonly Func<T, float> _to;
    private readonly Random _random;
    private readonly List<float>[,] _keys;
    private readonly List<float>[,] _values;
    private readonly int[] _queryTokens;

    // Of each layer, for keys and then for values, [kvHeads]; all 1 unless the cache is quantised.
    private readonly float[][][] _scales;

    public PagedScenario(Device device, DecodeCase decodeCase, bool prefill, Func<float, T> from, Func<T, float> to)
    {
        _prefill = prefill;
        _device = device;
        _case = decodeCase;
        _from = from;
        _to = to;
        _random = new Random(decodeCase.Seed * 31);
        _keys = Lists();
        _values = Lists();
        _queryTokens = decodeCase.QueryTokens ?? [.. decodeCase.Lengths.Select(_ => 1)];
        _scales = [.. Enumerable.Range(0, decodeCase.Layers).Select(_ => new[] { Ones(), Ones() })];

        float[] Ones() => [.. Enumerable.Repeat(1f, decodeCase.KvHeads)];
    }

    /// <summary>Sequences that the plan cut.</summary>
    public int SplitSequences { get; private set; }

    /// <summary>Tokens that the plan staged.</summary>
    public long StagedTokens { get; private set; }

    private int TokenElements => _case.KvHeads * _case.HeadDim;

    public ScenarioErrors Run()
    {
        int pages = 3 + _case.Lengths.Sum(length => (length + _case.PageSize - 1) / _case.PageSize);
        using PagedKvCache cache = new(_device, _case.Spec, _case.Layers, pages);
        Poison(cache);
        SetScales(cache);
        Scatter(cache);
        Sequence[] sequences = [.. _case.Lengths.Select(_ => cache.NewSequence())];
        while (Enumerable.Range(0, sequences.Length).Any(i => sequences[i].Length < _case.Lengths[i] - Drafted(i)))
        {
            Grow(cache, sequences);
        }

        using IPagedWrapper wrapper = _prefill
            ? new PrefillWrapper(
                cache,
                Math.Max(4, sequences.Length),
                Math.Max(1, _queryTokens.Sum()),
                _case.Determinism,
                _case.MaxStagedTokens
            )
            {
                Stages = _case.Stages,
            }
            : new DecodeWrapper(cache, Math.Max(4, sequences.Length), _queryTokens.Max(), _case.Determinism) { Wide = _case.Wide };
        Sequence[] last = [.. sequences.Where((s, i) => s.Length < _case.Lengths[i])];
        cache.BeginForward(last, [.. Enumerable.Range(0, sequences.Length).Select(Drafted).Where(tokens => tokens > 0)]);
        bool implied = _prefill
            ? Enumerable.Range(0, sequences.Length).All(i => sequences[i].ForwardTokens == _queryTokens[i])
            : _case.QueryTokens is null;
        int[]? given = implied ? null : _queryTokens;
        if (_case.Variant is { } variant)
        {
            variant.Plan(wrapper, sequences, given, _case.SmScale, _case.Causal);
        }
        else
        {
            wrapper.Plan(sequences, given, _case.SmScale, _case.Causal);
        }

        Assert.Equal(_queryTokens.Sum(), wrapper.PlanInfo.Rows);
        SplitSequences = wrapper.PlanInfo.SplitSequences;
        StagedTokens = wrapper.PlanInfo.StagedTokens;

        ScenarioErrors worst = default;
        for (int layer = 0; layer < _case.Layers; layer++)
        {
            if (last.Length > 0)
            {
                using NewTokens tokens = Draw(layer, sequences, sequences.Select(s => s.ForwardTokens));
                wrapper.Append(layer, tokens.Key.View, tokens.Value.View);
            }

            ScenarioErrors errors = Attend(wrapper, layer);
            worst = ScenarioErrors.Worst(worst, errors);
        }

        cache.EndForward(last);
        CheckPages(cache, sequences);
        return worst;
    }

    /// <summary>Tokens of a sequence's last forward: those that the queries stand at, or one.</summary>
    private int Drafted(int sequence) => Math.Min(_case.Lengths[sequence], Math.Max(1, _queryTokens[sequence]));

    private List<float>[,] Lists()
    {
        List<float>[,] lists = new List<float>[_case.Layers, _case.Lengths.Length];
        for (int layer = 0; layer < _case.Layers; layer++)
        {
            for (int i = 0; i < _case.Lengths.Length; i++)
            {
                lists[layer, i] = [];
            }
        }

        return lists;
    }

    private void Poison(PagedKvCache cache)
    {
        float[] nan = new float[cache.KeyPages(0).Shape.Elements];
        nan.AsSpan().Fill(float.NaN);
        for (int layer = 0; layer < _case.Layers; layer++)
        {
            cache.KeyPages(layer).CopyFrom(nan);
            cache.ValuePages(layer).CopyFrom(nan);
        }
    }

    /// <summary>Scales from one that cuts large values off to one that leaves few digits: for each head, for a whole layer, or the default.</summary>
    private void SetScales(PagedKvCache cache)
    {
        if (!cache.Spec.Shape.IsQuantised)
        {
            return;
        }

        for (int layer = 0; layer < _case.Layers; layer++)
        {
            float[][] both = _scales[layer];
            switch (_random.Next(4))
            {
                case 0:
                    break;
                case 1:
                    (float key, float value) = (Scale(), Scale());
                    both[0].AsSpan().Fill(key);
                    both[1].AsSpan().Fill(value);
                    cache.SetScales(layer, key, value);
                    break;
                default:
                    both[0] = [.. both[0].Select(_ => Scale())];
                    both[1] = [.. both[1].Select(_ => Scale())];
                    cache.SetScales(layer, both[0], both[1]);
                    break;
            }

            Assert.Equal(both[0], cache.KeyScales(layer).ToArray());
            Assert.Equal(both[1], cache.ValueScales(layer).ToArray());
        }

        float Scale() => MathF.ScaleB(1 + _random.NextSingle(), _random.Next(-8, 3));
    }

    /// <summary>What the cache is worth that was given a value: itself, or what 8 bits leave of it.</summary>
    private float Stored(float value, float scale) =>
        _case.KvDtype switch
        {
            DType.Float8E4M3 => (Float8E4M3)(value / scale) * scale,
            DType.Float8E5M2 => (Float8E5M2)(value / scale) * scale,
            _ => value,
        };

    /// <summary>Takes every page and gives them back in random order: the free list is a shuffle from here on.</summary>
    private void Scatter(PagedKvCache cache)
    {
        Sequence[] fillers = [.. Enumerable.Range(0, cache.TotalPages).Select(_ => cache.NewSequence())];
        cache.BeginForward(fillers, [.. fillers.Select(_ => 1)]);
        cache.EndForward(fillers);
        _random.Shuffle(fillers);
        foreach (Sequence filler in fillers)
        {
            cache.Free(filler);
        }
    }

    /// <summary>Some of the sequences get some of their tokens.</summary>
    private void Grow(PagedKvCache cache, Sequence[] sequences)
    {
        int[] missing =
        [
            .. Enumerable
                .Range(0, sequences.Length)
                .Where(i => sequences[i].Length < _case.Lengths[i] - Drafted(i) && _random.Next(4) != 0),
        ];
        Sequence[] growing = [.. missing.Select(i => sequences[i])];
        int[] tokens = [.. missing.Select(i => _random.Next(1, _case.Lengths[i] - Drafted(i) - sequences[i].Length + 1))];
        cache.BeginForward(growing, tokens);
        if (growing.Length > 0)
        {
            for (int layer = 0; layer < _case.Layers; layer++)
            {
                using NewTokens appended = Draw(layer, sequences, sequences.Select(s => s.ForwardTokens));
                cache.Append(layer, growing, appended.Key.View, appended.Value.View);
            }
        }

        cache.EndForward(growing);
    }

    /// <summary>Random keys and values for each sequence's new tokens, remembered for the oracle.</summary>
    private NewTokens Draw(int layer, Sequence[] sequences, IEnumerable<int> tokens)
    {
        int[] counts = [.. tokens];
        NewTokens drawn = new(Rows(counts.Sum(), _case.KvHeads, _case.Amplitude), Rows(counts.Sum(), _case.KvHeads, _case.Amplitude));
        int row = 0;
        for (int i = 0; i < sequences.Length; i++)
        {
            Remember(_keys[layer, i], drawn.Key.Values(row, counts[i]), _scales[layer][0]);
            Remember(_values[layer, i], drawn.Value.Values(row, counts[i]), _scales[layer][1]);
            row += counts[i];
        }

        return drawn;
    }

    private TestRows<T> Rows(int rows, int heads, float amplitude) =>
        new(_device, _random, _from, _to, rows, heads, _case.HeadDim, amplitude);

    private void Remember(List<float> list, float[] values, float[] scales)
    {
        for (int i = 0; i < values.Length; i++)
        {
            list.Add(Stored(values[i], scales[i / _case.HeadDim % _case.KvHeads]));
        }
    }

    private ScenarioErrors Attend(IPagedWrapper wrapper, int layer)
    {
        int[] owners = [.. Enumerable.Range(0, _queryTokens.Length).SelectMany(i => Enumerable.Repeat(i, _queryTokens[i]))];
        int rows = owners.Length;
        int row = _case.Heads * _case.HeadDim;
        using TestRows<T> query = Rows(rows, _case.Heads, 1);
        using TestRows<T> output = Rows(rows, _case.Heads, float.NaN);
        using DeviceTensor<float> lse = _device.Allocate<float>(rows, _case.Heads);
        lse.View.CopyFrom([.. Enumerable.Repeat(float.NaN, rows * _case.Heads)]);
        wrapper.Run(layer, query.View, output.View, lse.View);

        RowCheck check = new(_case.ToString(), row, _case.HeadDim);
        int[] sampled = RowCheck.Sample(_random, [.. owners.Select(owner => _case.Lengths[owner])], row);
        float scale = _case.SmScale ?? (1f / MathF.Sqrt(_case.HeadDim));
        return check.Compare(
            output.Written(_case.ToString()),
            lse.View.ToArray(),
            sampled,
            (i, expected, expectedLse) =>
            {
                int owner = owners[i];
                int queryTokens = _queryTokens[owner];
                int index = i - Array.IndexOf(owners, owner);
                int after = _case.Causal ? queryTokens - 1 - index : 0;
                AttentionOracle.Decode(
                    query.Values(i, 1),
                    CollectionsMarshal.AsSpan(_keys[layer, owner]),
                    CollectionsMarshal.AsSpan(_values[layer, owner]),
                    Math.Max(0, _case.Lengths[owner] - after),
                    _case.Heads,
                    _case.KvHeads,
                    _case.HeadDim,
                    scale,
                    expected,
                    expectedLse,
                    _case.Variant?.Oracle(_case.KvHeads, owner, index, queryTokens, _case.Lengths[owner])
                );
            }
        );
    }

    /// <summary>Every token lies where the page table says, bit for bit, and no other slot was written.</summary>
    private void CheckPages(PagedKvCache cache, Sequence[] sequences)
    {
        for (int layer = 0; layer < _case.Layers; layer++)
        {
            float[] pages = new float[cache.KeyPages(layer).Shape.Elements];
            cache.KeyPages(layer).CopyTo(pages);
            CheckPages(pages, sequences, layer, _keys, _scales[layer][0]);
            cache.ValuePages(layer).CopyTo(pages);
            CheckPages(pages, sequences, layer, _values, _scales[layer][1]);
        }
    }

    private void CheckPages(float[] pages, Sequence[] sequences, int layer, List<float>[,] expected, float[] scales)
    {
        bool nhd = _case.KvLayout == KvLayout.Nhd;
        bool[] seen = new bool[pages.Length];
        for (int i = 0; i < sequences.Length; i++)
        {
            Assert.Equal(_case.Lengths[i], sequences[i].Length);
            ReadOnlySpan<int> ids = sequences[i].Pages;
            for (int e = 0; e < expected[layer, i].Count; e++)
            {
                int token = e / TokenElements;
                int head = e % TokenElements / _case.HeadDim;
                int slot = token % _case.PageSize;
                int inPage = nhd ? (slot * _case.KvHeads) + head : (head * _case.PageSize) + slot;
                int at = (ids[token / _case.PageSize] * _case.PageSize * TokenElements) + (inPage * _case.HeadDim) + (e % _case.HeadDim);
                seen[at] = true;

                // Different bits stay different when they are multiplied by their scale, the sign of zero included.
                float held = pages[at] * scales[head];
                if (BitConverter.SingleToInt32Bits(held) != BitConverter.SingleToInt32Bits(expected[layer, i][e]))
                {
                    Assert.Fail(
                        $"{_case}: layer {layer}, sequence {i}, token {token}, head {head} holds {held:r}, expected {expected[layer, i][e]:r}."
                    );
                }
            }
        }

        for (int at = 0; at < pages.Length; at++)
        {
            if (!seen[at] && !float.IsNaN(pages[at]))
            {
                Assert.Fail($"{_case}: element {at} of layer {layer} belongs to no token but was written.");
            }
        }
    }

    private sealed record NewTokens(TestRows<T> Key, TestRows<T> Value) : IDisposable
    {
        public void Dispose()
        {
            Key.Dispose();
            Value.Dispose();
        }
    }
}
