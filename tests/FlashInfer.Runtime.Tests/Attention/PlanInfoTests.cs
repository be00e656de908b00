namespace FlashInfer.Tests.Attention;

public sealed class PlanInfoTests
{
    [Fact]
    public void One_of_everything_is_told_in_the_singular() =>
        Assert.Equal(
            "k: 1 sequence with 1 token in 1 item of up to 1 token (none split), 1 unit on 1 block, busiest block at 1.00 of the mean",
            new PlanInfo("k", 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, Determinism.Reproducible).ToString()
        );

    [Theory]
    [InlineData(0, "none split")]
    [InlineData(1, "1 sequence split")]
    [InlineData(3, "3 sequences split")]
    public void Several_are_told_in_the_plural(int splitSequences, string split) =>
        Assert.Equal(
            $"k: 3 sequences with 5000 tokens in 9 items of up to 1024 tokens ({split}), 72 units on 4 blocks, busiest block at 1.25 of the mean",
            new PlanInfo("k", 3, 3, 5000, 9, 72, 4, 1, 1, 1024, splitSequences, 1.25, Determinism.Reproducible).ToString()
        );

    [Theory]
    [InlineData(1, 4, "on 4 blocks of 4 teams each, busiest team at 1.25")]
    [InlineData(8, 1, "on 4 blocks in clusters of 8, busiest cluster at 1.25")]
    public void Who_shares_a_unit_is_told(int cluster, int teams, string shared) =>
        Assert.Equal(
            $"k: 3 sequences with 500 tokens and 12 query tokens in 3 items of up to 200 tokens (none split), 24 units {shared} of the mean, batch-invariant",
            new PlanInfo("k", 3, 12, 500, 3, 24, 4, cluster, teams, 200, 0, 1.25, Determinism.BatchInvariant).ToString()
        );

    [Fact]
    public void What_is_staged_is_told() =>
        Assert.EndsWith(
            "busiest block at 1.25 of the mean, 5000 tokens of 3 sequences staged",
            new PlanInfo("k", 3, 3, 5000, 9, 72, 4, 1, 1, 1024, 0, 1.25, Determinism.Reproducible)
            {
                StagedTokens = 5000,
                StagedSequences = 3,
            }.ToString(),
            StringComparison.Ordinal
        );

    [Fact]
    public void Two_kernels_are_told_as_one_plan()
    {
        PlanInfo staged = new("k", 3, 14, 5000, 9, 72, 4, 1, 1, 1024, 1, 1.25, Determinism.Reproducible)
        {
            StagedTokens = 5000,
            StagedSequences = 1,
        };
        PlanInfo rest = new("l", 3, 14, 300, 2, 16, 5, 1, 1, 200, 1, 1.5, Determinism.Reproducible);

        Assert.Equal(
            "k, then l: 3 sequences with 5300 tokens and 14 query tokens in 11 items of up to 1024 tokens (2 sequences split), 88 units on 5 blocks, busiest block at 1.50 of the mean, 5000 tokens of 1 sequence staged",
            PlanInfo.Then(staged, rest).ToString()
        );
    }

    [Theory]
    [InlineData(1, "1 thread")]
    [InlineData(2, "2 threads")]
    public void A_cpu_device_is_called_by_its_name(int threads, string words)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = threads });

        Assert.Matches($@"^CPU \(\w+, {words}\)$", device.ToString());
    }
}
