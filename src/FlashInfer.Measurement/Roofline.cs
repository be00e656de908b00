using System.Text;
using System.Text.Json.Nodes;
using static FlashInfer.Measurement.Svg;

namespace FlashInfer.Measurement;

/// <summary>
/// The roofline of a results file: what each case does in a second over what it does for a byte, under the slope of the memory and the
/// roof of the arithmetic, both measured in the same run.
/// </summary>
internal static class Roofline
{
    private const double Left = 90;
    private const double Top = 84;
    private const double PlotWidth = 620;
    private const double PlotHeight = 400;

    /// <summary>Draws a file; null when it has no ceiling of the arithmetic or no row with both rates.</summary>
    public static string? Draw(JsonObject file)
    {
        double? roof = (double?)(file["ceilings"]!["mathTflops"] ?? file["ceilings"]!["matmulTflops"]);
        double slope = (double)file["ceilings"]!["readGBps"]! / 1e3;
        JsonNode[] rows =
        [
            .. file["rows"]!
                .AsArray()
                .Select(static row => row!)
                .Where(static row => ResultsChart.Has(row, "gbps", "tflops"))
                .Where(static row => (double)row["gbps"]! > 0 && Tflops(row) > 0),
        ];
        if (roof is not { } peak || rows.Length == 0)
        {
            return null;
        }

        StringBuilder svg = new();
        Begin(
            svg,
            Left + PlotWidth + 214,
            Top + PlotHeight + 60,
            Left,
            "Roofline",
            "what memory and arithmetic allow, measured in the same run"
        );
        Axis x = new([.. rows.Select(Intensity), peak / slope], Left, PlotWidth);
        Axis y = new([.. rows.Select(Tflops), peak], Top + PlotHeight, -PlotHeight);
        foreach (double value in x.Lines)
        {
            Line(
                svg,
                $"""<path d="M{x.At(value):F1} {Top}V{Top + PlotHeight}" stroke="#e4e4e4"/><text x="{x.At(value):F1}" y="{Top + PlotHeight + 18}" text-anchor="middle">{value:#,0.##}</text>"""
            );
        }

        foreach (double value in y.Lines)
        {
            Line(
                svg,
                $"""<path d="M{Left} {y.At(value):F1}H{Left + PlotWidth}" stroke="#e4e4e4"/><text x="{Left - 8}" y="{y.At(value) + 4:F1}" text-anchor="end">{Rate(value)}</text>"""
            );
        }

        double first = Math.Max(x.First, y.First / slope);
        Line(
            svg,
            $"""<path d="M{x.At(first):F1} {y.At(first * slope):F1}L{x.At(peak / slope):F1} {y.At(peak):F1}H{Left + PlotWidth}" fill="none" stroke="#222222" stroke-width="1.5"/>"""
        );
        // Along the slope as it is drawn, and under the roof at its end.
        double middle = Math.Sqrt(first * peak / slope);
        double angle = Math.Atan2(y.Decade, x.Decade) * 180 / Math.PI;
        Line(
            svg,
            $"""<text x="{x.At(middle):F1}" y="{y.At(middle * slope):F1}" dy="-7" transform="rotate({angle:F1} {x.At(middle):F1} {y.At(middle * slope):F1})" text-anchor="middle" fill="#555555">memory {slope * 1e3:F0} GB/s</text>"""
        );
        Line(
            svg,
            $"""<text x="{Left + PlotWidth - 4}" y="{y.At(peak) - 7:F1}" text-anchor="end" fill="#555555" stroke="#ffffff" stroke-width="4" paint-order="stroke">arithmetic {Rate(peak)}</text>"""
        );
        Line(
            svg,
            $"""<text x="{Left + (PlotWidth / 2)}" y="{Top + PlotHeight + 42}" text-anchor="middle">operations for each byte that is moved</text>"""
        );
        string[] benches = [.. rows.Select(static row => (string)row["bench"]!).Distinct()];
        for (int i = 0; i < benches.Length; i++)
        {
            foreach (JsonNode row in rows.Where(row => (string)row["bench"]! == benches[i]))
            {
                Line(
                    svg,
                    $"""<path d="{Marker(i, x.At(Intensity(row)), y.At(Tflops(row)))}" fill="{Colors[i % Colors.Length]}"><title>{Escape(Text($"{row["case"]}: {(double)row["us"]!:F1} µs, {Rate(Tflops(row))}"))}</title></path>"""
                );
            }

            double legend = Top + 10 + (i * 18);
            Line(
                svg,
                $"""<path d="{Marker(i, Left + PlotWidth + 24, legend)}" fill="{Colors[i % Colors.Length]}"/><text x="{Left + PlotWidth + 36}" y="{legend + 4:F1}">{Escape(benches[i])}</text>"""
            );
        }

        Line(svg, $"</svg>");
        return svg.ToString();
    }

    private static double Tflops(JsonNode row) => (double)row["tflops"]!;

    private static double Intensity(JsonNode row) => Tflops(row) * 1e3 / (double)row["gbps"]!;

    /// <summary>Operations of a second, for people to read.</summary>
    public static string Rate(double tflops) => tflops >= 1 ? Text($"{tflops:0.##} TFLOP/s") : Text($"{tflops * 1e3:0.##} GFLOP/s");

    /// <summary>A logarithmic axis from a power of ten to another, around all values.</summary>
    private sealed class Axis
    {
        private readonly double _from;
        private readonly double _length;
        private readonly int _first;
        private readonly int _last;

        public Axis(double[] values, double from, double length)
        {
            _from = from;
            _length = length;
            _first = (int)Math.Floor(Math.Log10(values.Min()));
            _last = Math.Max(_first + 1, (int)Math.Ceiling(Math.Log10(values.Max())));
        }

        public double First => Math.Pow(10, _first);

        /// <summary>What a power of ten takes.</summary>
        public double Decade => _length / (_last - _first);

        /// <summary>Powers of ten, and what lies between them where these are few.</summary>
        public IEnumerable<double> Lines =>
            Enumerable
                .Range(_first, _last - _first + 1)
                .SelectMany(power => (double[])[Math.Pow(10, power), .. power < _last ? Between(power) : []]);

        private double[] Between(int power) =>
            (_last - _first) switch
            {
                1 => [2 * Math.Pow(10, power), 5 * Math.Pow(10, power)],
                2 => [3 * Math.Pow(10, power)],
                _ => [],
            };

        public double At(double value) => _from + (_length * (Math.Log10(value) - _first) / (_last - _first));
    }
}
