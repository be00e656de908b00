using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>A results file, or two side by side, as one page of HTML: the charts are in it, and it asks for nothing from elsewhere.</summary>
internal static class ResultsReport
{
    /// <summary>The page of a run.</summary>
    public static string Write(JsonObject file)
    {
        StringBuilder html = Begin($"FlashInfer on {file["device"]}", Origin(file));
        JsonNode[] rows = [.. file["rows"]!.AsArray().Select(static row => row!)];
        Chart(html, Roofline.Draw(file));
        Chart(html, Fractions(file, "decode", "keys and values read by one launch", ResultsChart.Bytes, rows));
        Chart(html, Fractions(file, "prefill", "tokens of each sequence", Tokens, rows));
        Table(
            html,
            ["bench", "case", "µs", "± %", "GB/s", "operations", "% of ceiling", "bound by", "relative error"],
            rows.Select(static row =>
                (string[])
                    [
                        $"{row["bench"]}",
                        $"{row["case"]}",
                        Number(row["us"], "0.0"),
                        Number(row["spread"], "0.0", 100),
                        Number(row["gbps"], "0.0"),
                        row["tflops"] is { } tflops ? Roofline.Rate((double)tflops) : "",
                        Number(row["fractionOfCeiling"], "0.0", 100),
                        $"{row["boundBy"]}",
                        Number(row["relError"], "0.0E0"),
                    ]
            )
        );
        return End(html);
    }

    /// <summary>The page of a comparison.</summary>
    public static string Write(ResultsComparison comparison, double tolerance)
    {
        StringBuilder html = Begin(
            Invariant($"{comparison.Speedup:F3} times as fast"),
            $"before: {Origin(comparison.Before)}\nafter: {Origin(comparison.After)}"
        );
        Chart(html, Bars(comparison, tolerance));
        Table(
            html,
            ["bench", "case", "before, µs", "after, µs", "times as fast", "noise, %", "verdict"],
            comparison.Cases.Select(compared =>
                (string[])
                    [
                        compared.Bench,
                        compared.Case,
                        Invariant($"{compared.BeforeUs:F1}"),
                        Invariant($"{compared.AfterUs:F1}"),
                        Invariant($"{compared.Speedup:F3}"),
                        Invariant($"{compared.Noise * 100:F1}"),
                        compared.Verdict(tolerance),
                    ]
            )
        );
        return End(html);
    }

    private static string? Fractions(JsonObject file, string bench, string title, Func<int, string> label, JsonNode[] rows)
    {
        JsonNode[] drawn = [.. rows.Where(row => (string)row["bench"]! == bench && ResultsChart.Has(row, "us", "fractionOfCeiling"))];
        return drawn.Length == 0
            ? null
            : Plot.Draw(
                $"{bench}: fraction of the ceiling",
                ResultsChart.Origin(file),
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

    private static string Origin(JsonObject file)
    {
        JsonNode ceilings = file["ceilings"]!;
        StringBuilder text = new($"{file["device"]}, {file["date"]}, {file["commit"]}");
        text.Append(file["driver"] is { } driver ? $", driver CUDA {driver}, NVRTC {file["nvrtc"]}" : "");
        text.Append(Invariant($"; memory {(double)ceilings["readGBps"]!:F0} GB/s"));
        foreach ((string name, string what) in new[] { ("mathTflops", "arithmetic"), ("matmulTflops", "matrix product") })
        {
            text.Append(ceilings[name] is { } value ? $", {what} {Roofline.Rate((double)value)}" : "");
        }

        return text.ToString();
    }

    private static StringBuilder Begin(string title, string subtitle)
    {
        StringBuilder html = new();
        html.Append(
            $$"""
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8"/>
            <title>{{Text(title)}}</title>
            <style>
            body { font: 14px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em }
            h1 { font-size: 1.6em; margin-bottom: 0 }
            p { color: #555; white-space: pre-line }
            svg { max-width: 100%; height: auto; display: block; margin: 1.5em 0 }
            table { border-collapse: collapse; font-variant-numeric: tabular-nums }
            th, td { padding: 2px 12px 2px 0; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap }
            th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
            </style>
            </head>
            <body>
            <h1>{{Text(title)}}</h1>
            <p>{{Text(subtitle)}}</p>

            """
        );
        return html;
    }

    private static string End(StringBuilder html) => html.Append("</body>\n</html>\n").ToString();

    private static void Chart(StringBuilder html, string? svg) => html.Append(svg);

    private static void Table(StringBuilder html, string[] header, IEnumerable<string[]> rows)
    {
        html.Append("<table>\n<tr>");
        html.AppendJoin("", header.Select(static cell => $"<th>{Text(cell)}</th>")).Append("</tr>\n");
        foreach (string[] row in rows)
        {
            html.Append("<tr>").AppendJoin("", row.Select(static cell => $"<td>{Text(cell)}</td>")).Append("</tr>\n");
        }

        html.Append("</table>\n");
    }

    private static string Number(JsonNode? value, string format, double factor = 1) =>
        value is null ? "" : ((double)value * factor).ToString(format, CultureInfo.InvariantCulture);

    private static string Text(string text) => WebUtility.HtmlEncode(text);

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
