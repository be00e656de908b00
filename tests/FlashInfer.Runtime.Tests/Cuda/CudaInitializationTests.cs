using FlashInfer.Cuda;

namespace FlashInfer.Tests.Cuda;

public sealed class CudaInitializationTests
{
    [Theory]
    [InlineData(12000)]
    [InlineData(12040)]
    [InlineData(13000)]
    public void Driver_at_or_above_the_minimum_will_do(int version) => Assert.Null(CudaInitialization.TooOld(version));

    [Fact]
    public void Driver_below_the_minimum_is_named_with_what_is_needed()
    {
        string? message = CudaInitialization.TooOld(11080);

        Assert.NotNull(message);
        Assert.Contains("supports CUDA 11.8", message, StringComparison.Ordinal);
        Assert.Contains("CUDA 12.0 or newer is needed", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Just_below_the_minimum_is_too_old() => Assert.NotNull(CudaInitialization.TooOld(11999));

    [Theory]
    [InlineData(12000, "12.0")]
    [InlineData(12080, "12.8")]
    [InlineData(13010, "13.1")]
    public void Version_is_written_as_people_write_it(int version, string expected) =>
        Assert.Equal(expected, CudaInitialization.Dotted(version));

    [Fact]
    public void Missing_driver_says_what_was_tried()
    {
        NativeSearchStep[] tried = [new("libcuda.so.1", "no such file"), new("/usr/lib/libcuda.so", "too short")];

        DeviceUnavailableException e = CudaInitialization.NotLoaded(tried);

        Assert.Equal(tried, e.Tried);
        Assert.Equal($"{e.Summary} Tried: libcuda.so.1: no such file; /usr/lib/libcuda.so: too short.", e.Message);
        Assert.EndsWith("start the container with GPUs.", e.Summary, StringComparison.Ordinal);
    }

    [Fact]
    public void Opening_without_a_usable_driver_says_why()
    {
        if (CudaContext.DeviceCount > 0)
        {
            CudaContext.Open(0).Dispose();
            return;
        }

        DeviceUnavailableException e = Assert.Throws<DeviceUnavailableException>(() => CudaContext.Open(0));

        // Either no driver, with what was tried, or a driver that refuses, with its code.
        Assert.True(
            e.Message.Contains("Tried: ", StringComparison.Ordinal)
                || e.Message.Contains("failed with CUDA_ERROR", StringComparison.Ordinal),
            e.Message
        );
        Assert.Throws<DeviceUnavailableException>(() => CudaContext.FromHandle(1));
    }

    [Fact]
    public void Negative_ordinal_is_an_argument_error() => Assert.Throws<ArgumentOutOfRangeException>(() => CudaContext.Open(-1));

    [Fact]
    public void Null_context_handle_is_an_argument_error() => Assert.Throws<ArgumentException>(() => CudaContext.FromHandle(0));
}
