namespace FlashInfer.Tests.Oracle;

public class ErrorNormsTests
{
    [Fact]
    public void Equal_values_are_zero_apart()
    {
        Assert.Equal(0, ErrorNorms.Relative([1f, -2f], [1, -2]));
        Assert.Equal(0, ErrorNorms.WorstRow([1f, -2f, 0f, 0f], [1, -2, 0, 0], 2));
        Assert.Equal(0, ErrorNorms.WorstRelative([float.NegativeInfinity, 3f], [double.NegativeInfinity, 3], 1e-3));
    }

    [Fact]
    public void Errors_are_relative_to_the_reference()
    {
        Assert.Equal(0.5, ErrorNorms.Relative([3f, 6f], [2, 4]), 12);
        Assert.Equal(0.25, ErrorNorms.WorstRow([100f, 100f, 5f, 1f], [100, 100, 4, 1], 2), 12);
        Assert.Equal(double.PositiveInfinity, ErrorNorms.WorstRow([1f], [0], 1));
        Assert.Equal(0.5, ErrorNorms.WorstRow([3f, 0f], [2, 0], 2, floor: 2), 12);
        Assert.Equal(0.25, ErrorNorms.WorstRow([1f, 0f], [0, 0], 2, floor: 4), 12);
    }

    [Theory]
    [InlineData(float.NaN, 1.0)]
    [InlineData(float.NaN, double.NaN)]
    [InlineData(float.PositiveInfinity, 1.0)]
    [InlineData(1f, double.NegativeInfinity)]
    public void What_is_not_finite_never_passes(float actual, double expected)
    {
        Assert.False(ErrorNorms.Relative([actual, 1f], [expected, 1]) < 1);
        Assert.False(ErrorNorms.WorstRow([actual, 1f], [expected, 1], 1) < 1);
        Assert.False(ErrorNorms.WorstRelative([actual, 1f], [expected, 1], 1e-3) < 1);
    }

    [Fact]
    public void The_oracle_averages_values_of_equal_keys_and_counts_them_in_the_lse()
    {
        double[] output = new double[2];
        double[] lse = new double[1];
        AttentionOracle.Decode([0f, 0f], [1, 2, 3, 4, 5, 6, 7, 8], [1, 0, 2, 0, 3, 0, 6, 4], 4, 1, 1, 2, 1.0, output, lse);
        Assert.Equal([3, 1], output);
        Assert.Equal(2, lse[0], 12);
    }
}
