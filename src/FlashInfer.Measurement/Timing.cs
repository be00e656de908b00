namespace FlashInfer.Measurement;

/// <summary>A time measured in some rounds.</summary>
/// <param name="Us">Microseconds: the median of the rounds.</param>
/// <param name="Spread">The slowest round less the fastest, as a fraction of the median.</param>
internal readonly record struct Timing(double Us, double Spread)
{
    private const int Rounds = 5;
    private const int LeastRoundsInTurn = 10;
    private const int SustainedRounds = 9;

    public static Timing OfFive(Func<double> round) => Of([.. Enumerable.Range(0, Rounds).Select(_ => round())]);

    /// <summary>
    /// Times several pieces of work in turn, round by round, so that whatever changes meanwhile, such as the clock of a warm device, meets
    /// all of them. Each stands equally often in every place of the turn and behind every other: a piece that always came next after a
    /// peer in another process would find the device rested. A turn that does not count goes before: until then it has rested, too.
    /// </summary>
    public static Timing[] InTurn(params ReadOnlySpan<Func<double>> rounds)
    {
        int pieces = rounds.Length;
        int cycle = 2 * pieces;
        double[][] times = new double[pieces][];
        for (int piece = 0; piece < pieces; piece++)
        {
            times[piece] = new double[(LeastRoundsInTurn + cycle - 1) / cycle * cycle];
        }

        foreach (Func<double> round in rounds)
        {
            round();
        }

        for (int turn = 0; turn < times[0].Length; turn++)
        {
            for (int place = 0; place < pieces; place++)
            {
                int piece = Williams(turn, place, pieces);
                times[piece][turn] = rounds[piece]();
            }
        }

        return [.. times.Select(Of)];
    }

    /// <summary>
    /// Times several pieces of work in turn, each of which brings the device into its own steady state before a round: then order matters
    /// little, and goes the other way round in every other turn. At the power limit single rounds scatter by 2 %, hence several.
    /// </summary>
    public static Timing[] Sustained(params ReadOnlySpan<Func<double>> rounds)
    {
        double[][] times = new double[rounds.Length][];
        for (int piece = 0; piece < rounds.Length; piece++)
        {
            times[piece] = new double[SustainedRounds];
        }

        for (int turn = 0; turn < SustainedRounds; turn++)
        {
            for (int place = 0; place < rounds.Length; place++)
            {
                int piece = turn % 2 == 0 ? place : rounds.Length - 1 - place;
                times[piece][turn] = rounds[piece]();
            }
        }

        return [.. times.Select(Of)];
    }

    /// <summary>
    /// The order of a turn, from a Williams design: 0, 1, -1, 2, -2 and so on from a start that moves on, and the other way round in every
    /// other turn. Its steps are all different, so that within 2 * pieces turns each piece follows each other one twice.
    /// </summary>
    private static int Williams(int turn, int place, int pieces)
    {
        int away = (place + 1) / 2 * ((place + turn) % 2 == 0 ? -1 : 1);
        return ((turn / 2) + away + pieces) % pieces;
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
