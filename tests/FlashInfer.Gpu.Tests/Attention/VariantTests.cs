using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

public class VariantTests
{
    private const int Cases = 8;

    // A variant's kernels are its own, so each of these tests has a hundred and more: those of all variants are compiled at the same time.

    [Fact]
    public void Random_shapes_agree_with_the_oracle()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        Gpu.Check(
            device,
            TestVariant.All.SelectMany(
                (variant, i) => Draw(seed + (i * Cases), Cases, one => one.With(variant), GridApi.Paged, GridApi.Ragged)
            )
        );
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Usual_shapes_agree_with_the_oracle_on_this_device_and_by_the_portable_kernels(bool isPortable)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Open(context, isPortable);
        int seed = Random.Shared.Next();
        List<(GridApi, DecodeCase)> cases = [];
        foreach (TestVariant variant in TestVariant.All)
        {
            bool all = variant == TestVariant.All[^1];
            foreach (int headDim in all && !isPortable ? [64, 128, 256] : (int[])[128])
            {
                // Whole prompts, chunks, and single tokens on long sequences, which are split.
                DecodeCase steps = new DecodeCase(
                    8,
                    2,
                    headDim,
                    16,
                    DType.BFloat16,
                    KvLayout.Nhd,
                    1,
                    [2500, 300, 129, 0, 64],
                    null,
                    1,
                    seed
                )
                {
                    QueryTokens = [3, 300, 100, 1, 1],
                }.With(variant);
                DecodeCase tokens = (steps with { QueryTokens = [1, 4, 2, 1, 1], Lengths = [6000, 33, 5, 0, 1] }).With(variant);
                cases.Add((GridApi.Decode, tokens));
                cases.Add((GridApi.Paged, steps));
                cases.Add((GridApi.Paged, steps with { Causal = false }));
                if (all)
                {
                    cases.Add((GridApi.Paged, steps with { KvDtype = DType.Float8E4M3 }));
                }

                cases.Add((GridApi.Paged, steps with { Determinism = Determinism.BatchInvariant }));
                cases.Add((GridApi.Ragged, steps));
            }
        }

