namespace FlashInfer.Tests.Oracle;

/// <summary>How far a result is from its reference. A NaN, or an infinity where the reference is finite, is infinitely far.</summary>
internal static class ErrorNorms
{
    /// <summary>‖actual - expected‖ / ‖expected‖ over everything; 0 when both are all zeros.</summary>
    public static double Relative(ReadOnlySpan<float> actual, ReadOnlySpan<double> expected)
    {
        CheckLengths(actual, expected);
        double error = 0;
        double norm = 0;
        for (int i = 0; i < actual.Length; i++)
        {
            double difference = Difference(actual[i], expected[i]);
            error += difference * difference;
            norm += expected[i] * expected[i];
        }

        return Ratio(Math.Sqrt(error), Math.Sqrt(norm));
    }

    /// <summary>The worst row's largest error over that row's largest absolute value, or over <paramref name="floor"/> where that is more.</summary>
    public static double WorstRow(ReadOnlySpan<float> actual, ReadOnlySpan<double> expected, int rowLength, double floor = 0)
    {
        CheckLengths(actual, expected);
        double worst = 0;
        for (int row = 0; row < actual.Length; row += rowLength)
        {
            double error = 0;
            double largest = 0;
            for (int i = row; i < row + rowLength; i++)
            {
                error = Math.Max(error, Difference(actual[i], expected[i]));
                largest = Math.Max(largest, Math.Abs(expected[i]));
            }

            worst = Math.Max(worst, Ratio(error, Math.Max(largest, floor)));
        }

        return worst;
    }

    /// <summary>The largest |actual - expected| / max(|expected|, floor); equal infinities are 0 apart.</summary>
    public static double WorstRelative(ReadOnlySpan<float> actual, ReadOnlySpan<double> expected, double floor)
    {
        CheckLengths(actual, expected);
        double worst = 0;
        for (int i = 0; i < actual.Length; i++)
        {
            worst = Math.Max(
                worst,
                actual[i] == expected[i] ? 0 : Difference(actual[i], expected[i]) / Math.Max(Math.Abs(expected[i]), floor)
            );
        }

        return worst;
    }

    private static double Difference(float actual, double expected)
    {
        double difference = Math.Abs(actual - expected);
        return double.IsFinite(difference) ? difference : double.PositiveInfinity;
    }

    private static double Ratio(double error, double size) => error == 0 ? 0 : error / size;

    private static void CheckLengths(ReadOnlySpan<float> actual, ReadOnlySpan<double> expected)
    {
        if (actual.Length != expected.Length)
        {
            throw new ArgumentException($"{actual.Length} values against {expected.Length} of the reference.");
        }
    }
}
