namespace FlashInfer.Tests;

/// <summary>Runs a case of either element type through prefill, paged or ragged, and holds it against the project's tolerances.</summary>
internal static class PrefillScenario
{
    private static readonly int[] s_groups = [1, 1, 2, 3, 4, 4, 5, 7, 8, 8, 12, 71];
    private static readonly int[] s_pageSizes = [1, 5, 16, 16, 24, 64, 64, 128];
    private static readonly int[] s_headDims = [64, 96, 128, 128, 192, 256];
    private static readonly int[] s_edges = [0, 1, 2, 15, 17, 31, 33, 63, 64, 65, 79, 81, 127, 128, 129, 175, 176, 177, 191, 192, 193, 257];

    /// <summary>Draws a case whose sequences have about this many tokens together: whole prompts, chunks of prompts, single tokens, none.</summary>
    public static DecodeCase Draw(int seed, int tokens)
    {
        Random random = new(seed);
        int group = s_groups[random.Next(s_groups.Length)];
        int kvHeads = group > 8 ? 1 : random.Next(1, 4);
        int sequences = random.Next(1, 8);
        int[] lengths = [.. Enumerable.Range(0, sequences).Select(_ => Length(random, tokens / sequences))];
        return new DecodeCase(
            group * kvHeads,
            kvHeads,
            s_headDims[random.Next(s_headDims.Length)],
            s_pageSizes[random.Next(s_pageSizes.Length)],
            random.Next(2) == 0 ? DType.Float16 : DType.BFloat16,
            random.Next(2) == 0 ? KvLayout.Nhd : KvLayout.Hnd,
            random.Next(1, 3),
            lengths,
            random.Next(3) == 0 ? 0.03f + (random.NextSingle() * 0.3f) : null,
            random.Next(4) == 0 ? 4 : 1,
            seed,
            random.Next(4) switch
            {
                0 => DType.Float8E4M3,
                1 => DType.Float8E5M2,
                _ => null,
            }
        )
        {
            QueryTokens = random.Next(4) switch
            {
                0 => lengths,
                _ => [.. lengths.Select((length, i) => QueryTokens(random, i == 0 ? Math.Max(1, length) : length))],
            },
            Causal = random.Next(3) != 0,
            Determinism = random.Next(3) == 0 ? Determinism.BatchInvariant : Determinism.Reproducible,
        };
    }

    /// <summary>
    /// Prompts and chunks of heads of which one thread turns all that turns: a row of the query for each thread, where a consumer has half
    /// as many rows.
    /// </summary>
    public static DecodeCase FewElementsTurn(AttentionOptions rope, int headDim, int rotaryDim, int seed) =>
        new DecodeCase(12, 4, headDim, 16, DType.BFloat16, KvLayout.Nhd, 1, [300, 64, 65, 129, 700], null, 1, seed)
        {
            QueryTokens = [300, 1, 65, 100, 250],
        }.With(rope, rotaryDim: rotaryDim);

    /// <summary>Over the pages of a cache, appended to by the wrapper.</summary>
    /// <returns>The errors, how many sequences the plan cut, and how many tokens it staged.</returns>
    public static (ScenarioErrors Errors, int SplitSequences, long StagedTokens) CheckPaged(Device device, DecodeCase prefillCase) =>
        prefillCase.Dtype == DType.Float16
            ? CheckPaged(device, prefillCase, x => (Half)x, x => (float)x)
            : CheckPaged<BFloat16>(device, prefillCase, x => (BFloat16)x, x => x);

    /// <summary>Over ragged keys and values; what the case says of pages does not matter.</summary>
    /// <returns>As of <see cref="CheckPaged(Device, DecodeCase)"/>.</returns>
    public static (ScenarioErrors Errors, int SplitSequences, long StagedTokens) CheckRagged(Device device, DecodeCase prefillCase) =>
        prefillCase.Dtype == DType.Float16
            ? CheckRagged(device, prefillCase, RaggedApi.Batch, x => (Half)x, x => (float)x)
            : CheckRagged<BFloat16>(device, prefillCase, RaggedApi.Batch, x => (BFloat16)x, x => x);

    /// <summary>A case of one sequence, without index pointers and a plan.</summary>
    public static ScenarioErrors CheckSingle(Device device, DecodeCase single)
    {
        RaggedApi how = single.QueryTokens is null ? RaggedApi.SingleDecode : RaggedApi.SinglePrefill;
        DecodeCase one = single with { QueryTokens = single.QueryTokens ?? [1] };
        return one.Dtype == DType.Float16
            ? CheckRagged(device, one, how, x => (Half)x, x => (float)x).Item1
            : CheckRagged<BFloat16>(device, one, how, x => (BFloat16)x, x => x).Item1;
    }

    private static (ScenarioErrors, int, long) CheckPaged<T>(Device device, DecodeCase prefillCase, Func<float, T> from, Func<T, float> to)
        where T : unmanaged
    {
        PagedScenario<T> scenario = new(device, prefillCase, true, from, to);
        ScenarioErrors errors = scenario.Run().Check(prefillCase.Dtype, $"paged, {prefillCase}", prefillCase.RoundsTwice(device));
        return (errors, scenario.SplitSequences, scenario.StagedTokens);
    }

    private static (ScenarioErrors, int, long) CheckRagged<T>(
        Device device,
        DecodeCase prefillCase,
        RaggedApi how,
        Func<float, T> from,
        Func<T, float> to
    )
        where T : unmanaged
    {
        RaggedScenario<T> scenario = new(device, prefillCase, how, from, to);
        ScenarioErrors errors = scenario.Run().Check(prefillCase.Dtype, $"{how}, {prefillCase}", prefillCase.RoundsTwice(device));
        return (errors, scenario.SplitSequences, scenario.StagedTokens);
    }

    /// <summary>Half of the lengths stand at a tile's or a page's edge, the others anywhere (log-uniform).</summary>
    private static int Length(Random random, int tokens) =>
        random.Next(2) == 0
            ? Math.Min(s_edges[random.Next(s_edges.Length)], 2 * tokens)
            : (int)Math.Exp(random.NextDouble() * Math.Log(Math.Max(2, tokens * 2)));

    private static int QueryTokens(Random random, int length) =>
        random.Next(8) switch
        {
            0 => 0,
            1 or 2 => 1,
            3 => length + random.Next(1, 40),
            4 or 5 => length,
            _ => random.Next(1, length + 1),
        };
}
