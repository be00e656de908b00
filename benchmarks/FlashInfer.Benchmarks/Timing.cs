namespace FlashInfer.Benchmarks;

/// <summary>A time measured in five rounds.</summary>
/// <param name="Us">Microseconds: the median of the rounds.</param>
/// <param name="Spread">The slowest round less the fastest, as a fraction of the median.</param>
internal readonly record struct Timing(double Us, double Spread)
{
    private const int Rounds = 5;

    public static Timing OfFive(Func<double> round)
    {
        double[] times = [.. Enumerable.Range(0, Rounds).Select(_ => round())];
        double median = Median(times);
        return new Timing(median, (times.Max() - times.Min()) / median);
    }

    /// <summary>The median; sorts the times.</summary>
    public static double Median(double[] times)
    {
        Array.Sort(times);
        return times[times.Length / 2];
    }

    /// <summary>The time of one of several pieces that are alike.</summary>
    public static Timing operator /(Timing timing, int pieces) => timing with { Us = timing.Us / pieces };
}
