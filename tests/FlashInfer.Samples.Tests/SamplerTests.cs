using Stories;

namespace FlashInfer.Tests.Samples;

public sealed class SamplerTests
{
    [Fact]
    public void Temperature_0_takes_the_likeliest()
    {
        Sampler sampler = new(0, seed: 1);

        Assert.Equal(2, sampler.Next([0.5f, -3, 7, 6.9f]));
        Assert.Equal(0, sampler.Next([-1, -2]));
    }

    [Fact]
    public void Tokens_are_drawn_as_often_as_the_softmax_says()
    {
        // A fixed seed: a fresh one would fail once in a while. Probabilities at temperature 2: softmax(0, 1, 2).
        const int Draws = 20_000;
        Sampler sampler = new(2, seed: 12345);
        int[] counts = new int[3];
        for (int i = 0; i < Draws; i++)
        {
            counts[sampler.Next([0, 2, 4])]++;
        }

        double sum = 1 + Math.E + (Math.E * Math.E);
        Assert.Equal(1 / sum, counts[0] / (double)Draws, 0.01);
        Assert.Equal(Math.E / sum, counts[1] / (double)Draws, 0.01);
        Assert.Equal(Math.E * Math.E / sum, counts[2] / (double)Draws, 0.01);
    }

    [Theory]
    [InlineData(1e-30f)]
    [InlineData(1e-6f)]
    public void A_tiny_temperature_takes_the_likeliest_without_overflow(float temperature)
    {
        Sampler sampler = new(temperature, seed: 3);
        for (int i = 0; i < 100; i++)
        {
            Assert.Equal(1, sampler.Next([1000, 1001, -1000]));
        }
    }

    [Fact]
    public void Seed_0_is_a_seed_like_others()
    {
        Sampler sampler = new(1, seed: 0);
        int[] tokens = [.. Enumerable.Range(0, 50).Select(_ => sampler.Next([0, 0, 0, 0]))];

        Assert.Equal(4, tokens.Distinct().Count());
    }
}
