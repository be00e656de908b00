using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>A results file, or two side by side, as one page of HTML: the charts are in it, and it asks for nothing from elsewhere.</summary>
internal static class ResultsReport
{
    /// <summary>The page of a run.</summary>
    public static string Write(JsonObject file)
    {
        ReportPage page = new($"FlashInfer on {file["device"]}");
        JsonNode[] rows = [.. file["rows"]!.AsArray().Select(static row => row!)];
        page.Facts([.. Origin(file), .. Best(rows)]);
        page.Chart(Roofline.Draw(file));
        page.Chart(Fractions("decode", "keys and values read by one launch", ResultsChart.Bytes, rows));
        page.Chart(Fractions("prefill", "tokens of each sequence", Tokens, rows));
        foreach (IGrouping<string, JsonNode> bench in rows.GroupBy(static row => (string)row["bench"]!))
        {
            page.Table(bench.Key, s_columns, bench);
        }

        return page.ToString();
    }

    /// <summary>The page of a comparison.</summary>
    public static string Write(ResultsComparison comparison, double tolerance)
    {
        ReportPage page = new(Invariant($"{comparison.Speedup:F3} times as fast"));
        page.Facts([("before", Line(comparison.Before)), ("after", Line(comparison.After))]);
        page.Facts([
            ("cases", Invariant($"{comparison.Cases.Count}")),
            .. comparison
                .Cases.GroupBy(compared => compared.Verdict(tolerance))
                .OrderBy(static verdict => verdict.Key, StringComparer.Ordinal)
                .Select(static verdict => (verdict.Key, Invariant($"{verdict.Count()}"))),
            .. comparison.Unpaired > 0 ? [("only in one file", Invariant($"{comparison.Unpaired}"))] : Array.Empty<(string, string)>(),
        ]);
        page.Chart(Bars(comparison, tolerance));
        page.Table(
            "all cases",
            [
                new("bench", static compared => compared.Bench, IsText: true),
                new("case", static compared => compared.Case, IsText: true),
                new("before, µs", static compared => Invariant($"{compared.BeforeUs:F1}")),
                new("after, µs", static compared => Invariant($"{compared.AfterUs:F1}")),
                new("times as fast", static compared => Invariant($"{compared.Speedup:F3}")),
                new("noise, %", static compared => Invariant($"{compared.Noise * 100:F1}")),
                new("verdict", compared => compared.Verdict(tolerance)),
            ],
            comparison.Cases
        );
        return page.ToString();
    }

    private static readonly ReportColumn<JsonNode>[] s_columns =
    [
        new("case", static row => $"{row["case"]}", IsText: true),
        new("µs", static row => Number(row["us"], "#,0.0")),
        new("± %", static row => Number(row["spread"], "0.0", 100)),
        new("GB/s", static row => Number(row["gbps"], "#,0.0")),
        new("operations", static row => row["tflops"] is { } tflops ? Roofline.Rate((double)tflops) : ""),
        new(
            "% of ceiling",
            static row => Number(row["fractionOfCeiling"], "0.0", 100),
            Bar: static row => (double?)row["fractionOfCeiling"]
        ),
        new("bound by", static row => $"{row["boundBy"]}"),
        new("times as fast as", static row => Peer(row)),
        new("allocated", static row => row["allocatedBytes"] is { } bytes ? $"{bytes} B" : ""),
        new("relative error", static row => Number(row["relError"], "0.0E0")),
    ];

    private static string Peer(JsonNode row) =>
        row["ratioToPeer"] is { } ratio && row["peer"] is { } peer ? Invariant($"{(double)ratio:F2}: {peer}") : "";

    /// <summary>What a bench reaches of its ceiling at best.</summary>
    private static IEnumerable<(string Name, string Value)> Best(JsonNode[] rows) =>
        rows.Where(static row => (string)row["bench"]! is "decode" or "prefill" && row["fractionOfCeiling"] is not null)
            .GroupBy(static row => (string)row["bench"]!)
            .Select(static bench => bench.MaxBy(static row => (double)row["fractionOfCeiling"]!)!)
            .Select(static best =>
                ($"{best["bench"]} at best", Invariant($"{(double)best["fractionOfCeiling"]! * 100:F1} % of the ceiling"))
            );

