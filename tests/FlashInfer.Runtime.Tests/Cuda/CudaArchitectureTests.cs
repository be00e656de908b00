using FlashInfer.Cuda;

namespace FlashInfer.Tests.Cuda;

public sealed class CudaArchitectureTests
{
    [Theory]
    [InlineData("sm_90", 9, 0)]
    [InlineData("sm_90a", 9, 0)]
    [InlineData("sm_80", 8, 9)]
    [InlineData("sm_89", 8, 9)]
    [InlineData("sm_100", 10, 3)]
    [InlineData("sm_100f", 10, 3)]
    [InlineData("sm_120", 12, 0)]
    public void A_device_runs_its_major_version_up_to_itself(string architecture, int major, int minor) =>
        CudaArchitecture.CheckRunnable(architecture, major, minor);

    [Theory]
    [InlineData("sm_80", 9, 0)]
    [InlineData("sm_89", 8, 6)]
    [InlineData("sm_100a", 10, 3)]
    [InlineData("sm_100", 12, 0)]
    [InlineData("sm_90a", 12, 0)]
    public void Other_architectures_are_refused(string architecture, int major, int minor)
    {
        ArgumentException e = Assert.Throws<ArgumentException>(() => CudaArchitecture.CheckRunnable(architecture, major, minor));
        Assert.Equal("architecture", e.ParamName);
        Assert.Contains(
            $"The architecture is {architecture}, but a device of compute capability {major}.{minor} runs sm_{major}0",
            e.Message,
            StringComparison.Ordinal
        );
    }

    [Theory]
    [InlineData("90")]
    [InlineData("compute_90")]
    [InlineData("")]
    public void What_is_no_architecture_is_refused(string architecture) =>
        Assert.Throws<ArgumentException>(() => CudaArchitecture.CheckRunnable(architecture, 9, 0));
}
