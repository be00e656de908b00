using FlashInfer.Attention;

namespace FlashInfer.Tests.Attention;

public sealed class PrefillReachTests
{
    [Fact]
    public void Keys_that_threads_cannot_address_are_refused()
    {
        AttentionSpec spec = new(32, 8, 128, 5, DType.BFloat16);
        int most = (int)((32L << 30) / (5 * 8 * 128 * 2));

        CudaPrefillKernel.CheckReach(spec, most);
        string message = Assert.Throws<FlashInferException>(() => CudaPrefillKernel.CheckReach(spec, most + 1)).Message;

        Assert.Equal(
            $"Prefill on this GPU reaches 32 GiB of a layer's keys where pageSize is no multiple of 8; pageSize is 5, and the keys of {most + 1} pages take {(most + 1L) * 10240} bytes. Make the cache with fewer pages, or the configuration with a pageSize that is a multiple of 8.",
            message
        );
    }
}
