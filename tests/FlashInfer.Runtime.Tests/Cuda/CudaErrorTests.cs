using FlashInfer.Cuda;

namespace FlashInfer.Tests.Cuda;

public sealed class CudaErrorTests
{
    private const string Device = "device 0 (NVIDIA H100 80GB HBM3, sm_90a)";

    [Fact]
    public void Out_of_memory_says_how_much_was_asked_and_is_free()
    {
        CudaFailure failure = new(
            "cuMemAllocAsync",
            2,
            "CUDA_ERROR_OUT_OF_MEMORY",
            "out of memory",
            Device: Device,
            Requested: 100_000_000_000,
            Free: 5_000,
            Total: 80_000_000_000
        );

        Assert.Equal(
            "cuMemAllocAsync failed with CUDA_ERROR_OUT_OF_MEMORY (2): out of memory. On device 0 (NVIDIA H100 80GB HBM3, sm_90a). "
                + "Asked for 100,000,000,000 bytes; 5,000 of 80,000,000,000 bytes are free. "
                + "Free tensors and caches, make the cache smaller, or look for other processes on the GPU (nvidia-smi).",
            failure.Message()
        );
    }

    [Fact]
    public void Out_of_memory_without_the_drivers_numbers_keeps_what_was_asked() =>
        Assert.Contains(
            "Asked for 1,024 bytes. Free tensors",
            new CudaFailure("cuMemAllocAsync", 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory", Requested: 1024).Message(),
            StringComparison.Ordinal
        );

    [Fact]
    public void Code_that_the_driver_does_not_know_still_says_call_and_number()
    {
        CudaFailure failure = new("cuStreamQuery", 4242);

        Assert.Equal("cuStreamQuery failed with unknown CUresult (4242).", failure.Message());
        Assert.Equal("unknown CUresult", failure.CodeName);
    }

    [Fact]
    public void Known_code_without_a_hint_ends_with_the_drivers_text() =>
        Assert.Equal(
            "cuEventRecord failed with CUDA_ERROR_INVALID_VALUE (1): invalid argument. On " + Device + ".",
            new CudaFailure("cuEventRecord", 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument", Device: Device).Message()
        );

    [Theory]
    [InlineData(700, "The context is lost")]
    [InlineData(716, "The context is lost")]
    [InlineData(719, "The context is lost")]
    [InlineData(209, "another architecture")]
    [InlineData(200, "damaged or is no cubin")]
    [InlineData(222, "newer than the driver understands")]
    [InlineData(701, "shared memory")]
    [InlineData(34, "stub")]
    [InlineData(100, "CUDA_VISIBLE_DEVICES")]
    [InlineData(803, "different versions")]
    [InlineData(900, "captured into a graph")]
    [InlineData(901, "ended the capture")]
    public void Common_codes_say_what_to_do(int code, string expected) =>
        Assert.Contains(expected, new CudaFailure("cuX", code, "CUDA_ERROR_X", "text").Message(), StringComparison.Ordinal);

    [Fact]
    public void Subject_names_what_the_call_was_about() =>
        Assert.Contains(
            "named symbol not found. Kernel 'fi_decode'. On " + Device,
            new CudaFailure(
                "cuModuleGetFunction",
                500,
                "CUDA_ERROR_NOT_FOUND",
                "named symbol not found",
                "Kernel 'fi_decode'",
                Device
            ).Message(),
            StringComparison.Ordinal
        );
}
