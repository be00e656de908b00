using System.Globalization;
using System.Security;
using System.Text;
using System.Text.Json.Nodes;

namespace FlashInfer.Benchmarks;

/// <summary>
/// Draws the decode rows of a results file as an SVG: fraction of the read ceiling over the bytes of keys and values. The same file gives
/// the same bytes on every machine.
/// </summary>
internal static class ResultsChart
{
    private const double Left = 70;
    private const double Top = 84;
    private const double PlotWidth = 620;
    private const double PlotHeight = 400;
    private const double LegendLeft = Left + PlotWidth + 24;
    private const double Width = LegendLeft + 210;
    private const double LegendLine = 18;
    private static readonly string[] s_colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333"];

    /// <summary>Draws a file.</summary>
    /// <param name="json">The text of a results file.</param>
    /// <exception cref="FormatException">It has no decode rows that say what was measured.</exception>
    public static string Draw(string json)
    {
        JsonNode file = JsonNode.Parse(json)!;
        Point[] points = [.. file["rows"]!.AsArray().Select(row => Point.Of(row!)).OfType<Point>()];
        if (points.Length == 0)
        {
            throw new FormatException(
                "The file has no decode rows with heads, kvHeads, headDim, kvTokens and fractionOfCeiling; expected a file that FlashInfer.Benchmarks wrote."
            );
        }

        IGrouping<string, Point>[] series = [.. points.GroupBy(point => point.Series)];
        Axes axes = new(points);
        double height = Math.Max(Top + PlotHeight + 60, Top + (series.Length * LegendLine) + 20);
        StringBuilder svg = new();
        Line(
            svg,
            $"""<svg xmlns="http://www.w3.org/2000/svg" width="{Width}" height="{height}" viewBox="0 0 {Width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222222">"""
        );
        Line(svg, $"""<rect width="{Width}" height="{height}" fill="#ffffff"/>""");
        Line(svg, $"""<text x="{Left}" y="30" font-size="17" font-weight="bold">Batch decode: fraction of the read ceiling</text>""");
        Line(svg, $"""<text x="{Left}" y="52" fill="#555555">{Subtitle(file)}</text>""");
        DrawAxes(svg, axes);
        for (int i = 0; i < series.Length; i++)
        {
            DrawSeries(svg, axes, series[i], i);
        }

        Line(svg, $"</svg>");
        return svg.ToString();
    }

    private static string Subtitle(JsonNode file)
    {
        double ceiling = file["ceilings"]!["readGBps"]!.GetValue<double>();
        return Escape(Text($"{file["device"]}, {file["date"]}, commit {file["commit"]}; ceiling {ceiling:F0} GB/s, read in the same run"));
    }

    private static void DrawAxes(StringBuilder svg, Axes axes)
    {
        const double Bottom = Top + PlotHeight;
        for (int percent = 0; percent <= axes.TopPercent; percent += 20)
        {
            double y = axes.Y(percent / 100.0);
            Line(
                svg,
                $"""<path d="M{Left} {y:F1}H{Left + PlotWidth}" stroke="{(percent == 100 ? "#999999" : "#e4e4e4")}"/><text x="{Left - 8}" y="{y + 4:F1}" text-anchor="end">{percent} %</text>"""
            );
        }

        for (int power = axes.FirstPower; power <= axes.LastPower; power += 2)
        {
            double x = axes.X(Math.Pow(2, power));
            Line(
                svg,
                $"""<path d="M{x:F1} {Top}V{Bottom}" stroke="#e4e4e4"/><text x="{x:F1}" y="{Bottom + 18}" text-anchor="middle">{Bytes(power)}</text>"""
            );
        }

        Line(svg, $"""<path d="M{Left} {Top}V{Bottom}H{Left + PlotWidth}" fill="none" stroke="#222222"/>""");
        Line(
            svg,
            $"""<text x="{Left + (PlotWidth / 2)}" y="{Bottom + 42}" text-anchor="middle">keys and values read by one launch</text>"""
        );
    }

    /// <summary>A marker for each row, a line through the best of each size, and the name in the legend.</summary>
    private static void DrawSeries(StringBuilder svg, Axes axes, IGrouping<string, Point> series, int index)
    {
        string color = s_colors[index % s_colors.Length];
        int shape = index / s_colors.Length;
        string[] best =
        [
            .. series
                .GroupBy(point => point.KvBytes)
                .OrderBy(size => size.Key)
                .Select(size => Text($"{axes.X(size.Key):F1} {axes.Y(size.Max(point => point.Fraction)):F1}")),
        ];
        if (best.Length > 1)
        {
            Line(svg, $"""<path d="M{string.Join("L", best)}" fill="none" stroke="{color}" stroke-opacity="0.6"/>""");
        }

        foreach (Point point in series)
        {
            Line(
                svg,
                $"""<path d="{Marker(shape, axes.X(point.KvBytes), axes.Y(point.Fraction))}" fill="{color}"><title>{Escape(Text($"{point.Case}: {point.Us:F1} µs, {point.Fraction * 100:F1} %"))}</title></path>"""
            );
        }

        double y = Top + 10 + (index * LegendLine);
        Line(
            svg,
            $"""<path d="{Marker(shape, LegendLeft, y)}" fill="{color}"/><text x="{LegendLeft + 12}" y="{y + 4:F1}">{Escape(series.Key)}</text>"""
        );
    }

