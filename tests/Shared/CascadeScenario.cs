using System.Runtime.InteropServices;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>
/// A random tree of forked sequences through cascade attention, as a server would drive it: prefixes that fork at whole pages and between
/// them, sequences that share nothing or everything, prompts and single tokens behind the prefixes, scattered pages, NaN in every slot that
/// holds no token, poisoned outputs with gaps. Compares with the fp64 oracle, which knows nothing of forks or levels.
/// </summary>
internal sealed class CascadeScenario<T> : IDisposable
    where T : unmanaged
{
    private readonly Device _device;
    private readonly AttentionSpec _spec;
    private readonly int _layers;
    private readonly string _what;
    private readonly Func<float, T> _from;
    private readonly Func<T, float> _to;
    private readonly Random _random;
    private readonly PagedKvCache _cache;
    private readonly Dictionary<Sequence, Tokens[]> _tokens = [];

    public CascadeScenario(Device device, AttentionSpec spec, int pages, int seed, Func<float, T> from, Func<T, float> to)
    {
        (_device, _spec, _from, _to, _random) = (device, spec, from, to, new Random(seed));
        _layers = _random.Next(1, 3);
        _what = $"cascade, seed {seed}: {spec}, {_layers} layers";
        _cache = new PagedKvCache(device, spec, _layers, pages);
        float[] nan = new float[_cache.KeyPages(0).Shape.Elements];
        nan.AsSpan().Fill(float.NaN);
        for (int layer = 0; layer < _layers; layer++)
        {
            _cache.KeyPages(layer).CopyFrom(nan);
            _cache.ValuePages(layer).CopyFrom(nan);
        }

        Scatter();
    }

    private int TokenElements => _spec.KvHeads * _spec.HeadDim;

    /// <summary>Sequences of a tree: every prefix goes on in several ways.</summary>
    /// <param name="branches">Ways to go on, level by level; its last are the sequences of the batch.</param>
    /// <param name="lengths">Tokens that each level adds to each.</param>
    public Sequence[] Grow(int[] branches, Func<int, int> lengths)
    {
        Sequence[] level = [New(lengths(0))];
        for (int l = 0; l < branches.Length; l++)
        {
            Sequence[] next = [.. level.SelectMany(prefix => Enumerable.Range(0, branches[l]).Select(_ => Fork(prefix, lengths(l + 1))))];
            Array.ForEach(level, _cache.Free);
            level = next;
        }

        return level;
    }

    /// <summary>A sequence that shares nothing.</summary>
    public Sequence New(int tokens)
    {
        Sequence sequence = _cache.NewSequence();
        _tokens[sequence] = [.. Enumerable.Range(0, _layers).Select(_ => new Tokens([], []))];
        return Extend(sequence, tokens);
    }

    /// <summary>A sequence that begins with all of another, or a part, and goes on.</summary>
    public Sequence Fork(Sequence prefix, int tokens)
    {
        int shared = _random.Next(4) == 0 ? _random.Next(prefix.Length + 1) : prefix.Length;
        Sequence sequence = _cache.Fork(prefix, shared);
        _tokens[sequence] = [.. _tokens[prefix].Select(layer => layer.First(shared * TokenElements))];
        return Extend(sequence, tokens);
    }

    /// <summary>Plans, appends and attends, and holds every row against the oracle.</summary>
    /// <param name="sequences">The batch.</param>
    /// <param name="newTokens">Tokens of each one's forward; 0 opens none.</param>
    /// <param name="queryTokens">Query tokens of each; those of the forward when null.</param>
    /// <param name="causal">Whether attention is causal.</param>
    /// <param name="maxLevels">Levels of the wrapper.</param>
    /// <param name="softCap">A soft cap, when the configuration has one.</param>
    /// <returns>Levels that the plan uses.</returns>
    public int Step(Sequence[] sequences, int[] newTokens, int[]? queryTokens, bool causal, int maxLevels, float softCap = 0)
    {
        int[] rows = queryTokens ?? newTokens;
        Sequence[] open = [.. sequences.Where((_, i) => newTokens[i] > 0)];
        _cache.BeginForward(open, [.. newTokens.Where(tokens => tokens > 0)]);
        using MultiLevelCascadeAttention cascade = new(_cache, sequences.Length, Math.Max(1, rows.Sum()), maxLevels);
        cascade.Costs = cascade.Costs with { Level = 0, Row = _random.Next(2) * cascade.Costs.Row };
        Plan(cascade, sequences, queryTokens, causal, softCap);
        ScenarioErrors worst = default;
        for (int layer = 0; layer < _layers; layer++)
        {
            if (open.Length > 0)
            {
                Write(layer, open, (key, value) => cascade.Append(layer, key, value));
            }

            worst = ScenarioErrors.Worst(worst, Attend(cascade, layer, sequences, rows, causal, softCap));
        }

        _cache.EndForward(open);
        worst.Check(_spec.Dtype, $"{_what}, {(causal ? "causal" : "not causal")}, {cascade.Explain()}");
        return cascade.Levels.Count;
    }

    public void Dispose() => _cache.Dispose();

    private static void Plan(MultiLevelCascadeAttention cascade, Sequence[] sequences, int[]? queryTokens, bool causal, float softCap)
    {
        VariantArguments<OptionArguments> arguments = new(new OptionArguments { LogitsSoftCap = softCap });
        switch (queryTokens is null, softCap > 0)
        {
            case (true, true):
                cascade.Plan(sequences.AsSpan(), arguments, causal: causal);
                break;
            case (true, false):
                cascade.Plan(sequences.AsSpan(), causal: causal);
                break;
            case (false, true):
                cascade.Plan(sequences.AsSpan(), queryTokens.AsSpan(), arguments, causal: causal);
                break;
            default:
                cascade.Plan(sequences.AsSpan(), queryTokens.AsSpan(), causal: causal);
                break;
        }
    }

    private Sequence Extend(Sequence sequence, int tokens)
    {
        if (tokens > 0)
        {
            _cache.BeginForward(sequence, tokens);
            for (int layer = 0; layer < _layers; layer++)
            {
                Write(layer, [sequence], (key, value) => _cache.Append(layer, [sequence], key, value));
            }

            _cache.EndForward(sequence);
        }

        return sequence;
    }

    /// <summary>Draws the new tokens of a batch, hands them to an append and remembers what is stored of them.</summary>
    private void Write(int layer, Sequence[] sequences, Action<TensorView, TensorView> append)
    {
        int rows = sequences.Sum(sequence => sequence.ForwardTokens);
        using DeviceTensor<T> key = _device.Allocate<T>(rows, _spec.KvHeads, _spec.HeadDim);
        using DeviceTensor<T> value = _device.Allocate<T>(rows, _spec.KvHeads, _spec.HeadDim);
        (T[] keys, T[] values) = (Draw(rows * TokenElements), Draw(rows * TokenElements));
        key.View.CopyFrom(keys);
        value.View.CopyFrom(values);
        append(key, value);
        int at = 0;
        foreach (Sequence sequence in sequences)
        {
            int count = sequence.ForwardTokens * TokenElements;
            _tokens[sequence][layer].Keys.AddRange(keys[at..(at + count)].Select(Stored));
            _tokens[sequence][layer].Values.AddRange(values[at..(at + count)].Select(Stored));
            at += count;
        }
    }

    private ScenarioErrors Attend(
        MultiLevelCascadeAttention cascade,
        int layer,
        Sequence[] sequences,
        int[] queryTokens,
        bool causal,
        float softCap
    )
    {
        int[] owners = [.. Enumerable.Range(0, queryTokens.Length).SelectMany(i => Enumerable.Repeat(i, queryTokens[i]))];
        int rows = owners.Length;
        int row = _spec.Heads * _spec.HeadDim;
        using TestRows<T> query = new(_device, _random, _from, _to, rows, _spec.Heads, _spec.HeadDim, amplitude: 1);
        using TestRows<T> output = new(_device, _random, _from, _to, rows, _spec.Heads, _spec.HeadDim, float.NaN);
        using DeviceTensor<float> lse = _device.Allocate<float>(rows, _spec.Heads);
        lse.View.CopyFrom([.. Enumerable.Repeat(float.NaN, rows * _spec.Heads)]);
        cascade.Run(layer, query.View, output.View, lse.View);

        RowCheck check = new(_what, row, _spec.HeadDim);
        int[] sampled = RowCheck.Sample(_random, [.. owners.Select(owner => sequences[owner].KvLength)], row);
        OracleVariant? variant =
            softCap > 0 ? new((logit, _, _) => softCap * Math.Tanh(logit / softCap), _ => double.NegativeInfinity) : null;
        return check.Compare(
            output.Written(_what),
            lse.View.ToArray(),
            sampled,
            (i, expected, expectedLse) =>
            {
                int owner = owners[i];
                int after = causal ? queryTokens[owner] - 1 - (i - Array.IndexOf(owners, owner)) : 0;
                Tokens tokens = _tokens[sequences[owner]][layer];
                AttentionOracle.Decode(
                    query.Values(i, 1),
                    CollectionsMarshal.AsSpan(tokens.Keys),
                    CollectionsMarshal.AsSpan(tokens.Values),
                    Math.Max(0, sequences[owner].KvLength - after),
                    _spec.Heads,
                    _spec.KvHeads,
                    _spec.HeadDim,
                    1 / Math.Sqrt(_spec.HeadDim),
                    expected,
                    expectedLse,
                    variant
                );
            }
        );
    }

    private float Stored(T value) =>
        _spec.KvDtype switch
        {
            DType.Float8E4M3 => (Float8E4M3)_to(value),
            DType.Float8E5M2 => (Float8E5M2)_to(value),
            _ => _to(value),
        };

    /// <summary>Takes every page and gives them back in random order: the free list is a shuffle from here on.</summary>
    private void Scatter()
    {
        Sequence[] fillers = [.. Enumerable.Range(0, _cache.TotalPages).Select(_ => _cache.NewSequence())];
        _cache.BeginForward(fillers, [.. fillers.Select(_ => 1)]);
        _cache.EndForward(fillers);
        _random.Shuffle(fillers);
        Array.ForEach(fillers, _cache.Free);
    }

    private T[] Draw(int count) => [.. Enumerable.Range(0, count).Select(_ => _from(Normals.Next(_random)))];

    private sealed record Tokens(List<float> Keys, List<float> Values)
    {
        public Tokens First(int elements) => new([.. Keys.Take(elements)], [.. Values.Take(elements)]);
    }
}

