namespace FlashInfer.Measurement;

/// <summary>A time measured in five rounds.</summary>
/// <param name="Us">Microseconds: the median of the rounds.</param>
/// <param name="Spread">The slowest round less the fastest, as a fraction of the median.</param>
internal readonly record struct Timing(double Us, double Spread)
{
    private const int Rounds = 5;

    // Of a round: each piece is timed so many times, now after one of the others, now after another.
    private const int Passes = 2;

    public static Timing OfFive(Func<double> round) => Of([.. Enumerable.Range(0, Rounds).Select(_ => round())]);

    /// <summary>
    /// Times several pieces of work in turn, round by round, so that whatever changes meanwhile, such as the clock of a warm device, meets
    /// all of them; each time another one begins, which comes after a pause when a peer in another process was asked before.
    /// </summary>
    public static Timing[] InTurn(params ReadOnlySpan<Func<double>> rounds)
    {
        double[][] times = [.. Enumerable.Range(0, rounds.Length).Select(_ => new double[Rounds])];
        for (int pass = 0; pass < Rounds * Passes; pass++)
        {
            for (int i = 0; i < rounds.Length; i++)
            {
                int piece = (pass + i) % rounds.Length;
                times[piece][pass / Passes] += rounds[piece]() / Passes;
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
