using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>How far a scenario's results were from the fp64 oracle.</summary>
internal readonly record struct ScenarioErrors(double Relative, double WorstRow, double Lse)
{
    /// <summary>Throws unless the errors are within the project's tolerances.</summary>
    /// <param name="dtype">Type of query and output.</param>
    /// <param name="what">The case, for messages.</param>
    /// <param name="roundsTwice">Whether queries and keys are rounded once more before their product.</param>
    public ScenarioErrors Check(DType dtype, string what, bool roundsTwice = false)
    {
        bool half = dtype == DType.Float16;
        double factor = roundsTwice ? 2 : 1;
        double lse =
            !roundsTwice ? 1e-4
            : half ? 3e-3
            : 2e-2;
        Assert.True(
            Relative <= factor * (half ? 1e-3 : 4e-3) && WorstRow <= factor * (half ? 4e-3 : 1.5e-2) && Lse <= lse,
            $"{what}: {this}"
        );
        return this;
    }

    public static ScenarioErrors Worst(ScenarioErrors a, ScenarioErrors b) =>
        new(Math.Max(a.Relative, b.Relative), Math.Max(a.WorstRow, b.WorstRow), Math.Max(a.Lse, b.Lse));
}

/// <summary>
/// Holds the rows of an output against the oracle: as many as it can do in a moment, the others at least
/// for having been written over the poison.
/// </summary>
/// <param name="what">The case, for messages.</param>
/// <param name="row">Elements of a row.</param>
/// <param name="headDim">Elements of a head.</param>
internal sealed class RowCheck(string what, int row, int headDim)
{
    // Products that the oracle has time for.
    private const long Budget = 30_000_000;

    // The smallest number that half precision holds with all of its bits: a sink can leave less than that of a row.
    private const double SmallestNormal = 1.0 / (1 << 14);

    public delegate void Oracle(int row, Span<double> output, Span<double> lse2);

    /// <summary>Which rows to compare: all, or some at random.</summary>
    /// <param name="random">The case's random numbers.</param>
    /// <param name="lengths">Tokens that each row's oracle looks at.</param>
    /// <param name="row">Elements of a row.</param>
    public static int[] Sample(Random random, int[] lengths, int row)
    {
        long work = lengths.Sum(length => 2L * length * row);
        double share = work <= Budget ? 1 : (double)Budget / work;
        return [.. Enumerable.Range(0, lengths.Length).Where(i => i == lengths.Length - 1 || random.NextDouble() < share)];
    }

    public ScenarioErrors Compare(float[] output, float[] lse, int[] sampled, Oracle oracle)
    {
        int heads = row / headDim;
        int rows = lse.Length / heads;
        for (int at = 0; at < output.Length; at++)
        {
            if (float.IsNaN(output[at]))
            {
                Assert.Fail($"{what}: element {at % row} of output row {at / row} of {rows} was not written, or is NaN.");
            }
        }

        Assert.True(
            Array.FindIndex(lse, float.IsNaN) < 0,
            $"{what}: the LSE of row {Array.FindIndex(lse, float.IsNaN) / heads} was not written."
        );
        float[] actual = new float[sampled.Length * row];
        float[] actualLse = new float[sampled.Length * heads];
        double[] expected = new double[actual.Length];
        double[] expectedLse = new double[actualLse.Length];
        Parallel.For(
            0,
            sampled.Length,
            i =>
            {
                output.AsSpan(sampled[i] * row, row).CopyTo(actual.AsSpan(i * row));
                lse.AsSpan(sampled[i] * heads, heads).CopyTo(actualLse.AsSpan(i * heads));
                oracle(sampled[i], expected.AsSpan(i * row, row), expectedLse.AsSpan(i * heads, heads));
            }
        );

        return new ScenarioErrors(
            ErrorNorms.Relative(actual, expected),
            ErrorNorms.WorstRow(actual, expected, headDim, SmallestNormal),
            ErrorNorms.WorstRelative(actualLse, expectedLse, 1)
        );
    }
}
