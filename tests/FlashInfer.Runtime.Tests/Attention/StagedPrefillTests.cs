namespace FlashInfer.Tests.Attention;

/// <summary>What the wrapper does about staged keys and values, with <see cref="StagingOnCpu"/> and the CPU's ragged prefill.</summary>
public sealed class StagedPrefillTests
{
    [Theory]
    [InlineData(1, null)]
    [InlineData(5, null)]
    [InlineData(16, DType.Float8E4M3)]
    [InlineData(1, DType.Float8E5M2)]
    public void Random_shapes_agree_with_the_oracle(int pageSize, DType? kvDtype)
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        for (int i = 0; i < 8; i++)
        {
            DecodeCase drawn = PrefillScenario.Draw(seed + i, tokens: 400) with
            {
                PageSize = pageSize,
                KvDtype = kvDtype,
                Determinism = Determinism.Reproducible,
                Stages = true,
            };
            int expected = drawn.Lengths.Where((_, at) => drawn.QueryTokens![at] > 0).Sum();
            Assert.Equal(expected, PrefillScenario.CheckPaged(device, drawn).StagedTokens);
            Assert.Equal(expected, PrefillScenario.CheckRagged(device, drawn).StagedTokens);

            // Some beside others, which the other kernel attends to.
            DecodeCase some = drawn with
            {
                MaxStagedTokens = Math.Max(1, expected / 2),
            };
            Assert.InRange(PrefillScenario.CheckPaged(device, some).StagedTokens, 0, some.MaxStagedTokens.Value);
            Assert.InRange(PrefillScenario.CheckRagged(device, some).StagedTokens, 0, some.MaxStagedTokens.Value);
        }
    }

    [Theory]
    [InlineData(AttentionOptions.SlidingWindow)]
    [InlineData(AttentionOptions.SlidingWindow | AttentionOptions.Sinks | AttentionOptions.Alibi)]
    [InlineData(AttentionOptions.PackedCustomMask)]
    [InlineData(AttentionOptions.MultiItemScoring)]
    public void Variants_agree_with_the_oracle(AttentionOptions options)
    {
        using Device device = Device.OpenCpu();
        DecodeCase one = Of(900, 0, 33, 700, 64);

        long staged = PrefillScenario.CheckPaged(device, one).StagedTokens;
        Assert.Equal(staged, PrefillScenario.CheckRagged(device, one).StagedTokens);

        // Only what the window leaves in, from a block's first token on.
        Assert.Equal(options.HasFlag(AttentionOptions.SlidingWindow), staged < one.Lengths.Sum());
        Assert.True(staged > 33 + 64 + 70 + 200, $"{one}: {staged}");

        // A part, whose sequences have other places in it than in the batch.
        Assert.InRange(PrefillScenario.CheckPaged(device, one with { MaxStagedTokens = 300 }).StagedTokens, 33, 300);
        one = Of(200, 0, 33, 700, 64) with { MaxStagedTokens = 300 };
        Assert.InRange(PrefillScenario.CheckRagged(device, one).StagedTokens, 33, 300);

        DecodeCase Of(params int[] lengths) =>
            new DecodeCase(4, 2, 64, 5, DType.BFloat16, KvLayout.Nhd, 2, lengths, null, 1, Random.Shared.Next())
            {
                QueryTokens = [70, 2, 33, 1, 20],
                Stages = true,
            }.With(options, window: 100);
    }

    [Theory]
    [InlineData(5, null)]
    [InlineData(16, DType.Float8E4M3)]
    public void Plans_that_stage_and_plans_that_do_not_follow_each_other(int pageSize, DType? kvDtype)
    {
        using Device device = Device.OpenCpu();
        StagedScenario.CheckPlans(device, Shape(pageSize, kvDtype));
    }

    [Fact]
    public void A_poisoned_page_table_is_told_with_call_layer_sequence_token_and_page()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { IsChecked = true });
        StagedScenario.CheckPoisoned(device, Shape(pageSize: 5));
        StagedScenario.CheckPoisoned(device, Shape(pageSize: 5), room: 400); // of which a part is read to stage
    }

    [Fact]
    public void Memory_is_taken_by_the_first_plan_that_stages()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(4, 2, 64, 1, DType.BFloat16, DType.Float8E4M3), 1, 1500);
        using PrefillWrapper prefill = new(cache, 4, 1000, Determinism.Reproducible);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 1000);
        foreach ((int queryTokens, long expected) in ((int, long)[])[(1, 0), (400, 1500 * 2 * 256), (1, 1500 * 2 * 256)])
        {
            prefill.Plan([sequence], [queryTokens], null, true);

            Assert.Equal(expected, prefill.StagedBytes);
        }

        cache.AbandonForward(sequence);
    }

    [Fact]
    public void Chunks_are_staged_and_single_tokens_beside_them_are_not()
    {
        using Device device = Device.OpenCpu();
        DecodeCase one = new(4, 2, 64, 16, DType.BFloat16, KvLayout.Nhd, 1, [.. Enumerable.Repeat(2000, 13)], null, 1, Random.Shared.Next())
        {
            KvDtype = DType.Float8E4M3,
            QueryTokens = [1, 1, 1, 600, 1, 1, 1, 600, 1, 1, 1, 1, 1],
        };

        Assert.Equal(4000, PrefillScenario.CheckPaged(device, one).StagedTokens);
    }

    [Fact]
    public void Single_tokens_over_a_quantised_cache_go_to_the_kernel_of_decode()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        AttentionSpec spec = new(8, 8, 64, 16, DType.BFloat16, DType.Float8E4M3);
        using PagedKvCache cache = new(device, spec, 1, 2500);
        using PrefillWrapper prefill = new(cache, 8, 2000, Determinism.Reproducible);
        using PrefillWrapper alone = new(cache, 8, 2000, Determinism.Reproducible, maxStagedTokens: 0);
        Sequence[] sequences = [cache.NewSequence(), .. Enumerable.Range(0, 3).Select(_ => cache.NewSequence())];
        cache.BeginForward(sequences, [1500, 11_000, 11_000, 11_000]);

        // Enough of them to be worth a launch more; or in place of one; else they stay.
        string prefills = Kernel(alone, [20, 1, 1, 1]);
        string decodes = Kernel(prefill, [1, 1, 0, 0]);
        Assert.NotEqual(prefills, decodes);
        Assert.Equal($"{prefills}, then {decodes}", Kernel(prefill, [20, 1, 1, 1]));
        Assert.Equal(prefills, Kernel(prefill, [20, 1, 0, 0]));
        Assert.Equal(prefills, Kernel(alone, [1, 1, 0, 0]));
        cache.AbandonForward(sequences);

        string Kernel(PrefillWrapper wrapper, int[] queryTokens)
        {
            wrapper.Plan(sequences, queryTokens, null, true);
            Assert.Equal(queryTokens.Sum(), wrapper.PlanInfo.Rows);
            return wrapper.PlanInfo.Kernel;
        }
    }

    [Fact]
    public void Chunks_beside_single_tokens_that_decode_takes_agree_with_the_oracle()
    {
        using Device device = Device.OpenCpu();
        DecodeCase one = new(
            8,
            8,
            64,
            16,
            DType.Float16,
            KvLayout.Hnd,
            1,
            [3000, 9000, 300, 12_000, 12_001, 0],
            null,
            1,
            Random.Shared.Next()
        )
        {
            KvDtype = DType.Float8E5M2,
            QueryTokens = [1, 1, 200, 1, 1, 2],
        };

        // Three kernels, two, and those of a window, whose sequences have other places in a part than in the batch.
        Assert.Equal(300, PrefillScenario.CheckPaged(device, one with { Stages = true, MaxStagedTokens = 300 }).StagedTokens);
        Assert.Equal(0, PrefillScenario.CheckPaged(device, one with { Stages = false }).StagedTokens);
        PrefillScenario.CheckPaged(device, one.With(AttentionOptions.SlidingWindow | AttentionOptions.Alibi, window: 5000));
    }

    [Fact]
    public void What_is_walked_often_and_has_room_is_staged()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(16, 2, 64, 1, DType.BFloat16), 1, 7500);
        using PrefillWrapper some = new(cache, 4, 1000, Determinism.Reproducible, maxStagedTokens: 5000);
        using PrefillWrapper all = new(cache, 4, 1000, Determinism.Reproducible);
        using PrefillWrapper none = new(cache, 4, 1000, Determinism.Reproducible, maxStagedTokens: 0);
        using PrefillWrapper invariant = new(cache, 4, 1000, Determinism.BatchInvariant);
        Sequence[] sequences = [cache.NewSequence(), cache.NewSequence()];
        cache.BeginForward(sequences, [5000, 1]);

        // A row of a KV head is 128 bytes, of keys and of values; there is room for what the cache holds at most. A stager has its queue.
        Assert.Equal((5000 * 2 * 256) + (4 * (4 + 79)), some.WorkspaceBytes - none.WorkspaceBytes);
        Assert.Equal((7500 * 2 * 256) + (4 * (4 + 118)), all.WorkspaceBytes - none.WorkspaceBytes);
        Assert.Equal(5000, Staged(some, [sequences[0]], [1000]));
        Assert.Equal(0, Staged(some, sequences, [999, 1])); // the first has room, but gains less than a launch of its own costs
        Assert.Equal(5001, Staged(all, sequences, [999, 1]));
        Assert.Equal(0, Staged(all, sequences, [1, 1])); // walked once
        Assert.Equal(0, Staged(none, sequences, [999, 1]));
        Assert.Equal(0, Staged(invariant, sequences, [999, 1]));
        cache.AbandonForward(sequences);

        static long Staged(PrefillWrapper wrapper, Sequence[] batch, int[] queryTokens)
        {
            wrapper.Plan(batch, queryTokens, null, true);
            return wrapper.PlanInfo.StagedTokens;
        }
    }

    [Fact]
    public void Ragged_keys_have_room_for_all_rows()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        AttentionSpec spec = new(4, 2, 64, 16, DType.BFloat16);
        using BatchPrefillWithRaggedKvCache some = Make(maxStagedTokens: 1000);
        using BatchPrefillWithRaggedKvCache none = Make(maxStagedTokens: 0);
        using BatchPrefillWithRaggedKvCache invariant = Make(maxStagedTokens: 1000, Determinism.BatchInvariant);

        Assert.Equal(1000 * 256, some.WorkspaceBytes - none.WorkspaceBytes);
        Assert.Equal(900, Staged(some, [0, 400, 401], [0, 900, 900]));
        Assert.Equal(900, Staged(some, [0, 0, 400], [0, 100, 1000])); // the first has no query token, but rows
        Assert.Equal(0, Staged(some, [0, 0, 400], [0, 101, 1001]));
        Assert.Equal(0, Staged(some, [0, 1], [0, 900])); // walked once
        Assert.Equal(0, Staged(none, [0, 400, 401], [0, 900, 900]));
        Assert.Equal(0, Staged(invariant, [0, 400, 401], [0, 900, 900]));

        BatchPrefillWithRaggedKvCache Make(int maxStagedTokens, Determinism determinism = default) =>
            new(device, spec, 4, 1000, determinism, maxStagedTokens, StagingOnCpu.For(device, spec, isPaged: false));

        static long Staged(BatchPrefillWithRaggedKvCache wrapper, int[] qoIndptr, int[] kvIndptr)
        {
            wrapper.Plan(qoIndptr, kvIndptr);
            return wrapper.PlanInfo.StagedTokens;
        }
    }

    private static DecodeCase Shape(int pageSize, DType? kvDtype = null) =>
        new(4, 2, 64, pageSize, DType.BFloat16, KvLayout.Nhd, 2, [], null, 1, Random.Shared.Next(), kvDtype);
}