        Gpu.Check(device, cases);
    }

    /// <summary>Variants as users write them, by the kernels of this device and by the portable ones.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_catalogue_agrees_with_the_oracle(bool isPortable)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Open(context, isPortable);
        int seed = Random.Shared.Next();
        Gpu.Check(
            device,
            [
                .. Gpu.By(CatalogueCase.Names.Select(name => CatalogueCase.Decode(name, seed)), GridApi.Decode),
                .. Gpu.By(CatalogueCase.Names.Select(name => CatalogueCase.Prefill(name, seed)), GridApi.Paged, GridApi.Ragged),
            ]
        );
    }

    /// <summary>Logits of all sizes: prefill bends small ones by a cubic, whose error the log-sum-exp would show first.</summary>
    [Fact]
    public void Soft_caps_of_small_and_large_logits_agree_with_the_oracle()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        List<(GridApi, DecodeCase)> cases = [];
        foreach (
            (int heads, int kvHeads, int headDim, DType dtype) in new[]
            {
                (32, 8, 64, DType.BFloat16),
                (32, 8, 128, DType.BFloat16),
                (4, 4, 128, DType.Float16),
                (8, 2, 256, DType.Float16),
            }
        )
        {
            foreach (float sharpness in new[] { 1f, 2f, 2.5f, 3f, 4f, 5f })
            {
                DecodeCase one = new(
                    heads,
                    kvHeads,
                    headDim,
                    16,
                    dtype,
                    KvLayout.Nhd,
                    1,
                    [512, 81],
                    sharpness / MathF.Sqrt(headDim),
                    1,
                    seed
                )
                {
                    QueryTokens = [128, 81],
                };
                cases.Add((GridApi.Paged, one.With(AttentionOptions.LogitsSoftCap, cap: 30)));
                cases.Add((GridApi.Paged, (one with { Causal = false }).With(AttentionOptions.LogitsSoftCap, cap: 50)));
            }
        }

        Gpu.Report("soft cap", $"logits of all sizes, seed {seed}", Gpu.Check(device, cases));
    }

    /// <summary>
    /// Each option alone, all pairs that go together, and all at once: over the usual cache, and over caches of all kinds, of which each option
    /// meets most, those of pages whose tokens are gathered and of 8-bit elements among them. One sequence is split.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Options_agree_with_the_oracle(bool anyCache)
    {
        using CudaContext context = Gpu.Require();
        int seed = Random.Shared.Next();
        using Device device = Device.FromCuda(context);
        (DecodeCase Steps, DecodeCase Tokens)[] cases =
        [
            .. OptionCase.Sets.Select(
                (options, i) =>
                {
                    DecodeCase usual = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, [5000, 300, 129, 0, 64], null, 1, seed + i)
                    {
                        QueryTokens = [3, 300, 100, 1, 1],
                    };
                    DecodeCase one = anyCache ? OfAnyCache(usual) : usual;
                    return (one.With(options), (one with { QueryTokens = [3, 4, 2, 1, 1] }).With(options));
                }
            ),
        ];
        List<(GridApi, DecodeCase)> others =
        [
            .. Gpu.By(cases.Select(one => one.Steps), GridApi.Ragged),
            .. Gpu.By(cases.Select(one => one.Tokens), GridApi.Decode),
        ];
        Gpu.Load(device, [.. Gpu.By(cases.Select(one => one.Steps), GridApi.Paged), .. others]);
        int split = 0;
        Assert.Multiple([
            .. cases.Select<(DecodeCase Steps, DecodeCase), Action>(one =>
                () => split += PrefillScenario.CheckPaged(device, one.Steps).SplitSequences
            ),
            () => Gpu.Check(device, others),
        ]);
        Assert.True(split > 0, $"no sequence was split, from seed {seed} on");
    }

    /// <summary>The case over another cache.</summary>
    private static DecodeCase OfAnyCache(DecodeCase of)
    {
        Random random = new(of.Seed);
        return of with
        {
            HeadDim = Of(64, 96, 128, 192, 256),
            PageSize = Of(1, 5, 16, 24, 64),
            Dtype = Of(DType.Float16, DType.BFloat16),
            KvLayout = Of(KvLayout.Nhd, KvLayout.Hnd),
            KvDtype = Of<DType?>(null, DType.Float8E4M3, DType.Float8E5M2),
            Determinism = Of(Determinism.Reproducible, Determinism.BatchInvariant),
        };

        T Of<T>(params T[] all) => all[random.Next(all.Length)];
    }

    /// <summary>Variants in decode of more columns than its own kernel holds, which is prefill's kernel.</summary>
    [Theory]
    [InlineData(71, 1, 1, null)]
    [InlineData(32, 8, 8, null)]
    [InlineData(24, 1, 2, null)]
    [InlineData(71, 1, 1, DType.Float8E4M3)] // the portable kernel
    public void Many_columns_agree_with_the_oracle(int heads, int kvHeads, int queryTokens, DType? kvDtype)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int[] lengths = [3000, 0, 1, 17, 129, 700];
        DecodeCase one = new(heads, kvHeads, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, lengths, null, 1, Random.Shared.Next(), kvDtype)
        {
            QueryTokens = [.. lengths.Select((_, i) => i % 3 == 2 ? 1 : queryTokens)],
            Wide = true,
        };
        DecodeCase[] cases =
        [
            .. TestVariant.All.Select(one.With),
            .. OptionCase.Sets.Where(options => int.PopCount((int)options) != 2).Select(options => one.With(options)),
        ];
        Gpu.Check(device, Gpu.By(cases, GridApi.Decode));
    }

    /// <summary>Fewer keys a step than without another option: three stages of them would not fit.</summary>
    [Fact]
    public void Wide_heads_turn_in_decode_of_many_columns()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        DecodeCase one = new(12, 1, 192, 5, DType.Float16, KvLayout.Nhd, 1, [3000, 17, 129, 700], null, 1, Random.Shared.Next())
        {
            QueryTokens = [8, 8, 1, 8],
            Wide = true,
        };

        Gpu.Check(device, Gpu.By([one.With(AttentionOptions.RopeInterleaved | AttentionOptions.SlidingWindow)], GridApi.Decode));
    }

    /// <summary>Keys turn in registers in decode, and in prefill where they are quantised; else in shared memory: shapes of all kinds.</summary>
    [Theory]
    [InlineData(AttentionOptions.Rope)]
    [InlineData(AttentionOptions.RopeInterleaved | AttentionOptions.SlidingWindow)]
    public void Keys_that_turn_agree_with_the_oracle_in_random_shapes(AttentionOptions options)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        Gpu.Check(device, Draw(seed, 2 * Cases, one => one.With(options), GridApi.Paged));
    }

    [Theory]
    [InlineData(AttentionOptions.Rope, 64, 16)]
    [InlineData(AttentionOptions.RopeInterleaved, 64, 8)]
    [InlineData(AttentionOptions.RopeInterleaved, 128, 16)]
    public void Few_elements_turn(AttentionOptions rope, int headDim, int rotaryDim)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        DecodeCase one = PrefillScenario.FewElementsTurn(rope, headDim, rotaryDim, Random.Shared.Next());

        PrefillScenario.CheckPaged(device, one);
        PrefillScenario.CheckRagged(device, one);
    }

    [Fact]
    public void A_captured_step_replays_the_arguments_of_each_plan()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16, variant: Variant("Everything"));
        using PagedKvCache cache = new(device, spec, 1, 200);
        using BatchDecodeWithPagedKvCache captured = new(cache);
        using BatchDecodeWithPagedKvCache fresh = new(cache);
        using DeviceTensor<BFloat16> tokens = Draw(device, 1500, 2);
        using DeviceTensor<BFloat16> query = Draw(device, 2, 8);
        using DeviceTensor<BFloat16> replayed = device.Allocate<BFloat16>(2, 8, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(2, 8, 128);
        Sequence[] sequences = [cache.NewSequence(), cache.NewSequence()];
        cache.BeginForward(sequences, [1000, 500]);
        cache.Append(0, sequences, tokens.View, tokens.View);
        cache.EndForward(sequences);

        float[] slopes = [.. Enumerable.Range(0, 1024).Select(i => i * 0.01f)];
        Plan(captured, 400, slopes);
        captured.Run(0, query.View, replayed.View);
        device.Stream!.BeginCapture();
        captured.Run(0, query.View, replayed.View);
        using CudaGraph graph = device.Stream.EndCapture();
        List<string> results = [];
        foreach (int window in (int[])[400, 3, 100])
        {
            Plan(captured, window, slopes);
            graph.Launch(device.Stream!);
            Plan(fresh, window, slopes);
            fresh.Run(0, query.View, direct.View);
            Assert.Equal(direct.ToArray().Select(x => x.Bits), replayed.ToArray().Select(x => x.Bits));
            results.Add(string.Join(' ', replayed.ToArray().Select(x => x.Bits)));
        }

        Assert.Equal(3, results.Distinct().Count());
        Assert.Contains(
            "Plan with the largest arguments before capturing",
            Assert.Throws<InvalidOperationException>(() => Plan(captured, 1, new float[5000])).Message,
            StringComparison.Ordinal
        );

        void Plan(BatchDecodeWithPagedKvCache decode, int window, float[] slopes) =>
            decode.Plan(sequences, new VariantArguments<TestArguments>(new TestArguments { Slopes = slopes, Window = window }));
    }

    /// <summary>Random cases of decode, and as many of prefill.</summary>
    private static IEnumerable<(GridApi, DecodeCase)> Draw(
        int seed,
        int cases,
        Func<DecodeCase, DecodeCase> vary,
        params GridApi[] prefill
    ) =>
        [
            .. Gpu.By(DecodeCase.DrawPairs(seed, cases, one => DecodeCase.Draw(one, tokens: 3000)).Select(vary), GridApi.Decode),
            .. Gpu.By(DecodeCase.DrawPairs(seed, cases, one => PrefillScenario.Draw(one, tokens: 1500)).Select(vary), prefill),
        ];

    /// <summary>A device with its own kernels, or with those that every GPU has.</summary>
    private static Device Open(CudaContext context, bool isPortable) =>
        Device.FromCuda(
            context,
            null,
            new DeviceOptions { Architecture = isPortable ? $"sm_{context.ComputeCapabilityMajor}{context.ComputeCapabilityMinor}" : null }
        );

    private static TestVariant Variant(string name) => TestVariant.All.Single(variant => variant.ToString() == name);

    private static DeviceTensor<BFloat16> Draw(Device device, int rows, int heads)
    {
        Random random = new(rows);
        DeviceTensor<BFloat16> tensor = device.Allocate<BFloat16>(rows, heads, 128);
        tensor.View.CopyFrom([.. Enumerable.Range(0, rows * heads * 128).Select(_ => (BFloat16)((random.NextSingle() * 4) - 2))]);
        return tensor;
    }
}
