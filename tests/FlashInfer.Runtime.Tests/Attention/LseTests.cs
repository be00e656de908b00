namespace FlashInfer.Tests.Attention;

public sealed class LseTests
{
    [Theory]
    [InlineData(0f, 0f)]
    [InlineData(1f, 0.6931472f)]
    [InlineData(-10f, -6.931472f)]
    [InlineData(float.NegativeInfinity, float.NegativeInfinity)]
    [InlineData(float.NaN, float.NaN)]
    public void Base_2_and_natural_are_a_factor_apart(float lse2, float lse)
    {
        Assert.Equal(lse, Lse.ToNaturalLog(lse2));
        Assert.Equal(lse2, Lse.FromNaturalLog(lse));
    }

    [Fact]
    public void Spans_convert_like_their_values_and_in_place()
    {
        float[] lse2 = [3.25f, float.NegativeInfinity, -0.1f, 1e30f];
        float[] lse = new float[4];

        Lse.ToNaturalLog(lse2, lse);
        Assert.Equal(lse2.Select(Lse.ToNaturalLog), lse);

        float[] back = [.. lse];
        Lse.FromNaturalLog(back, back);
        Assert.Equal(lse.Select(Lse.FromNaturalLog), back);
    }

    [Fact]
    public void Spans_of_different_lengths_are_refused_before_anything_is_written()
    {
        float[] destination = [7];

        Assert.Equal("lse", Assert.Throws<ArgumentException>(() => Lse.ToNaturalLog([1, 2], destination)).ParamName);
        Assert.Equal("lse2", Assert.Throws<ArgumentException>(() => Lse.FromNaturalLog([1, 2], destination)).ParamName);
        Assert.Equal([7], destination);
    }
}
