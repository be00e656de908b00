using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>Decode of more columns than its own kernel holds.</summary>
public partial class DecodeTests
{
    [Theory]
    [InlineData(32, 1, 128, 16, KvLayout.Nhd)]
    [InlineData(71, 1, 128, 16, KvLayout.Nhd)] // two consumers, whose rows no power of two divides
    [InlineData(64, 2, 64, 64, KvLayout.Hnd)]
    [InlineData(24, 1, 96, 8, KvLayout.Nhd)]
    [InlineData(32, 8, 96, 16, KvLayout.Nhd)] // units of four KV heads
    [InlineData(12, 12, 96, 32, KvLayout.Nhd)]
    [InlineData(40, 2, 192, 48, KvLayout.Hnd)]
    [InlineData(128, 1, 256, 16, KvLayout.Nhd)] // in two tiles
    [InlineData(64, 2, 128, 5, KvLayout.Nhd)] // pages that the copy engine does not take
    [InlineData(71, 1, 128, 16, KvLayout.Nhd, DType.Float8E4M3)] // a quantised cache: the portable kernel
    public void Many_heads_of_a_group_agree_with_the_oracle(
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        KvLayout layout,
        DType? kvDtype = null
    )
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        int[] lengths = [5000, 0, 1, 17, 127, 128, 129, 700, 2048];
        DecodeCase one = new(heads, kvHeads, headDim, pageSize, DType.BFloat16, layout, 2, lengths, null, 1, seed, kvDtype) { Wide = true };
        DecodeCase single = one with { Lengths = [30_000], Layers = 1 };
        Gpu.Check(
            device,
            Gpu.By(
                [
                    one,
                    one with
                    {
                        Determinism = Determinism.BatchInvariant,
                        Dtype = DType.Float16,
                    },
                    single,
                    single with
                    {
                        Lengths = [30_000, 9],
                        Amplitude = 4,
                    },
                ],
                GridApi.Decode
            )
        );
    }

    [Theory]
    [InlineData(32, 8, 8)]
    [InlineData(64, 8, 4)]
    [InlineData(24, 1, 2)]
    [InlineData(32, 1, 8)] // in two tiles
    public void Many_columns_of_several_query_tokens_agree_with_the_oracle(int heads, int kvHeads, int queryTokens)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int[] lengths = [0, 1, 3, 15, 16, 17, 64, 129, 6000];
        foreach (bool causal in (bool[])[true, false])
        {
            DecodeCase several = new(heads, kvHeads, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, lengths, null, 1, Random.Shared.Next())
            {
                QueryTokens = [.. lengths.Select((_, i) => i % 3 == 2 ? 1 + (i % queryTokens) : queryTokens)],
                Causal = causal,
                Wide = true,
            };
            DecodeScenario.Check(device, several);
        }
    }

    [Fact]
    public void The_size_of_a_batch_decides_which_kernel_many_heads_of_a_group_get()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        AttentionSpec spec = new(71, 1, 128, 16, DType.BFloat16);
        using PagedKvCache cache = new(device, spec, 1, 5_000);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        using BatchDecodeWithPagedKvCache invariant = new(cache, determinism: Determinism.BatchInvariant);
        Sequence[] few = [cache.NewSequence()];
        Sequence[] many = [.. Enumerable.Range(0, 30).Select(_ => cache.NewSequence())];
        cache.BeginForward(few, [500]);
        cache.BeginForward(many, [.. many.Select(_ => 2_000)]);

        Assert.DoesNotContain("_wide", Kernel(decode, few, null), StringComparison.Ordinal);
        Assert.Contains("_wide", Kernel(decode, many, null), StringComparison.Ordinal);
        Assert.Contains("_wide", Kernel(decode, many, 0.5f), StringComparison.Ordinal);
        // The kernel for many columns takes no such scale.
        Assert.DoesNotContain("_wide", Kernel(decode, many, -0.5f), StringComparison.Ordinal);
        Assert.DoesNotContain("_wide", Kernel(decode, many, 0), StringComparison.Ordinal);
        // What else is in the batch must not matter.
        Assert.Equal(Kernel(invariant, few, null), Kernel(invariant, many, null));
    }

    private static string Kernel(BatchDecodeWithPagedKvCache decode, Sequence[] sequences, float? scale)
    {
        decode.Plan(sequences, scale);
        return decode.PlanInfo.Kernel;
    }

    [Fact]
    public void A_step_captured_with_many_heads_of_a_group_replays_plans_of_any_size()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using PagedKvCache cache = new(device, new AttentionSpec(71, 1, 128, 16, DType.BFloat16), 1, 8_000);
        using BatchDecodeWithPagedKvCache captured = new(cache);
        using BatchDecodeWithPagedKvCache fresh = new(cache) { Wide = true };
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(40, 71, 128);
        using DeviceTensor<BFloat16> replayed = device.Allocate<BFloat16>(40, 71, 128);
        using DeviceTensor<BFloat16> direct = device.Allocate<BFloat16>(40, 71, 128);
        query.CopyFrom(Draw(query.Shape, 5));
        CudaGraph? graph = null;
        foreach (int length in (int[])[1_000, 1, 130, 3_000])
        {
            Sequence[] sequences = [.. Enumerable.Range(0, 40).Select(_ => cache.NewSequence())];
            int[] lengths = [.. sequences.Select((_, i) => length + i)];
            Prefill(cache, sequences, lengths);
            captured.Plan(sequences);
            if (graph is null)
            {
                captured.Run(0, query.View, replayed.View);
                device.Stream!.BeginCapture();
                captured.Run(0, query.View, replayed.View);
                graph = device.Stream.EndCapture();
            }

            Assert.Contains("_wide", captured.PlanInfo.Kernel, StringComparison.Ordinal);
            graph.Launch(device.Stream!);
            fresh.Plan(sequences);
            fresh.Run(0, query.View, direct.View);
            Assert.Equal(direct.View.ToArray().Select(x => x.Bits), replayed.View.ToArray().Select(x => x.Bits));
            Array.ForEach(sequences, cache.Free);
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => captured.Plan([cache.NewSequence()], -1));
        graph!.Dispose();
    }
}
