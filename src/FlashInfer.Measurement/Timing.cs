namespace FlashInfer.Measurement;

/// <summary>A time measured in five rounds.</summary>
/// <param name="Us">Microseconds: the median of the rounds.</param>
/// <param name="Spread">The slowest round less the fastest, as a fraction of the median.</param>
internal readonly record struct Timing(double Us, double Spread)
{
    private const int Rounds = 5;

    public static Timing OfFive(Func<double> round) => InTurn(round)[0];

    /// <summary>Times several pieces of work in turn, round by round, so that whatever changes meanwhile, such as the clock of a warm device, meets all of them.</summary>
    public static Timing[] InTurn(params ReadOnlySpan<Func<double>> rounds)
    {
        double[][] times = [.. Enumerable.Range(0, rounds.Length).Select(_ => new double[Rounds])];
        for (int round = 0; round < Rounds; round++)
        {
            for (int i = 0; i < rounds.Length; i++)
            {
                times[i][round] = rounds[i]();
            }
        }

        return [.. times.Select(Of)];
    }

    /// <summary>The median; sorts the times.</summary>
    public static double Median(double[] times)
    {
        Array.Sort(times);
        return times[times.Length / 2];
    }

    private static Timing Of(double[] times)
    {
        double median = Median(times);
        return new Timing(median, (times[^1] - times[0]) / median);
    }

    /// <summary>The time of one of several pieces that are alike.</summary>
    public static Timing operator /(Timing timing, int pieces) => timing with { Us = timing.Us / pieces };
}
