using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

public partial class DecodeTests
{
    /// <summary>Cases of the random test; a variable, so that a long run needs no new build.</summary>
    private static int Cases => int.TryParse(Environment.GetEnvironmentVariable("FLASHINFER_GPU_CASES"), out int cases) ? cases : 60;

    [Fact]
    public void Random_shapes_agree_with_the_oracle()
    {
        using CudaContext context = Gpu.Require();
        int seed = Random.Shared.Next();
        ScenarioErrors half = default;
        ScenarioErrors bfloat = default;
        foreach (DecodeCase[] drawn in DecodeCase.DrawPairs(seed, Cases, one => DecodeCase.Draw(one, tokens: 2500)).Chunk(20))
        {
            // A device for a few cases: what its kernels hold is given back in between.
            using Device device = Device.FromCuda(context);
            foreach (IGrouping<DType, DecodeCase> alike in drawn.GroupBy(one => one.Dtype))
            {
                ref ScenarioErrors worst = ref alike.Key == DType.Float16 ? ref half : ref bfloat;
                worst = ScenarioErrors.Worst(worst, Gpu.Check(device, Gpu.By(alike, GridApi.Decode)));
            }
        }

        Gpu.Report("decode Float16", $"worst of {Cases} random shapes, seed {seed}", half);
        Gpu.Report("decode BFloat16", $"worst of {Cases} random shapes, seed {seed}", bfloat);
    }