/// <summary>Draws cases of cascade attention.</summary>
internal static class CascadeScenario
{
    private static readonly int[] s_groups = [1, 2, 3, 4, 7, 8];
    private static readonly int[] s_pageSizes = [1, 5, 16, 16, 64];
    private static readonly int[] s_headDims = [64, 96, 128, 192, 256];

    /// <summary>A random configuration.</summary>
    public static AttentionSpec Draw(int seed)
    {
        Random random = new(seed);
        int kvHeads = random.Next(1, 4);
        return new AttentionSpec(
            kvHeads * s_groups[random.Next(s_groups.Length)],
            kvHeads,
            s_headDims[random.Next(s_headDims.Length)],
            s_pageSizes[random.Next(s_pageSizes.Length)],
            random.Next(2) == 0 ? DType.Float16 : DType.BFloat16,
            random.Next(4) switch
            {
                0 => DType.Float8E4M3,
                1 => DType.Float8E5M2,
                _ => null,
            },
            random.Next(2) == 0 ? KvLayout.Nhd : KvLayout.Hnd,
            random.Next(4) == 0 ? AttentionVariant.Of(AttentionOptions.LogitsSoftCap) : null
        );
    }

    /// <summary>A random tree, and sequences beside it, in some steps.</summary>
    /// <returns>The most levels that a step used.</returns>
    public static int Check(Device device, int seed)
    {
        AttentionSpec spec = Draw(seed);
        return spec.Dtype == DType.Float16
            ? Check(device, spec, seed, x => (Half)x, x => (float)x)
            : Check<BFloat16>(device, spec, seed, x => (BFloat16)x, x => x);
    }

