namespace FlashInfer.Tests.Attention;

public class CpuPrefillTests
{
    [Fact]
    public void Random_shapes_agree_with_the_oracle()
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        for (int i = 0; i < 30; i++)
        {
            DecodeCase drawn = PrefillScenario.Draw(seed + i, tokens: 400);
            PrefillScenario.CheckPaged(device, drawn);
            PrefillScenario.CheckRagged(device, drawn);
        }
    }

    [Fact]
    public void Batch_invariant_results_have_the_same_bits_in_every_batch()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        BatchInvariance.Check(device, new AttentionSpec(2, 1, 64, 16, DType.BFloat16), maxQueryTokens: 9, prefill: true, comparisons: 500);
    }

    [Theory]
    [InlineData(Determinism.Reproducible)]
    [InlineData(Determinism.BatchInvariant)]
    public void A_few_query_tokens_on_a_long_sequence_are_split_and_merged(Determinism determinism)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        int seed = Random.Shared.Next();
        DecodeCase one = new(4, 1, 64, 16, DType.BFloat16, KvLayout.Hnd, 1, [8000], null, 1, seed)
        {
            QueryTokens = [5],
            Determinism = determinism,
        };
        DecodeCase several = new(3, 1, 128, 5, DType.Float16, KvLayout.Nhd, 1, [9001, 0, 17, 40], null, 4, seed)
        {
            QueryTokens = [30, 3, 17, 60],
            Determinism = determinism,
            Causal = false,
        };
        Assert.Equal(1, PrefillScenario.CheckPaged(device, one).SplitSequences);
        Assert.Equal(1, PrefillScenario.CheckPaged(device, several).SplitSequences);
        int ragged = determinism == Determinism.BatchInvariant ? 0 : 1;
        Assert.Equal(ragged, PrefillScenario.CheckRagged(device, one).SplitSequences);
        Assert.Equal(ragged, PrefillScenario.CheckRagged(device, several).SplitSequences);
    }

    [Theory]
    [InlineData(DType.Float16)]
    [InlineData(DType.BFloat16)]
    public void Values_of_another_size_agree_with_the_oracle(DType dtype)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        int seed = Random.Shared.Next();
        foreach ((int heads, int kvHeads) in ((int, int)[])[(2, 2), (6, 2), (8, 1)])
        {
            // Whole prompts, chunks, single tokens, more query tokens than tokens; one that is cut.
            DecodeCase one = new(heads, kvHeads, 192, 16, dtype, KvLayout.Nhd, 1, [70, 0, 33, 129, 3, 1500], null, 1, seed++)
            {
                QueryTokens = [70, 2, 1, 40, 5, 2],
                ValueDim = 128,
            };
            PrefillScenario.CheckRagged(device, one);
            PrefillScenario.CheckRagged(device, one with { Causal = false, Determinism = Determinism.BatchInvariant });
            PrefillScenario.CheckRagged(device, one.With(AttentionOptions.Sinks | AttentionOptions.SlidingWindow));
        }
    }

    [Fact]
    public void Single_tokens_among_chunks_agree_with_the_oracle()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2 });
        int[] lengths = [300, 17, 500, 1, 90, 64, 420, 33];
        DecodeCase mixed = new(8, 2, 64, 16, DType.Float16, KvLayout.Nhd, 2, lengths, null, 1, Random.Shared.Next())
        {
            QueryTokens = [1, 17, 130, 1, 1, 1, 200, 2],
        };
        PrefillScenario.CheckPaged(device, mixed);
        PrefillScenario.CheckRagged(device, mixed);
    }
}