    private static string Marker(int shape, double x, double y) =>
        (shape % 4) switch
        {
            0 => Text($"M{x - 4:F1} {y:F1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z"),
            1 => Text($"M{x - 3.5:F1} {y - 3.5:F1}h7v7h-7Z"),
            2 => Text($"M{x:F1} {y - 5:F1}l5 5l-5 5l-5 -5Z"),
            _ => Text($"M{x:F1} {y - 5:F1}l4.5 8.5h-9Z"),
        };

    private static string Bytes(int power) =>
        power >= 30 ? $"{1 << (power - 30)} GiB"
        : power >= 20 ? $"{1 << (power - 20)} MiB"
        : power >= 10 ? $"{1 << (power - 10)} KiB"
        : $"{1 << power} B";

    private static string Escape(string text) => SecurityElement.Escape(text);

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    private static void Line(StringBuilder svg, FormattableString line) => svg.Append(Text(line)).Append('\n');

    /// <summary>One row of the file.</summary>
    private sealed record Point(string Series, string Case, double KvBytes, double Us, double Fraction)
    {
        /// <summary>Null for a row of another bench, or one that does not say what was measured.</summary>
        public static Point? Of(JsonNode row)
        {
            JsonNode values = row["params"]!;
            bool isComplete =
                (string?)row["bench"] == "decode"
                && row["us"] is not null
                && row["fractionOfCeiling"] is not null
                && new[] { "heads", "kvHeads", "headDim", "pageSize", "kvTokens", "dtype", "kvDtype", "layout", "qoLen" }.All(name =>
                    values[name] is not null
                );
            if (!isComplete)
            {
                return null;
            }

            string kvDtype = (string)values["kvDtype"]!;
            double bytes =
                2.0
                * (double)values["kvTokens"]!
                * (int)values["kvHeads"]!
                * (int)values["headDim"]!
                * (kvDtype.StartsWith("Float8", StringComparison.Ordinal) ? 1 : 2);
            return new Point(Name(values), (string)row["case"]!, bytes, (double)row["us"]!, (double)row["fractionOfCeiling"]!);
        }

        /// <summary>Heads, and whatever differs from the default: BFloat16, headDim 128, pages of 16 tokens, NHD, one query token.</summary>
        private static string Name(JsonNode values)
        {
            List<string> words = [$"{values["heads"]}/{values["kvHeads"]}"];
            Add((int)values["headDim"]! != 128, $"headDim {values["headDim"]}");
            Add((int)values["pageSize"]! != 16, $"page {values["pageSize"]}");
            Add((string)values["layout"]! != "Nhd", ((string)values["layout"]!).ToUpperInvariant());
            Add((string)values["dtype"]! != "BFloat16", (string)values["dtype"]!);
            Add((string)values["kvDtype"]! != (string)values["dtype"]!, $"KV {values["kvDtype"]}");
            Add((int)values["qoLen"]! != 1, $"{values["qoLen"]} query tokens");
            Add((string?)values["variant"] is not (null or "default"), (string?)values["variant"] ?? "");
            return string.Join(' ', words);

            void Add(bool isOther, string word)
            {
                if (isOther)
                {
                    words.Add(word);
                }
            }
        }
    }

    /// <summary>Where values lie: x from one power of four to another, y from 0 to 100 % or, where a row has more, beyond.</summary>
    private sealed class Axes
    {
        public Axes(Point[] points)
        {
            FirstPower = (int)Math.Floor(Math.Log2(points.Min(point => point.KvBytes)) / 2) * 2;
            LastPower = Math.Max(FirstPower + 2, (int)Math.Ceiling(Math.Log2(points.Max(point => point.KvBytes)) / 2) * 2);
            TopPercent = Math.Max(100, (int)Math.Ceiling(points.Max(point => point.Fraction) * 5) * 20);
        }

        public int FirstPower { get; }

        public int LastPower { get; }

        public int TopPercent { get; }

        public double X(double bytes) => Left + (PlotWidth * (Math.Log2(bytes) - FirstPower) / (LastPower - FirstPower));

        public double Y(double fraction) => Top + (PlotHeight * (1 - (fraction * 100 / TopPercent)));
    }
}
