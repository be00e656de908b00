namespace FlashInfer.Tests.Devices;

public sealed class CheckedModeTests
{
    [Fact]
    public void A_poisoned_page_table_is_told_with_call_layer_sequence_token_and_page()
    {
        foreach (int threads in (int[])[1, 3])
        {
            using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = threads, IsChecked = true });
            CheckedScenario.Check(device);
        }
    }

    [Fact]
    public void Checked_results_agree_with_the_oracle()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { IsChecked = true });
        int seed = Random.Shared.Next();
        for (int i = 0; i < 5; i++)
        {
            DecodeScenario.Check(device, DecodeCase.Draw(seed + i, tokens: 300));
        }
    }

    [Theory]
    [InlineData(null, "1", true)]
    [InlineData(null, "0", false)]
    [InlineData(null, "", false)]
    [InlineData(null, null, false)]
    [InlineData(true, "0", true)]
    [InlineData(false, "1", false)]
    [InlineData(false, "yes", false)]
    public void The_option_comes_before_the_variable(bool? option, string? variable, bool expected)
    {
        DeviceOptions options = new() { IsChecked = option };
        Assert.Equal(expected, options.ResolveChecked(name => name == "FLASHINFER_CHECKED" ? variable : null));
    }

    [Fact]
    public void Another_value_of_the_variable_is_refused()
    {
        FlashInferException e = Assert.Throws<FlashInferException>(() => new DeviceOptions().ResolveChecked(_ => "yes"));
        Assert.Contains("FLASHINFER_CHECKED is 'yes'; expected 1", e.Message, StringComparison.Ordinal);
    }
}
