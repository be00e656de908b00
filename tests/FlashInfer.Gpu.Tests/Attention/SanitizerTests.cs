using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>Small cases that touch every branch of the kernels: what compute-sanitizer runs (trait Sanitizer), at a fraction of its time.</summary>
[Trait("Sanitizer", "yes")]
public class SanitizerTests
{
    [Theory]
    [InlineData(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd)]
    [InlineData(9, 1, 64, 5, DType.Float16, KvLayout.Hnd)]
    [InlineData(2, 2, 256, 64, DType.BFloat16, KvLayout.Nhd)]
    [InlineData(3, 1, 128, 1, DType.Float16, KvLayout.Nhd)]
    [InlineData(8, 2, 96, 16, DType.BFloat16, KvLayout.Hnd)]
    [InlineData(4, 1, 192, 16, DType.Float16, KvLayout.Nhd)]
    [InlineData(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, DType.Float8E4M3)]
    [InlineData(5, 1, 64, 5, DType.Float16, KvLayout.Hnd, DType.Float8E4M3)]
    [InlineData(9, 1, 96, 16, DType.Float16, KvLayout.Nhd, DType.Float8E5M2)]
    [InlineData(2, 2, 192, 64, DType.BFloat16, KvLayout.Hnd, DType.Float8E5M2)]
    [InlineData(3, 1, 256, 1, DType.Float16, KvLayout.Nhd, DType.Float8E4M3)]
    [InlineData(32, 1, 128, 16, DType.BFloat16, KvLayout.Nhd)]
    [InlineData(71, 1, 64, 5, DType.Float16, KvLayout.Hnd)]
    public void Every_branch(int heads, int kvHeads, int headDim, int pageSize, DType dtype, KvLayout layout, DType? kvDtype = null)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        foreach (
            int[] lengths in (int[][])
                [
                    [1, 0, 17, 300],
                    [1500],
                ]
        )
        {
            DecodeCase one = new(heads, kvHeads, headDim, pageSize, dtype, layout, 1, lengths, null, 1, seed, kvDtype) { Wide = true };
            DecodeScenario.Check(device, one);
            DecodeScenario.Check(device, one with { QueryTokens = [.. lengths.Select((_, i) => 4 - (i % 2))] });
        }
    }

    [Theory]
    [InlineData(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd)]
    [InlineData(6, 2, 64, 5, DType.Float16, KvLayout.Hnd)]
    [InlineData(2, 2, 256, 64, DType.BFloat16, KvLayout.Hnd)]
    [InlineData(3, 1, 96, 1, DType.Float16, KvLayout.Nhd)]
    [InlineData(4, 1, 192, 16, DType.BFloat16, KvLayout.Nhd)]
    [InlineData(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, DType.Float8E4M3)]
    [InlineData(3, 1, 64, 1, DType.Float16, KvLayout.Hnd, DType.Float8E5M2)]
    public void Every_branch_of_prefill(
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        DType dtype,
        KvLayout layout,
        DType? kvDtype = null
    )
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        foreach (
            (int[] lengths, int[] queryTokens, bool causal) in ((int[], int[], bool)[])
                [
                    ([1, 0, 17, 130, 40], [1, 2, 17, 130, 3], true),
                    ([200, 33], [5, 40], false),
                    ([1500], [3], true), // cut, and merged
                ]
        )
        {
            DecodeCase one = new(heads, kvHeads, headDim, pageSize, dtype, layout, 1, lengths, null, 1, seed, kvDtype)
            {
                QueryTokens = queryTokens,
                Causal = causal,
            };
            PrefillScenario.CheckPaged(device, one);
            PrefillScenario.CheckPaged(device, one with { Stages = true });
            PrefillScenario.CheckRagged(device, one);
        }
    }

    [Theory]
    [InlineData(AttentionOptions.LogitsSoftCap, 16)]
    [InlineData(AttentionOptions.LogitsSoftCap, 1)]
    [InlineData(AttentionOptions.LogitsSoftCap | AttentionOptions.SlidingWindow, 5)]
    [InlineData(AttentionOptions.PackedCustomMask, 16)]
    [InlineData(AttentionOptions.CustomMask | AttentionOptions.Sinks, 16)]
    [InlineData(AttentionOptions.MultiItemScoring, 16)]
    [InlineData(AttentionOptions.Alibi, 1)]
    [InlineData(AttentionOptions.Rope, 16)]
    public void Every_option_of_prefill(AttentionOptions options, int pageSize)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        DecodeCase one = new(8, 2, 128, pageSize, DType.BFloat16, KvLayout.Nhd, 1, [300, 0, 130], null, 1, Random.Shared.Next())
        {
            QueryTokens = [200, 0, 3],
        };
        DecodeCase varied = one.With(options);
        PrefillScenario.CheckPaged(device, varied);
        PrefillScenario.CheckRagged(device, varied);
    }
}
