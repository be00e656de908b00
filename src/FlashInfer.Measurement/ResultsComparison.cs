using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>A case of two results files.</summary>
/// <param name="Bench">Its bench.</param>
/// <param name="Case">Its name.</param>
/// <param name="BeforeUs">Microseconds in the first file.</param>
/// <param name="AfterUs">Microseconds in the second.</param>
/// <param name="Noise">The larger of what rounds of one run differed by, as a fraction.</param>
internal sealed record ComparedCase(string Bench, string Case, double BeforeUs, double AfterUs, double Noise)
{
    /// <summary>Above 1 when the second is faster.</summary>
    public double Speedup => BeforeUs / AfterUs;

    /// <summary>Whether the second is <c>faster</c>, <c>slower</c> or the <c>same</c>, which is what differs by less than the tolerance or the noise.</summary>
    public string Verdict(double tolerance)
    {
        double limit = 1 + Math.Max(tolerance, Noise);
        return Speedup > limit ? "faster"
            : Speedup < 1 / limit ? "slower"
            : "same";
    }
}

/// <summary>Two results files side by side.</summary>
/// <param name="Before">The first.</param>
/// <param name="After">The second.</param>
/// <param name="Cases">The cases that both have.</param>
/// <param name="Unpaired">How many cases one has and the other has not.</param>
internal sealed record ResultsComparison(JsonObject Before, JsonObject After, IReadOnlyList<ComparedCase> Cases, int Unpaired)
{
    /// <summary>The ratio of all cases: their geometric mean.</summary>
    public double Speedup => Math.Exp(Cases.Average(static compared => Math.Log(compared.Speedup)));

    /// <summary>Pairs the cases of two files by bench and name.</summary>
    /// <exception cref="FormatException">They have none in common.</exception>
    public static ResultsComparison Of(JsonObject before, JsonObject after)
    {
        Dictionary<(string Bench, string Case), JsonNode> first = Timed(before);
        Dictionary<(string Bench, string Case), JsonNode> second = Timed(after);
        ComparedCase[] cases =
        [
            .. first
                .Where(row => second.ContainsKey(row.Key))
                .Select(row => Compare(row.Key.Bench, row.Key.Case, row.Value, second[row.Key])),
        ];
        return cases.Length > 0
            ? new ResultsComparison(before, after, cases, first.Count + second.Count - (2 * cases.Length))
            : throw new FormatException(
                $"The two files have no case in common: the first has {first.Count} cases{Example(first)}, the second {second.Count}{Example(second)}. Measure both over one grid."
            );
    }

    private static string Example(Dictionary<(string Bench, string Case), JsonNode> rows) =>
        rows.Count == 0 ? "" : $", such as '{rows.Keys.First().Case}'";

    /// <summary>Rows with a time; of several of one name the first.</summary>
    private static Dictionary<(string Bench, string Case), JsonNode> Timed(JsonObject file)
    {
        Dictionary<(string, string), JsonNode> rows = [];
        foreach (JsonNode? row in file["rows"]!.AsArray())
        {
            if (row!["us"] is not null)
            {
                rows.TryAdd(((string)row["bench"]!, (string)row["case"]!), row);
            }
        }

        return rows;
    }

    private static ComparedCase Compare(string bench, string name, JsonNode before, JsonNode after) =>
        new(
            bench,
            name,
            (double)before["us"]!,
            (double)after["us"]!,
            Math.Max((double?)before["spread"] ?? 0, (double?)after["spread"] ?? 0)
        );
}
