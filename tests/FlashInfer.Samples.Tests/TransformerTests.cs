using Stories;

namespace FlashInfer.Tests.Samples;

public sealed class TransformerTests
{
    [Theory]
    [InlineData(DType.Float16, 1e-3)]
    [InlineData(DType.BFloat16, 8e-3)]
    public void Logits_equal_those_of_a_naive_model(DType dtype, double tolerance)
    {
        // Fresh weights each time; pages of 16 tokens, so that 20 tokens need a second page.
        int seed = Random.Shared.Next();
        using TestModel files = new TestModel().WithCheckpoint([48, 40, 2, 6, 2, -300, 32], seed);
        Checkpoint model = files.LoadCheckpoint();
        using Device device = Device.OpenCpu();
        using Transformer transformer = new(model, device, dtype);
        NaiveModel naive = new(model);
        Random random = new(seed);
        for (int position = 0; position < 20; position++)
        {
            int token = random.Next(model.VocabularySize);
            Span<float> actual = transformer.Forward(token);
            double[] expected = naive.Forward(token);
            double error = 0;
            double norm = 0;
            for (int i = 0; i < expected.Length; i++)
            {
                error += Math.Pow(actual[i] - expected[i], 2);
                norm += Math.Pow(expected[i], 2);
            }

            error = Math.Sqrt(error / norm);
            Assert.True(
                error < tolerance,
                $"Seed {seed}, position {position}: relative error {error:E2}; expected less than {tolerance:E0}."
            );
        }
    }

    [Fact]
    public void A_prompt_at_once_gives_the_logits_that_it_gives_token_by_token()
    {
        using TestModel files = new TestModel().WithCheckpoint([48, 40, 2, 6, 2, -300, 32], Random.Shared.Next());
        Checkpoint model = files.LoadCheckpoint();
        using Device device = Device.OpenCpu();
        using Transformer one = new(model, device, DType.Float16);
        using Transformer all = new(model, device, DType.Float16);
        int[] tokens = [.. Enumerable.Range(0, 20).Select(_ => Random.Shared.Next(model.VocabularySize))];
        float[] expected = [];
        foreach (int token in tokens)
        {
            expected = one.Forward(token).ToArray();
        }

        float[] actual = all.Forward(tokens).ToArray();
        double error = Math.Sqrt(actual.Zip(expected, (a, b) => Math.Pow(a - b, 2)).Sum() / expected.Sum(b => Math.Pow(b, 2)));
        Assert.True(error < 1e-3, $"relative error {error:E2}");
        // And generation goes on from there.
        Assert.Equal(expected.Length, all.Forward(3).Length);
    }

    [Fact]
    public void Tokens_beyond_the_context_are_refused_by_the_cache()
    {
        using TestModel files = new TestModel().WithCheckpoint();
        using Device device = Device.OpenCpu();
        using Transformer transformer = new(files.LoadCheckpoint(), device, DType.Float16);
        for (int i = 0; i < 32; i++)
        {
            transformer.Forward(i);
        }

        Assert.Throws<OutOfPagesException>(() => transformer.Forward(0).Length);
    }

    [Fact]
    public void Heads_longer_than_the_kernels_take_are_refused()
    {
        using TestModel files = new TestModel().WithCheckpoint([264, 4, 1, 1, 1, 300, 16]);
        using Device device = Device.OpenCpu();

        string message = Assert
            .Throws<InvalidDataException>(() => new Transformer(files.LoadCheckpoint(), device, DType.Float16).Dispose())
            .Message;
        Assert.Equal("The checkpoint's heads have 264 elements; the kernels take at most 256.", message);
    }
}

/// <summary>The model in fp64, one loop after another; it keeps all keys and values of the past.</summary>
internal sealed class NaiveModel(Checkpoint model)
{
    private readonly List<(double[] Key, double[] Value)>[] _past =
    [
        .. Enumerable.Range(0, model.LayerCount).Select(_ => new List<(double[], double[])>()),
    ];

    public double[] Forward(int token)
    {
        int position = _past[0].Count;
        double[] x = [.. Enumerable.Range(0, model.Dim).Select(i => (double)model.Embedding[(token * model.Dim) + i])];
        for (int layer = 0; layer < model.LayerCount; layer++)
        {
            Checkpoint.Layer weights = model.Layers[layer];
            double[] normed = Norm(x, weights.AttentionNorm);
            _past[layer].Add((Rope(Product(weights.Key, normed), position), Product(weights.Value, normed)));
            double[] attended = Attend(Rope(Product(weights.Query, normed), position), _past[layer]);
            x = Sum(x, Product(weights.Output, attended));
            normed = Norm(x, weights.FeedForwardNorm);
            double[] up = Product(weights.Up, normed);
            double[] gated = [.. Product(weights.Gate, normed).Select((g, i) => g / (1 + Math.Exp(-g)) * up[i])];
            x = Sum(x, Product(weights.Down, gated));
        }

        return Product(model.Classifier, Norm(x, model.FinalNorm));
    }

    private double[] Attend(double[] query, List<(double[] Key, double[] Value)> past)
    {
        double[] output = new double[model.Dim];
        for (int head = 0; head < model.Heads; head++)
        {
            int from = head * model.HeadDim;
            int kvFrom = head / (model.Heads / model.KvHeads) * model.HeadDim;
            double[] weights =
            [
                .. past.Select(token =>
                    Math.Exp(
                        Enumerable.Range(0, model.HeadDim).Sum(i => query[from + i] * token.Key[kvFrom + i]) / Math.Sqrt(model.HeadDim)
                    )
                ),
            ];
            for (int i = 0; i < model.HeadDim; i++)
            {
                output[from + i] = past.Select((token, t) => weights[t] * token.Value[kvFrom + i]).Sum() / weights.Sum();
            }
        }

        return output;
    }

    private double[] Rope(double[] heads, int position)
    {
        double[] rotated = new double[heads.Length];
        for (int i = 0; i < heads.Length; i += 2)
        {
            double angle = position * Math.Pow(10_000, -(double)(i % model.HeadDim) / model.HeadDim);
            rotated[i] = (heads[i] * Math.Cos(angle)) - (heads[i + 1] * Math.Sin(angle));
            rotated[i + 1] = (heads[i] * Math.Sin(angle)) + (heads[i + 1] * Math.Cos(angle));
        }

        return rotated;
    }

    private static double[] Norm(double[] x, float[] weight)
    {
        double scale = 1 / Math.Sqrt((x.Sum(v => v * v) / x.Length) + 1e-5);
        return [.. x.Select((v, i) => v * scale * weight[i])];
    }

    private static double[] Product(float[] matrix, double[] x) =>
        [.. Enumerable.Range(0, matrix.Length / x.Length).Select(row => x.Select((v, i) => v * matrix[(row * x.Length) + i]).Sum())];

    private static double[] Sum(double[] a, double[] b) => [.. a.Zip(b, (x, y) => x + y)];
}