    [Fact]
    public void Long_and_skewed_batches_are_split_and_merged()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        foreach (
            int[] lengths in (int[][])
                [
                    [20_001],
                    [5000, 0, 17, 4096, 1],
                    [.. Enumerable.Repeat(40, 300)],
                    [16_000, .. Enumerable.Range(0, 40).Select(i => i * 16)],
                ]
        )
        {
            foreach (Determinism determinism in Enum.GetValues<Determinism>())
            {
                int[]? queryTokens = determinism == Determinism.Reproducible ? null : [.. lengths.Select((_, i) => 1 + (i % 4))];
                DecodeCase bfloat = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Hnd, 1, lengths, null, 1, seed);
                DecodeCase half = new(3, 1, 64, 1, DType.Float16, KvLayout.Nhd, 1, lengths, null, 4, seed);
                DecodeScenario.Check(device, bfloat with { QueryTokens = queryTokens, Determinism = determinism });
                DecodeScenario.Check(device, half with { QueryTokens = queryTokens, Determinism = determinism });
            }
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(8)]
    public void Several_query_tokens_agree_with_the_oracle(int queryTokens)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        List<DecodeCase> cases = [];
        foreach (
            (int heads, int kvHeads, int headDim) in ((int, int, int)[])[(8, 8, 64), (12, 4, 128), (32, 4, 128), (71, 1, 64), (16, 2, 256)]
        )
        {
            foreach (bool causal in (bool[])[true, false])
            {
                // More query tokens than the sequence has, lengths around a tile's edge, and one that is cut.
                int[] lengths = [0, 1, 3, 15, 16, 17, 64, 129, 6000];
                DecodeCase several = new(heads, kvHeads, headDim, 16, DType.BFloat16, KvLayout.Nhd, 1, lengths, null, 1, seed)
                {
                    QueryTokens = [.. lengths.Select((_, i) => i % 3 == 2 ? 1 + (i % queryTokens) : queryTokens)],
                    Causal = causal,
                };
                cases.Add(several);
                cases.Add(several with { PageSize = 5, Dtype = DType.Float16, Lengths = [777], QueryTokens = [queryTokens] });
            }
        }

        Gpu.Check(device, Gpu.By(cases, GridApi.Decode));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void Short_sequences_whose_units_teams_take_agree_with_the_oracle(int queryTokens)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int[] lengths = [.. Enumerable.Range(0, 700).Select(i => i % 257)];
        DecodeCase many = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, lengths, null, 1, Random.Shared.Next())
        {
            QueryTokens = [.. lengths.Select((_, i) => 1 + (i % queryTokens))],
        };
        DecodeScenario.Check(device, many);
        DecodeScenario.Check(device, many with { HeadDim = 64, PageSize = 5, Dtype = DType.Float16 });
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void Batch_invariant_results_have_the_same_bits_in_every_batch(int maxQueryTokens)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        BatchInvariance.Check(device, new AttentionSpec(8, 2, 128, 16, DType.BFloat16), maxQueryTokens, comparisons: 300);
        BatchInvariance.Check(device, new AttentionSpec(32, 1, 128, 16, DType.BFloat16), maxQueryTokens, comparisons: 100);
        BatchInvariance.Check(device, new AttentionSpec(4, 4, 256, 8, DType.BFloat16), maxQueryTokens, comparisons: 100);
        BatchInvariance.Check(device, new AttentionSpec(32, 4, 128, 1, DType.BFloat16), maxQueryTokens, comparisons: 100);
    }

    [Fact]
    public void The_portable_kernels_agree_with_the_oracle_on_this_device_too()
    {
        using CudaContext context = Gpu.Require();
        string portable = $"sm_{context.ComputeCapabilityMajor}{context.ComputeCapabilityMinor}";
        Assert.SkipWhen(context.Architecture == portable, $"The kernels for {portable} are the portable ones.");
        int seed = Random.Shared.Next();
        using Device device = Device.FromCuda(context, null, new DeviceOptions { Architecture = portable });
        Gpu.Check(device, Gpu.By(Enumerable.Range(seed, 12).Select(one => DecodeCase.Draw(one, tokens: 2500)), GridApi.Decode));
        int[] lengths = [16_000, .. Enumerable.Range(0, 40).Select(i => i * 16)];
        DecodeCase skewed = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, lengths, null, 1, seed);
        DecodeScenario.Check(device, skewed);
        using PagedKvCache cache = new(device, skewed.Spec, 1, 1);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        decode.Plan([cache.NewSequence()]);
        Assert.Contains($"({portable},", decode.PlanInfo.Kernel, StringComparison.Ordinal);
    }

    [Fact]
    public void An_architecture_that_the_device_does_not_run_is_refused()
    {
        using CudaContext context = Gpu.Require();
        ArgumentException e = Assert.Throws<ArgumentException>(() =>
            Device.FromCuda(context, null, new DeviceOptions { Architecture = "sm_75" })
        );
        Assert.Contains("The architecture is sm_75", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_head_dimension_and_cache_type_agrees_with_the_oracle()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        Gpu.Check(
            device,
            Gpu.By(
                from headDim in (int[])[64, 96, 128, 192, 256]
                from dtype in (DType[])[DType.Float16, DType.BFloat16]
                from kvDtype in (DType[])[dtype, DType.Float8E4M3, DType.Float8E5M2]
                // Pages that the copy engine takes, and pages that it does not: each with every head dimension and every cache type.
                let pageSize = dtype == DType.Float16 ? 5 : 16
                select new DecodeCase(8, 2, headDim, pageSize, dtype, KvLayout.Nhd, 1, [1, 0, 700, 16, 33], null, 1, seed, kvDtype),
                GridApi.Decode
            )
        );
    }

    [Fact]
    public void Every_pattern_is_stored_in_a_quantised_cache_as_its_quotient_rounds()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        QuantisedScenario.StoresEveryPattern(device);
    }

    [Fact]
    public void Scales_apply_to_what_is_stored()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        QuantisedScenario.ScalesApplyToWhatIsStored(device);
    }

    [Fact]
    public void Extreme_logits_give_the_value_of_the_largest()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        Workbench bench = new(device, [33, 700], fill: i => i % 128 == 0 ? 1 : 0);
        // Every key is alike, so the output is the mean of the values whatever the logits' size: ±1e4 must not overflow.
        foreach (float scale in (float[])[1e4f, -1e4f, 0])
        {
            (BFloat16[] output, float[] lse) = bench.Run(scale);
            Assert.All(output, x => Assert.False(BFloat16.IsNaN(x)));
            Assert.All(lse, x => Assert.True(float.IsFinite(x)));
        }

        bench.Dispose();
    }

    [Fact]
    public void Results_have_the_same_bits_every_time()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using Workbench bench = new(device, [9000, 1, 777, 0, 3000], Normals(1));
        (BFloat16[] first, float[] firstLse) = bench.Run(null);
        for (int i = 0; i < 5; i++)
        {
            (BFloat16[] again, float[] lse) = bench.Run(null);
            Assert.Equal(first.Select(x => x.Bits), again.Select(x => x.Bits));
            Assert.Equal(firstLse, lse);
        }
    }

    [Fact]
    public void A_captured_step_replays_new_plans()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16);
        using PagedKvCache cache = new(device, spec, layers: 2, pages: 400);
        using BatchDecodeWithPagedKvCache decode = new(cache, maxSequences: 8);
        Sequence[] sequences = [.. Enumerable.Range(0, 3).Select(_ => cache.NewSequence())];
        using DeviceTensor<BFloat16> key = device.Allocate<BFloat16>(3, 2, 128);
        using DeviceTensor<BFloat16> value = device.Allocate<BFloat16>(3, 2, 128);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(3, 8, 128);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(3, 8, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(3, 8, 128);
        Prefill(cache, sequences, [5, 900, 2000]);

        CudaGraph? graph = null;
        for (int step = 0; step < 40; step++)
        {
            key.View.CopyFrom(Draw(key.Shape, step));
            value.View.CopyFrom(Draw(value.Shape, step + 100));
            query.View.CopyFrom(Draw(query.Shape, step + 200));
            cache.BeginForward(sequences, [1, 1, 1]);
            decode.Plan(sequences);
            if (graph is null)
            {
                device.Stream!.BeginCapture();
                Step(decode, key, value, query, output);
                graph = device.Stream.EndCapture();
            }

            graph.Launch(device.Stream!);
            for (int layer = 0; layer < 2; layer++)
            {
                decode.Run(layer, query.View, direct.View);
            }

            Assert.Equal(direct.View.ToArray().Select(x => x.Bits), output.View.ToArray().Select(x => x.Bits));
            cache.EndForward(sequences);
        }

        graph!.Dispose();
    }

    [Theory]
    [InlineData(8, 2, 128, 1, 1700, 8)] // few units of some length: clusters of 8
    [InlineData(3, 1, 64, 7, 1300, 8)]
    [InlineData(8, 2, 128, 1, 512, 8)]
    [InlineData(12, 1, 128, 1, 600, 8)] // two tiles of columns, the last one not full
    [InlineData(8, 2, 128, 1, 500, 4)] // shorter ones: clusters of 4
    [InlineData(4, 2, 256, 2, 400, 4)]
    [InlineData(12, 1, 128, 1, 300, 4)]
    [InlineData(32, 8, 128, 1, 777, 4)] // too many units for two launches in clusters of 8
    [InlineData(32, 8, 128, 5, 1000, 2)] // units for about half of the multiprocessors: clusters of 2
    [InlineData(21, 21, 64, 2, 4000, 2)]
    public void Units_shared_in_clusters_agree_with_the_oracle(int heads, int kvHeads, int headDim, int batch, int length, int cluster)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        foreach (int pageSize in (int[])[16, 5])
        {
            int[] lengths = [.. Enumerable.Range(0, batch).Select(i => length - i)];
            DecodeCase clustered = new(heads, kvHeads, headDim, pageSize, DType.BFloat16, KvLayout.Nhd, 2, lengths, null, 1, seed);
            DecodeScenario.Check(device, clustered);
            using PagedKvCache cache = new(device, clustered.Spec, 1, 4096);
            using BatchDecodeWithPagedKvCache decode = new(cache);
            Sequence[] sequences = [.. lengths.Select(_ => cache.NewSequence())];
            cache.BeginForward(sequences, lengths);
            decode.Plan(sequences);
            Assert.Equal(context.ComputeCapabilityMajor == 9 ? cluster : 1, decode.PlanInfo.Cluster);
        }
    }

    [Fact]
    public void A_step_captured_with_clusters_replays_plans_of_any_shape()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(8, 2, 128, 16, DType.BFloat16), 1, 2000);
        using BatchDecodeWithPagedKvCache captured = new(cache);
        using BatchDecodeWithPagedKvCache fresh = new(cache);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(3, 8, 128);
        using DeviceTensor<BFloat16> replayed = device.Allocate<BFloat16>(3, 8, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(3, 8, 128);
        query.CopyFrom(Draw(query.Shape, 5));
        CudaGraph? graph = null;
        foreach (
            int[] lengths in (int[][])
                [
                    [512, 512, 512],
                    [1, 17, 3],
                    [9000, 40, 512],
                    [2048, 2047, 2046],
                ]
        )
        {
            Sequence[] sequences = [.. lengths.Select(_ => cache.NewSequence())];
            Prefill(cache, sequences, lengths);
            captured.Plan(sequences);
            if (graph is null)
            {
                captured.Run(0, query.View, replayed.View);
                device.Stream!.BeginCapture();
                captured.Run(0, query.View, replayed.View);
                graph = device.Stream.EndCapture();
            }

            graph.Launch(device.Stream!);
            fresh.Plan(sequences);
            fresh.Run(0, query.View, direct.View);
            double[] expected = [.. direct.ToArray().Select(x => (double)(float)x)];
            Assert.True(FlashInfer.Tests.Oracle.ErrorNorms.Relative([.. replayed.ToArray().Select(x => (float)x)], expected) < 4e-3);
            foreach (Sequence sequence in sequences)
            {
                cache.Free(sequence);
            }
        }

        graph!.Dispose();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void A_captured_step_replays_plans_for_blocks_and_for_teams(int queryTokens)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(8, 2, 128, 16, DType.BFloat16), 1, 12_000);
        using BatchDecodeWithPagedKvCache captured = new(cache, 700, queryTokens);
        using BatchDecodeWithPagedKvCache fresh = new(cache, 700, queryTokens);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(700 * queryTokens, 8, 128);
        using DeviceTensor<BFloat16> replayed = device.Allocate<BFloat16>(700 * queryTokens, 8, 128);
        query.CopyFrom(Draw(query.Shape, 5));
        CudaGraph? graph = null;
        foreach (
            int[] lengths in (int[][])
                [
                    [.. Enumerable.Range(0, 700).Select(i => i % 200)], // teams
                    [9000, .. Enumerable.Range(0, 40).Select(i => i * 30)], // blocks, with a sequence that is cut
                    [.. Enumerable.Range(0, 600).Select(i => 1 + (i % 64))],
                    [3],
                ]
        )
        {
            Sequence[] sequences = [.. lengths.Select(_ => cache.NewSequence())];
            Sequence[] filled = [.. sequences.Where((_, i) => lengths[i] > 0)];
            Prefill(cache, filled, [.. lengths.Where(length => length > 0)]);
            int[] tokens = [.. lengths.Select((_, i) => i % 7 == 6 ? 0 : 1 + (i % queryTokens))];
            int rows = tokens.Sum();
            captured.Plan(sequences, tokens);
            if (graph is null)
            {
                // The graph's tensors have the rows of the largest step; what the plan does not name is left alone.
                TensorView<BFloat16> largest = query.View.Rows(0, rows);
                captured.Run(0, largest, replayed.View.Rows(0, rows));
                device.Stream!.BeginCapture();
                captured.Run(0, largest, replayed.View.Rows(0, rows));
                graph = device.Stream.EndCapture();
            }

            graph.Launch(device.Stream!);
            using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(rows, 8, 128);
            fresh.Plan(sequences, tokens);
            fresh.Run(0, query.View.Rows(0, rows), direct.View);
            double[] expected = [.. direct.ToArray().Select(x => (double)(float)x)];
            Assert.True(
                FlashInfer.Tests.Oracle.ErrorNorms.Relative([.. replayed.View.Rows(0, rows).ToArray().Select(x => (float)x)], expected)
                    < 4e-3
            );
            foreach (Sequence sequence in sequences)
            {
                cache.Free(sequence);
            }
        }

        graph!.Dispose();
    }

    [Fact]
    public void A_captured_verification_replays_other_drafts()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(8, 2, 128, 16, DType.BFloat16), 1, 400);
        using BatchDecodeWithPagedKvCache decode = new(cache, maxSequences: 8, maxQueryTokens: 4);
        Sequence[] sequences = [.. Enumerable.Range(0, 3).Select(_ => cache.NewSequence())];
        using DeviceTensor<BFloat16> kv = device.Allocate<BFloat16>(12, 2, 128);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(12, 8, 128);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(12, 8, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(12, 8, 128);
        Prefill(cache, sequences, [5, 900, 2000]);
        CudaGraph? graph = null;
        for (int step = 0; step < 20; step++)
        {
            kv.View.CopyFrom(Draw(kv.Shape, step));
            query.View.CopyFrom(Draw(query.Shape, step + 200));
            cache.BeginForward(sequences, [4, 4, 4]);
            decode.Plan(sequences, [4, 4, 4]);
            if (graph is null)
            {
                device.Stream!.BeginCapture();
                decode.Append(0, kv.View, kv.View);
                decode.Run(0, query.View, output.View);
                graph = device.Stream.EndCapture();
            }

            graph.Launch(device.Stream!);
            decode.Run(0, query.View, direct.View);
            Assert.Equal(direct.View.ToArray().Select(x => x.Bits), output.View.ToArray().Select(x => x.Bits));
            cache.EndForward(sequences, [step % 5, (step + 2) % 5, 4]);
        }

        graph!.Dispose();
    }

    /// <summary>Launches overlap, and only tokens of earlier steps may be read before the launch before is done.</summary>
    [Fact]
    public void Tokens_of_a_step_are_read_after_they_are_written()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(32, 8, 128, 16, DType.BFloat16), 16, 200);
        using BatchDecodeWithPagedKvCache decode = new(cache, maxSequences: 4);
        Sequence[] sequences = [.. Enumerable.Range(0, 4).Select(_ => cache.NewSequence())];
        using DeviceTensor<BFloat16> kv = device.Allocate<BFloat16>(4, 8, 128);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(4, 32, 128);
        using DeviceTensor<BFloat16> outputs = device.Allocate<BFloat16>(4 * cache.Layers, 32, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(4, 32, 128);
        Prefill(cache, sequences, [1, 31, 500, 900]);
        query.View.CopyFrom(Draw(query.Shape, 1));
        CudaGraph? graph = null;
        for (int step = 0; step < 20; step++)
        {
            // Large keys: a query that missed its step's token would give something else.
            kv.View.CopyFrom([.. Draw(kv.Shape, step + 2).Select(x => (BFloat16)(4 * (float)x))]);
            cache.BeginForward(sequences, [1, 1, 1, 1]);
            decode.Plan(sequences);
            if (graph is null)
            {
                // In a graph the launches stand close together.
                device.Stream!.BeginCapture();
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    decode.Append(layer, kv.View, kv.View);
                    decode.Run(layer, query.View, outputs.View.Rows(4 * layer, 4));
                }

                graph = device.Stream.EndCapture();
            }

            graph.Launch(device.Stream!);
            for (int layer = 0; layer < cache.Layers; layer++)
            {
                device.Synchronize();
                decode.Run(layer, query.View, direct.View);
                Assert.Equal(direct.View.ToArray().Select(x => x.Bits), outputs.View.Rows(4 * layer, 4).ToArray().Select(x => x.Bits));
            }

            cache.EndForward(sequences);
        }

        graph!.Dispose();
    }

    [Fact]
    public void Planning_inside_a_capture_is_refused_and_the_capture_can_end()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(8, 2, 128, 16, DType.BFloat16), 1, 8);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Sequence sequence = cache.NewSequence();
        device.Stream!.BeginCapture();
        Exception refused = Assert.Throws<InvalidOperationException>(() => decode.Plan([sequence]));
        Assert.Contains("outside the capture", refused.Message, StringComparison.Ordinal);
        device.Stream.EndCapture().Dispose();
        Assert.Throws<StalePlanException>(() => decode.Run(0, default(TensorView), default));
        decode.Plan([sequence]);
    }

    [Fact]
    public void A_step_allocates_nothing()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(8, 2, 128, 16, DType.BFloat16), 1, 256);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Sequence[] sequences = [.. Enumerable.Range(0, 64).Select(_ => cache.NewSequence())];
        int[] ones = [.. sequences.Select(_ => 1)];
        Prefill(cache, sequences, [.. sequences.Select((_, i) => i + 1)]);
        using DeviceTensor<BFloat16> kv = device.Allocate<BFloat16>(64, 2, 128);
        using DeviceTensor<BFloat16> q = device.Allocate<BFloat16>(64, 8, 128);
        using DeviceTensor<BFloat16> o = device.Allocate<BFloat16>(64, 8, 128);
        long allocated = 0;
        for (int step = 0; step < 20; step++)
        {
            cache.BeginForward(sequences, ones);
            long before = GC.GetAllocatedBytesForCurrentThread();
            decode.Plan(sequences);
            decode.Append(0, kv.View, kv.View);
            decode.Run(0, q.View, o.View);
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            cache.EndForward(sequences);
        }

        device.Synchronize();
        Assert.Equal(0, allocated);
    }

    [Fact]
    public void Another_librarys_stream_and_memory_work_without_a_copy()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream theirs = new(context);
        using CudaStream borrowed = CudaStream.FromHandle(context, theirs.Handle);
        using Device device = Device.FromCuda(context, borrowed);
        DecodeScenario.Check(
            device,
            new DecodeCase(4, 4, 128, 16, DType.Float16, KvLayout.Nhd, 2, [100, 17], null, 1, Random.Shared.Next())
        );
    }

    private static Func<int, float> Normals(int seed)
    {
        Random random = new(seed);
        return _ => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
    }

    private static BFloat16[] Draw(TensorShape shape, int seed)
    {
        Func<int, float> normal = Normals(seed);
        return [.. Enumerable.Range(0, (int)shape.Elements).Select(i => (BFloat16)normal(i))];
    }

    private static void Prefill(PagedKvCache cache, Sequence[] sequences, int[] lengths)
    {
        cache.BeginForward(sequences, lengths);
        for (int layer = 0; layer < cache.Layers; layer++)
        {
            using DeviceTensor<BFloat16> key = cache.Device.Allocate<BFloat16>(lengths.Sum(), cache.Spec.KvHeads, cache.Spec.HeadDim);
            key.View.CopyFrom(Draw(key.Shape, layer));
            cache.Append(layer, sequences, key.View, key.View);
        }

        cache.EndForward(sequences);
    }

    private static void Step(
        BatchDecodeWithPagedKvCache decode,
        DeviceTensor<BFloat16> key,
        DeviceTensor<BFloat16> value,
        DeviceTensor<BFloat16> query,
        DeviceTensor<BFloat16> output
    )
    {
        for (int layer = 0; layer < 2; layer++)
        {
            decode.Append(layer, key.View, value.View);
            decode.Run(layer, query.View, output.View);
        }
    }

    /// <summary>A filled cache of 8 heads on 2 KV heads and one planned step over it.</summary>
    private sealed class Workbench : IDisposable
    {
        private readonly Device _device;
        private readonly PagedKvCache _cache;
        private readonly BatchDecodeWithPagedKvCache _decode;
        private readonly Sequence[] _sequences;
        private readonly DeviceTensor<BFloat16> _query;

        public Workbench(Device device, int[] lengths, Func<int, float> fill)
        {
            _device = device;
            AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16);
            _cache = new PagedKvCache(device, spec, 1, lengths.Sum(length => (length + 15) / 16));
            _sequences = [.. lengths.Select(_ => _cache.NewSequence())];
            Sequence[] filled = [.. _sequences.Where((_, i) => lengths[i] > 0)];
            _cache.BeginForward(filled, [.. lengths.Where(length => length > 0)]);
            using DeviceTensor<BFloat16> key = device.Allocate<BFloat16>(lengths.Sum(), 2, 128);
            key.View.CopyFrom([.. Enumerable.Range(0, (int)key.Shape.Elements).Select(i => (BFloat16)fill(i))]);
            _cache.Append(0, filled, key.View, key.View);
            _cache.EndForward(filled);
            _decode = new BatchDecodeWithPagedKvCache(_cache);
            _query = device.Allocate<BFloat16>(lengths.Length, 8, 128);
            _query.View.CopyFrom([.. Enumerable.Range(0, (int)_query.Shape.Elements).Select(i => (BFloat16)fill(i))]);
        }

        public (BFloat16[] Output, float[] Lse) Run(float? smScale)
        {
            using DeviceTensor<BFloat16> output = _device.Allocate<BFloat16>(_sequences.Length, 8, 128);
            using DeviceTensor<float> lse = _device.Allocate<float>(_sequences.Length, 8);
            _decode.Plan(_sequences, smScale);
            _decode.Run(0, _query.View, output.View, lse.View);
            return (output.View.ToArray(), lse.View.ToArray());
        }

        public void Dispose()
        {
            _query.Dispose();
            _decode.Dispose();
            _cache.Dispose();
        }
    }
}