    private static int Check<T>(Device device, AttentionSpec spec, int seed, Func<float, T> from, Func<T, float> to)
        where T : unmanaged
    {
        Random random = new(seed * 7);
        using CascadeScenario<T> scenario = new(device, spec, pages: (6000 / spec.PageSize) + 100, seed, from, to);
        int[] branches = [.. Enumerable.Range(0, random.Next(1, 4)).Select(_ => random.Next(1, 4))];
        List<Sequence> batch =
        [
            .. scenario.Grow(
                branches,
                level => level < branches.Length ? random.Next(spec.PageSize, spec.PageSize + 70) : random.Next(0, 40)
            ),
        ];
        if (random.Next(2) == 0)
        {
            batch.Insert(random.Next(batch.Count + 1), scenario.New(random.Next(0, 150)));
        }

        int levels = 0;
        for (int step = 0; step < 2; step++)
        {
            Sequence[] sequences = [.. batch];
            int[] newTokens = [.. batch.Select(_ => random.Next(3) == 0 ? random.Next(0, 20) : 1)];
            int[]? queryTokens = random.Next(2) == 0 ? null : [.. batch.Select(s => random.Next(4) == 0 ? random.Next(0, 60) : 1)];
            int used = scenario.Step(
                sequences,
                newTokens,
                queryTokens,
                causal: random.Next(4) != 0,
                maxLevels: random.Next(2, 5),
                softCap: spec.Variant is null ? 0 : 0.5f + random.NextSingle()
            );
            levels = Math.Max(levels, used);

            // Neighbours that are none: what is shared is found where it is, or not at all.
            random.Shuffle(CollectionsMarshal.AsSpan(batch));
        }

        return levels;
    }
}