    private static string? Fractions(string bench, string title, Func<int, string> label, JsonNode[] rows)
    {
        JsonNode[] drawn = [.. rows.Where(row => (string)row["bench"]! == bench && ResultsChart.Has(row, "us", "fractionOfCeiling"))];
        return drawn.Length == 0
            ? null
            : Plot.Draw(
                $"{bench}: fraction of the ceiling",
                "by heads/kvHeads, and what is not headDim 128, pages of 16 tokens, NHD and bf16",
                new Plot(
                    title,
                    label,
                    20,
                    100,
                    100,
                    " %",
                    [
                        .. drawn
                            .GroupBy(static row => ResultsChart.Name(row["params"]!))
                            .Select(series => new PlotSeries(series.Key, [.. series.Select(row => Point(row, bench))], [])),
                    ]
                )
            );
    }

    private static PlotPoint Point(JsonNode row, string bench)
    {
        if (bench == "decode")
        {
            return ResultsChart.DecodePoint(row);
        }

        double percent = (double)row["fractionOfCeiling"]! * 100;
        return new PlotPoint(
            (int)row["params"]!["kvLen"]!,
            percent,
            Invariant($"{row["case"]}: {(double)row["us"]!:F1} µs, {percent:F1} %")
        );
    }

    /// <summary>A bar for each case: to the right what became faster, on a scale on which twice and half are equally far.</summary>
    private static string Bars(ResultsComparison comparison, double tolerance)
    {
        const double Left = 20;
        const double Middle = 700;
        const double HalfWidth = 200;
        const double Top = 84;
        const double Step = 20;
        double most = Math.Max(0.1, comparison.Cases.Max(static compared => Math.Abs(Math.Log2(compared.Speedup))));
        StringBuilder svg = new();
        Svg.Begin(
            svg,
            Middle + HalfWidth + 80,
            Top + (comparison.Cases.Count * Step) + 20,
            Left,
            "How many times as fast as before",
            Invariant($"grey: within {tolerance * 100:0.#} % or the noise of the two runs")
        );
        for (int i = 0; i < comparison.Cases.Count; i++)
        {
            ComparedCase compared = comparison.Cases[i];
            double width = HalfWidth * Math.Log2(compared.Speedup) / most;
            double y = Top + (i * Step);
            string color = compared.Verdict(tolerance) switch
            {
                "faster" => Svg.Colors[2],
                "slower" => Svg.Colors[1],
                _ => "#999999",
            };
            Svg.Line(svg, $"""<text x="{Left}" y="{y + 11:F1}">{Svg.Escape($"{compared.Bench} {compared.Case}")}</text>""");
            Svg.Line(
                svg,
                $"""<rect x="{Middle + Math.Min(0, width):F1}" y="{y:F1}" width="{Math.Max(1, Math.Abs(width)):F1}" height="14" fill="{color}"/>"""
            );
            Svg.Line(svg, $"""<text x="{Middle + Math.Max(0, width) + 6:F1}" y="{y + 11:F1}">{compared.Speedup:F2}</text>""");
        }

        Svg.Line(svg, $"""<path d="M{Middle} {Top - 8}V{Top + (comparison.Cases.Count * Step)}" stroke="#222222"/>""");
        Svg.Line(svg, $"</svg>");
        return svg.ToString();
    }

    private static string Tokens(int power) => power >= 10 ? $"{1 << (power - 10)}k" : $"{1 << power}";

    private static IEnumerable<(string Name, string Value)> Origin(JsonObject file)
    {
        yield return ("date", $"{file["date"]}");
        yield return ("version", $"{file["commit"]}");
        if (file["driver"] is { } driver)
        {
            yield return ("driver", $"CUDA {driver}");
            yield return ("compiler", $"NVRTC {file["nvrtc"]}");
        }

        JsonNode ceilings = file["ceilings"]!;
        yield return ("memory reads", Invariant($"{(double)ceilings["readGBps"]!:F0} GB/s"));
        foreach ((string name, string what) in new[] { ("mathTflops", "arithmetic"), ("matmulTflops", "matrix product") })
        {
            if (ceilings[name] is { } value)
            {
                yield return (what, Roofline.Rate((double)value));
            }
        }
    }

    private static string Line(JsonObject file) =>
        $"{file["device"]}, {string.Join(", ", Origin(file).Select(static fact => fact.Name is "date" or "version" ? fact.Value : $"{fact.Name} {fact.Value}"))}";

    private static string Number(JsonNode? value, string format, double factor = 1) =>
        value is null ? "" : ((double)value * factor).ToString(format, CultureInfo.InvariantCulture);

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
