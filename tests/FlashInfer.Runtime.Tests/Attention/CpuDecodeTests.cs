namespace FlashInfer.Tests.Attention;

public class CpuDecodeTests
{
    [Fact]
    public void Random_shapes_agree_with_the_oracle()
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        for (int i = 0; i < 40; i++)
        {
            DecodeScenario.Check(device, DecodeCase.Draw(seed + i, tokens: 600));
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void Batch_invariant_results_have_the_same_bits_in_every_batch(int maxQueryTokens)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        BatchInvariance.Check(device, new AttentionSpec(6, 2, 64, 16, DType.BFloat16), maxQueryTokens, comparisons: 500);
    }

    [Fact]
    public void A_long_sequence_is_split_and_merged()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        int seed = Random.Shared.Next();
        DecodeScenario.Check(device, new DecodeCase(4, 2, 64, 16, DType.BFloat16, KvLayout.Hnd, 1, [5000], null, 1, seed));
        DecodeScenario.Check(device, new DecodeCase(3, 1, 128, 5, DType.Float16, KvLayout.Nhd, 1, [3001, 0, 17], null, 4, seed));
    }
}
