using System.Runtime.CompilerServices;
using FlashInfer.Cuda;

namespace FlashInfer.Tests.Cuda;

/// <summary>The structures that go to the driver, against the numbers that cuda.h gives on 64-bit systems.</summary>
public sealed unsafe class CudaLayoutTests
{
    [Fact]
    public void Launch_config_is_CUlaunchConfig()
    {
        CudaLaunchConfig config = default;
        byte* start = (byte*)&config;

        Assert.Equal(56, sizeof(CudaLaunchConfig));
        Assert.Equal(0, (byte*)&config.GridX - start);
        Assert.Equal(4, (byte*)&config.GridY - start);
        Assert.Equal(8, (byte*)&config.GridZ - start);
        Assert.Equal(12, (byte*)&config.BlockX - start);
        Assert.Equal(16, (byte*)&config.BlockY - start);
        Assert.Equal(20, (byte*)&config.BlockZ - start);
        Assert.Equal(24, (byte*)&config.DynamicSharedBytes - start);
        Assert.Equal(32, (byte*)&config.Stream - start);
        Assert.Equal(40, (byte*)&config.Attributes - start);
        Assert.Equal(48, (byte*)&config.AttributeCount - start);
    }

    [Fact]
    public void Launch_attribute_is_CUlaunchAttribute()
    {
        CudaLaunchAttribute attribute = default;
        byte* start = (byte*)&attribute;

        // int id, 4 bytes of padding, a union of 64 bytes.
        Assert.Equal(72, sizeof(CudaLaunchAttribute));
        Assert.Equal(0, (byte*)&attribute.Id - start);
        Assert.Equal(8, (byte*)&attribute.Value - start);
    }

    [Fact]
    public void No_structure_holds_a_reference() =>
        Assert.False(
            RuntimeHelpers.IsReferenceOrContainsReferences<CudaLaunchConfig>()
                || RuntimeHelpers.IsReferenceOrContainsReferences<CudaLaunchAttribute>()
        );

    [Theory]
    [InlineData(8, 0, "sm_80")]
    [InlineData(8, 6, "sm_86")]
    [InlineData(8, 9, "sm_89")]
    [InlineData(9, 0, "sm_90a")]
    [InlineData(10, 0, "sm_100")]
    [InlineData(12, 0, "sm_120")]
    [InlineData(12, 1, "sm_121")]
    public void Architecture_is_the_devices_own_sm(int major, int minor, string expected) =>
        Assert.Equal(expected, CudaArchitecture.Name(major, minor));
}
