namespace FlashInfer.Tests.Benchmarks;

public sealed class SampledErrorTests
{
    /// <summary>The benchmark's own oracle, over all that it reads keys and values from: it must find right results right.</summary>
    [Theory]
    [InlineData(null, KvLayout.Nhd, 8, 2, true)]
    [InlineData(null, KvLayout.Nhd, 3, 3, false)]
    [InlineData(16, KvLayout.Nhd, 8, 2, true)]
    [InlineData(5, KvLayout.Hnd, 6, 3, false)]
    [InlineData(1, KvLayout.Hnd, 4, 1, true)]
    public void Results_that_are_right_have_a_small_error(int? pageSize, KvLayout layout, int heads, int kvHeads, bool causal)
    {
        using Device device = Device.OpenCpu();
        using CpuRig rig = new(device, Environment.ProcessorCount);
        using PrefillRun run = new(
            device,
            rig,
            new PrefillCase(heads, kvHeads, [7, 1, 40], [600, 3, 40], "")
            {
                HeadDim = 64,
                PageSize = pageSize,
                KvLayout = layout,
                IsCausal = causal,
            }
        );

        Assert.InRange(run.Error.Relative, 1e-6, 1e-2);
    }

    /// <summary>And wrong ones wrong: an element of the last head differs, or is no number.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(float.NaN)]
    public void A_wrong_element_shows(float difference)
    {
        using Device device = Device.OpenCpu();
        AttentionSpec spec = new(2, 1, 64, 16, DType.Float16);
        using DeviceTensor query = device.Allocate(spec.Dtype, 1, 2, 64);
        using DeviceTensor output = device.Allocate(spec.Dtype, 1, 2, 64);
        float[] ones = [.. Enumerable.Repeat(1f, 64)];
        query.CopyFrom([.. ones, .. ones]);
        output.CopyFrom([.. ones, .. ones[1..], 1 + difference]);

        SampledError error = SampledError.Of(spec, query.View, output.View, [new SampledSequence(0, 1, IsCausal: true, ones, ones)]);

        Assert.Equal(difference, error.MaxAbs);
        Assert.Equal(difference / Math.Sqrt(128), error.Relative, 1e-9);
    }
}
