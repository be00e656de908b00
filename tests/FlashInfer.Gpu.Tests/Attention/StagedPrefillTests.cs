using FlashInfer.Cuda;
using FlashInfer.Tests;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>Prefill over staged keys and values through the public API, whatever the planner would choose.</summary>
public sealed class StagedPrefillTests
{
    // At the edges of tiles and blocks: whole prompts, chunks, single tokens, none, and more query tokens than tokens.
    private static readonly int[] s_lengths = [1, 63, 64, 65, 0, 111, 112, 113, 128, 129, 191, 193, 385, 700, 1024, 300, 40];
    private static readonly int[] s_queryTokens = [1, 63, 64, 65, 2, 0, 112, 1, 100, 129, 191, 193, 385, 1, 300, 300, 60];

    [Theory]
    [InlineData(4, 4, 64)]
    [InlineData(6, 2, 96)]
    [InlineData(8, 2, 128)]
    [InlineData(7, 1, 192)]
    [InlineData(8, 1, 256)]
    public void Every_head_dimension_agrees_with_the_oracle(int heads, int kvHeads, int headDim)
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        DecodeCase plain = new(heads, kvHeads, headDim, 16, DType.BFloat16, KvLayout.Nhd, 2, s_lengths, null, 1, seed)
        {
            QueryTokens = s_queryTokens,
            Stages = true,
        };
        DecodeCase half = plain with { Dtype = DType.Float16, KvLayout = KvLayout.Hnd, Causal = false };
        Check(
            device,
            [
                plain with
                {
                    PageSize = 1,
                },
                half with
                {
                    PageSize = 5,
                },
                plain with
                {
                    KvDtype = DType.Float8E4M3,
                },
                half with
                {
                    KvDtype = DType.Float8E5M2,
                    PageSize = 1,
                },
                plain.With(AttentionOptions.Rope),
                half.With(AttentionOptions.RopeInterleaved),
                (plain with { PageSize = 5 }).With(AttentionOptions.Rope, rotaryDim: headDim / 4),
                (plain with { KvDtype = DType.Float8E4M3 }).With(AttentionOptions.RopeInterleaved),
                (half with { KvDtype = DType.Float8E5M2, PageSize = 3 }).With(AttentionOptions.Rope, rotaryDim: 24),
            ]
        );
    }

    /// <summary>Of ragged keys and values, only keys that turn are staged.</summary>
    [Theory]
    [InlineData(4, 4, 64, 64)]
    [InlineData(6, 2, 96, 96)]
    [InlineData(8, 2, 128, 128)]
    [InlineData(7, 1, 192, 192)]
    [InlineData(16, 16, 192, 128)]
    [InlineData(8, 1, 256, 256)]
    public void Ragged_keys_agree_with_the_oracle(int heads, int kvHeads, int headDim, int valueDim)
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        DecodeCase plain = new(heads, kvHeads, headDim, 16, DType.BFloat16, KvLayout.Nhd, 1, s_lengths, null, 1, Random.Shared.Next())
        {
            QueryTokens = s_queryTokens,
            ValueDim = valueDim,
            Stages = true,
        };
        DecodeCase[] cases =
        [
            plain.With(AttentionOptions.Rope),
            (plain with { Dtype = DType.Float16, Causal = false }).With(AttentionOptions.RopeInterleaved, rotaryDim: 24),
            plain.With(AttentionOptions.Rope | AttentionOptions.SlidingWindow, window: 100),
        ];
        Gpu.Load(device, Gpu.By(cases, GridApi.Ragged));
        foreach (DecodeCase one in cases)
        {
            Assert.True(PrefillScenario.CheckRagged(device, one).StagedTokens > 0, $"{one} stages nothing");
        }

        // The rows of some, with others behind them.
        Assert.InRange(PrefillScenario.CheckRagged(device, cases[0] with { MaxStagedTokens = 1500 }).StagedTokens, 1000, 1500);

        // The planner's own choice, and single tokens, which it does not stage.
        DecodeCase prompt = Of(queryTokens: 2000);
        Assert.Equal(2000, PrefillScenario.CheckRagged(device, prompt).StagedTokens);
        PrefillScenario.CheckSingle(device, prompt);
        Assert.Equal(0, PrefillScenario.CheckRagged(device, Of(queryTokens: 1)).StagedTokens);

        DecodeCase Of(int queryTokens) =>
            (plain with { Lengths = [2000], QueryTokens = [queryTokens], Stages = null }).With(AttentionOptions.Rope, rotaryDim: 0);
    }

    [Theory]
    [InlineData(600)]
    [InlineData(450)]
    public void Ragged_plans_that_stage_and_plans_that_do_not_follow_each_other_in_one_graph(int room)
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        const int Rows = 600;
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16, variant: AttentionVariant.Of(AttentionOptions.Rope));
        double[] frequencies = RopeFrequencies.Llama(rotaryDim: 128);
        using BatchPrefillWithRaggedKvCache captured = new(device, spec, 8, Rows, maxStagedTokens: room);
        using BatchPrefillWithRaggedKvCache never = new(device, spec, 8, Rows, maxStagedTokens: 0);
        using DeviceTensor<BFloat16> kv = Draw(device, Rows, 2);
        using DeviceTensor<BFloat16> query = Draw(device, Rows, 8);
        using DeviceTensor<BFloat16> replayed = device.Allocate<BFloat16>(Rows, 8, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(Rows, 8, 128);
        CudaGraph? graph = null;
        foreach (
            (int[] qoIndptr, int[] kvIndptr, bool stages) in ((int[], int[], bool)[])
                [
                    ([0, 600], [0, 600], true),
                    ([0, 1, 2], [0, 300, 600], false),
                    ([0, 100, 300, 310], [0, 100, 400, 600], true),
                    ([0, 100, 300, 310], [0, 100, 400, 600], false),
                    ([0, 0, 60], [0, 500, 600], true),
                ]
        )
        {
            VariantArguments<OptionArguments> arguments = new(new OptionArguments { RopeFrequencies = frequencies });
            captured.Stages = stages;
            captured.Plan(qoIndptr, kvIndptr, arguments);
            never.Plan(qoIndptr, kvIndptr, arguments);
            int staged = Enumerable.Range(0, qoIndptr.Length - 1).Where(Fits).Sum(i => kvIndptr[i + 1] - kvIndptr[i]);
            Assert.Equal(stages ? staged : 0, captured.PlanInfo.StagedTokens);
            if (graph is null)
            {
                captured.Run(query.View, kv.View, kv.View, replayed.View);
                device.Stream!.BeginCapture();
                captured.Run(query.View, kv.View, kv.View, replayed.View);
                graph = device.Stream.EndCapture();
            }

            int rows = qoIndptr[^1];
            int tokens = kvIndptr[^1];
            replayed.View.CopyFrom([.. Enumerable.Repeat((BFloat16)float.NaN, Rows * 8 * 128)]);
            graph.Launch(device.Stream!);
            TensorView some = kv.View.Rows(0, tokens);
            never.Run(query.View.Rows(0, rows), some, some, direct.View.Rows(0, rows));
            float[] actual = [.. replayed.View.Rows(0, rows).ToArray().Select(x => (float)x)];
            double[] expected = [.. direct.View.Rows(0, rows).ToArray().Select(x => (double)x)];
            double error = ErrorNorms.Relative(actual, expected);
            Assert.True(error < 0.01, $"[{string.Join(", ", qoIndptr)}], stages {stages}: {error:E2} off");

            bool Fits(int sequence) => qoIndptr[sequence + 1] > qoIndptr[sequence] && kvIndptr[sequence + 1] <= room;
        }

        graph!.Dispose();
    }

    [Fact]
    public void Variants_agree_with_the_oracle()
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        DecodeCase gathered = new(8, 2, 128, 1, DType.BFloat16, KvLayout.Nhd, 1, s_lengths, null, 1, Random.Shared.Next())
        {
            QueryTokens = s_queryTokens,
            Stages = true,
        };
        DecodeCase quantised = gathered with { PageSize = 16, KvDtype = DType.Float8E4M3 };
        DecodeCase[] cases =
        [
            gathered.With(AttentionOptions.SlidingWindow, window: 100),
            gathered.With(AttentionOptions.Alibi | AttentionOptions.Sinks),
            gathered.With(AttentionOptions.PackedCustomMask),
            quantised.With(AttentionOptions.SlidingWindow | AttentionOptions.LogitsSoftCap, window: 100),
            quantised.With(AttentionOptions.Rope | AttentionOptions.SlidingWindow, window: 300),
            (gathered with { PageSize = 16 }).With(AttentionOptions.Rope | AttentionOptions.MultiItemScoring),
        ];
        Check(device, cases);
    }

    /// <summary>Cut and merged in the workspace that both kernels use; on what the planner stages and what it does not.</summary>
    [Theory]
    [InlineData(1, null, 128)]
    [InlineData(16, DType.Float8E4M3, 128)]
    [InlineData(16, DType.Float8E4M3, 256)]
    public void Long_sequences_and_single_tokens_beside_them_agree_with_the_oracle(int pageSize, DType? kvDtype, int headDim)
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        DecodeCase few = new(8, 2, headDim, pageSize, DType.BFloat16, KvLayout.Hnd, 1, [20_000, 7], null, 1, Random.Shared.Next(), kvDtype)
        {
            QueryTokens = [16, 7],
        };
        Assert.Equal(0, PrefillScenario.CheckPaged(device, few).StagedTokens);
        Assert.Equal(1, PrefillScenario.CheckPaged(device, few with { Stages = true }).SplitSequences);

        int[] lengths = [3000, .. Enumerable.Range(0, 20).Select(i => 300 + (i * 17))];
        DecodeCase mixed = few with { Lengths = lengths, QueryTokens = [3000, .. Enumerable.Repeat(1, 20)] };
        Assert.Equal(lengths.Sum(), PrefillScenario.CheckPaged(device, mixed with { Stages = true }).StagedTokens);

        // The planner's own choice: on the way it pays later, as the first tiles wait.
        int prompt = pageSize == 1 ? 6000 : 3000;
        Assert.Equal(prompt, PrefillScenario.CheckPaged(device, mixed with { Lengths = [prompt], QueryTokens = [prompt] }).StagedTokens);

        // One of two, either of which the other kernel cuts, or this one.
        DecodeCase one = few with
        {
            Lengths = [20_000, 600],
            QueryTokens = [16, 600],
            Stages = true,
        };
        foreach ((int room, int staged) in ((int, int)[])[(600, 600), (20_000, 600)])
        {
            (_, int split, long tokens) = PrefillScenario.CheckPaged(device, one with { MaxStagedTokens = room });
            Assert.Equal((1, staged), (split, tokens));
        }

        DecodeCase two = one with { Lengths = [600, 20_000], QueryTokens = [1, 100], MaxStagedTokens = 20_000 };
        Assert.Equal(20_000, PrefillScenario.CheckPaged(device, two).StagedTokens);

        // The planner's own choice: a chunk is staged, single tokens beside it are not; what is only gathered is not worth a launch more.
        DecodeCase served = few with
        {
            Lengths = [4000, .. Enumerable.Repeat(2500, 30)],
            QueryTokens = [3000, .. Enumerable.Repeat(1, 30)],
        };
        Assert.Equal(pageSize == 1 ? 0 : 4000, PrefillScenario.CheckPaged(device, served).StagedTokens);
    }

    [Theory]
    [InlineData(1, null, AttentionOptions.None)]
    [InlineData(16, DType.Float8E4M3, AttentionOptions.None)]
    [InlineData(16, null, AttentionOptions.Rope)]
    public void Plans_that_stage_and_plans_that_do_not_follow_each_other_in_one_graph(
        int pageSize,
        DType? kvDtype,
        AttentionOptions options
    )
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        StagedScenario.CheckPlans(device, Shape(pageSize, kvDtype), options);
    }

    [Fact]
    public void Checked_mode_tells_what_staging_finds_in_the_page_table()
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context, null, new DeviceOptions { IsChecked = true });
        StagedScenario.CheckPoisoned(device, Shape(pageSize: 5));
        DecodeCase one = Shape(pageSize: 1) with { Lengths = s_lengths, QueryTokens = s_queryTokens, Stages = true };
        Check(device, [one, (one with { PageSize = 16, KvDtype = DType.Float8E5M2 }).With(AttentionOptions.Rope)]);
    }

    [Fact]
    public void A_step_allocates_nothing()
    {
        using CudaContext context = Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(8, 2, 128, 1, DType.BFloat16), 1, 700);
        using PrefillWrapper prefill = new(cache, 64, 640, Determinism.Reproducible) { Stages = true };
        Sequence[] sequences = [.. Enumerable.Range(0, 64).Select(_ => cache.NewSequence())];
        int[] tens = [.. sequences.Select(_ => 10)];
        using DeviceTensor<BFloat16> kv = device.Allocate<BFloat16>(640, 2, 128);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(640, 8, 128);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(640, 8, 128);
        long allocated = 0;
        for (int step = 0; step < 10; step++)
        {
            cache.BeginForward(sequences, tens);
            prefill.Stages = step % 2 == 1;
            long before = GC.GetAllocatedBytesForCurrentThread();
            prefill.Plan(sequences, null, null, true);
            prefill.Append(0, kv.View, kv.View);
            prefill.Run(0, query.View, output.View, default);
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            cache.AbandonForward(sequences);
        }

        device.Synchronize();
        Assert.Equal(0, allocated);
    }

    private static DecodeCase Shape(int pageSize, DType? kvDtype = null) =>
        new(8, 2, 128, pageSize, DType.BFloat16, KvLayout.Nhd, 2, [], null, 1, Random.Shared.Next(), kvDtype);

    private static CudaContext Require()
    {
        CudaContext context = Gpu.Require();
        Assert.SkipWhen(
            context.Architecture != CudaUnits.StagedArchitecture,
            $"Only {CudaUnits.StagedArchitecture} stages keys and values."
        );
        return context;
    }

    private static DeviceTensor<BFloat16> Draw(Device device, int rows, int heads)
    {
        Random random = new(rows + heads);
        DeviceTensor<BFloat16> tensor = device.Allocate<BFloat16>(rows, heads, 128);
        tensor.View.CopyFrom([.. Enumerable.Range(0, rows * heads * 128).Select(_ => (BFloat16)((random.NextSingle() * 2) - 1))]);
        return tensor;
    }

    private static void Check(Device device, DecodeCase[] cases)
    {
        Gpu.Load(device, Gpu.By(cases, GridApi.Paged));
        foreach (DecodeCase one in cases)
        {
            Assert.True(PrefillScenario.CheckPaged(device, one).StagedTokens > 0, $"{one} stages nothing");
            DecodeCase some = one with { MaxStagedTokens = 1500 };
            Assert.True(PrefillScenario.CheckPaged(device, some).StagedTokens is > 0 and <= 1500, $"{some} stages too much or nothing");
        }
    }
}
