using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

public class CascadeTests
{
    private static int Cases => int.TryParse(Environment.GetEnvironmentVariable("FLASHINFER_GPU_CASES"), out int cases) ? cases : 30;

    [Fact]
    public void Random_trees_agree_with_the_oracle()
    {
        using CudaContext context = Gpu.Require();
        int seed = Random.Shared.Next();
        int levels = 0;
        foreach (int[] seeds in Enumerable.Range(seed, Cases).Chunk(15))
        {
            // A device for a few cases: what its kernels hold is given back in between.
            using Device device = Device.FromCuda(context);
            Parallel.ForEach(seeds, one => device.Kernels(CascadeScenario.Draw(one)).Load(KernelKinds.Cascade | KernelKinds.Decode));
            levels = Math.Max(levels, seeds.Max(one => CascadeScenario.Check(device, one)));
        }

        Assert.True(levels >= 3, $"no step used three levels, from seed {seed} on");
    }

    /// <summary>Long enough for parts of the shared level to be merged, with a prefix that ends inside a page.</summary>
    [Fact]
    public void A_long_prefix_is_split_and_merged()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16);
        using CascadeScenario<BFloat16> scenario = new(device, spec, pages: 2000, Random.Shared.Next(), x => (BFloat16)x, x => x);
        Sequence prefix = scenario.New(16_001);
        Sequence[] batch = [.. Enumerable.Range(0, 40).Select(_ => scenario.Fork(prefix, 100))];
        int[] ones = [.. batch.Select(_ => 1)];

        Assert.Equal(2, scenario.Step(batch, ones, null, causal: true, maxLevels: 2));
        Assert.Equal(2, scenario.Step(batch, [.. ones.Select(_ => 5)], null, causal: true, maxLevels: 2));
    }

    /// <summary>A graph replays steps of other kinds than the one that it was captured of: with shared pages, decode, prefill.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_captured_step_follows_the_plan(bool capturesShared)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using CudaStream stream = new(context);
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16);
        using PagedKvCache cache = new(device, spec, layers: 1, pages: 400);
        using MultiLevelCascadeAttention cascade = new(cache, maxSequences: 8, maxQueryTokens: 8, maxLevels: 3);
        using BatchPrefillWithPagedKvCache prefill = new(cache, maxSequences: 8, maxQueryTokens: 8);
        cascade.Costs = cascade.Costs with { Level = 0 };
        Random random = new(8);
        BFloat16[] values =
        [
            .. Enumerable.Range(0, (int)cache.KeyPages(0).Shape.Elements).Select(_ => (BFloat16)(random.NextSingle() - 0.5f)),
        ];
        cache.KeyPages(0).As<BFloat16>().CopyFrom(values);
        random.Shuffle(values);
        cache.ValuePages(0).As<BFloat16>().CopyFrom(values);
        Sequence root = Extend(cache.NewSequence(), 800);
        Sequence[] forks = [.. Enumerable.Range(0, 2).Select(_ => Extend(cache.Fork(root), 160))];
        Sequence[] shared = [.. Enumerable.Range(0, 8).Select(i => Extend(cache.Fork(forks[i / 4]), 10 + i))];
        Sequence[] apart = [.. Enumerable.Range(0, 8).Select(i => Extend(cache.NewSequence(), 100 + (9 * i)))];
        int[] ones = [1, 1, 1, 1, 1, 1, 1, 1];
        int[] several = [2, 0, 3, 0, 1, 0, 2, 0];
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(8, 8, 128);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(8, 8, 128);
        using DeviceTensor<BFloat16> expected = device.Allocate<BFloat16>(8, 8, 128);
        using DeviceTensor<float> lse = device.Allocate<float>(8, 8);
        using DeviceTensor<float> expectedLse = device.Allocate<float>(8, 8);
        query.View.CopyFrom(values.AsSpan(0, 8 * 8 * 128));
        device.Synchronize();

        cascade.Plan(capturesShared ? shared : apart, ones, stream: stream);
        Assert.Equal(capturesShared ? 3 : 1, cascade.Levels.Count);
        cascade.Run(0, query, output, lse, stream);
        stream.BeginCapture();
        cascade.Run(0, query, output, lse, stream);
        using CudaGraph graph = stream.EndCapture();
        foreach (
            (Sequence[] batch, int[] queryTokens, int levels) in new[]
            {
                (shared, ones, 3),
                (apart, ones, 1),
                (shared, several, 3),
                (apart, several, 1),
                (apart, ones, 1),
                (apart, ones, 1),
                (shared, ones, 3),
            }
        )
        {
            cascade.Plan(batch, queryTokens, stream: stream);
            Assert.Equal(levels, cascade.Levels.Count);
            graph.Launch(stream);
            prefill.Plan(batch, queryTokens, stream: stream);
            prefill.Run(0, query, expected, expectedLse, stream);
            stream.Synchronize();

            float[] actual = [.. output.View.ToArray().Select(x => (float)x)];
            double[] reference = [.. expected.View.ToArray().Select(x => (double)(float)x)];
            Assert.InRange(FlashInfer.Tests.Oracle.ErrorNorms.Relative(actual, reference), 0, 6e-3);
            Assert.All(lse.View.ToArray().Zip(expectedLse.View.ToArray()), pair => Assert.Equal(pair.Second, pair.First, 1e-4f));
        }

        // The graph holds the table's address: what would move it is refused.
        Assert.True(cache.Table.IsCaptured);

        Sequence Extend(Sequence sequence, int tokens)
        {
            cache.BeginForward(sequence, tokens);
            cache.EndForward(sequence);
            return sequence;
        }
    }
}
