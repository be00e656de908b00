using System.Text;
using static FlashInfer.Measurement.Svg;

namespace FlashInfer.Measurement;

/// <summary>A measured value.</summary>
/// <param name="X">Above 0: the axis is logarithmic.</param>
/// <param name="Y">0 or more.</param>
/// <param name="Text">What a reader sees who points at it.</param>
internal sealed record PlotPoint(double X, double Y, string Text);

/// <summary>Points that belong together.</summary>
/// <param name="Name">For the legend.</param>
/// <param name="Points">Each gets a marker; a line goes through the best of each X.</param>
/// <param name="Peers">A dashed line of the same colour.</param>
internal sealed record PlotSeries(string Name, PlotPoint[] Points, PlotPoint[] Peers);

/// <summary>One plot of a chart: X by powers of four, Y from 0.</summary>
/// <param name="XTitle">What X is.</param>
/// <param name="XLabel">Text of a power of two.</param>
/// <param name="YStep">Between two lines of the grid.</param>
/// <param name="YTop">The last line of the grid, if no value is higher.</param>
/// <param name="YMark">A line that stands out: a ceiling; none when null.</param>
/// <param name="YUnit">Text behind each value of Y.</param>
/// <param name="Series">What is drawn.</param>
internal sealed record Plot(string XTitle, Func<int, string> XLabel, int YStep, int YTop, double? YMark, string YUnit, PlotSeries[] Series)
{
    private const double Left = 70;
    private const double Top = 84;
    private const double PlotWidth = 620;
    private const double PlotHeight = 400;
    private const double LegendLeft = Left + PlotWidth + 24;
    private const double Width = LegendLeft + 210;
    private const double LegendLine = 18;

    private double Height => Math.Max(PlotHeight + 60, (Series.Length * LegendLine) + 20);

    /// <summary>Plots one below the other as an SVG: the same values give the same bytes on every machine.</summary>
    public static string Draw(string title, string subtitle, params Plot[] plots)
    {
        double height = Top + plots.Sum(plot => plot.Height);
        StringBuilder svg = new();
        Begin(svg, Width, height, Left, title, subtitle);
        double top = Top;
        foreach (Plot plot in plots)
        {
            plot.Draw(svg, new Axes(plot, top));
            top += plot.Height;
        }

        Line(svg, $"</svg>");
        return svg.ToString();
    }

    private void Draw(StringBuilder svg, Axes axes)
    {
        double bottom = axes.Top + PlotHeight;
        for (int y = 0; y <= axes.LastY; y += YStep)
        {
            Line(
                svg,
                $"""<path d="M{Left} {axes.Y(y):F1}H{Left + PlotWidth}" stroke="{(y == YMark ? "#999999" : "#e4e4e4")}"/><text x="{Left - 8}" y="{axes.Y(y) + 4:F1}" text-anchor="end">{y}{YUnit}</text>"""
            );
        }

        if (YMark is { } mark && mark % YStep != 0)
        {
            Line(svg, $"""<path d="M{Left} {axes.Y(mark):F1}H{Left + PlotWidth}" stroke="#999999"/>""");
        }

        for (int power = axes.FirstPower; power <= axes.LastPower; power += 2)
        {
            double x = axes.X(Math.Pow(2, power));
            Line(
                svg,
                $"""<path d="M{x:F1} {axes.Top}V{bottom}" stroke="#e4e4e4"/><text x="{x:F1}" y="{bottom + 18}" text-anchor="middle">{XLabel(power)}</text>"""
            );
        }

        Line(svg, $"""<path d="M{Left} {axes.Top}V{bottom}H{Left + PlotWidth}" fill="none" stroke="#222222"/>""");
        Line(svg, $"""<text x="{Left + (PlotWidth / 2)}" y="{bottom + 42}" text-anchor="middle">{Escape(XTitle)}</text>""");
        for (int i = 0; i < Series.Length; i++)
        {
            DrawSeries(svg, axes, Series[i], i);
        }
    }

    /// <summary>A marker for each point, the lines, and the name in the legend.</summary>
    private static void DrawSeries(StringBuilder svg, Axes axes, PlotSeries series, int index)
    {
        string color = Colors[index % Colors.Length];
        int shape = index / Colors.Length;
        DrawLine(svg, axes, series.Points, color, "");
        DrawLine(svg, axes, series.Peers, color, " stroke-dasharray=\"5 4\"");
        foreach (PlotPoint point in series.Points)
        {
            Line(
                svg,
                $"""<path d="{Marker(shape, axes.X(point.X), axes.Y(point.Y))}" fill="{color}"><title>{Escape(point.Text)}</title></path>"""
            );
        }

        double y = axes.Top + 10 + (index * LegendLine);
        Line(
            svg,
            $"""<path d="{Marker(shape, LegendLeft, y)}" fill="{color}"/><text x="{LegendLeft + 12}" y="{y + 4:F1}">{Escape(series.Name)}</text>"""
        );
    }

    private static void DrawLine(StringBuilder svg, Axes axes, PlotPoint[] points, string color, string dashes)
    {
        string[] best =
        [
            .. points
                .GroupBy(point => point.X)
                .OrderBy(column => column.Key)
                .Select(column => Text($"{axes.X(column.Key):F1} {axes.Y(column.Max(point => point.Y)):F1}")),
        ];
        if (best.Length > 1)
        {
            Line(svg, $"""<path d="M{string.Join("L", best)}" fill="none" stroke="{color}" stroke-opacity="0.6"{dashes}/>""");
        }
    }

    /// <summary>Where values lie: X from one power of four to another, Y from 0 to the last line of the grid.</summary>
    private sealed class Axes
    {
        public Axes(Plot plot, double top)
        {
            PlotPoint[] all = [.. plot.Series.SelectMany(series => series.Points.Concat(series.Peers))];
            FirstPower = (int)Math.Floor(Math.Log2(all.Min(point => point.X)) / 2) * 2;
            LastPower = Math.Max(FirstPower + 2, (int)Math.Ceiling(Math.Log2(all.Max(point => point.X)) / 2) * 2);
            LastY = Math.Max(plot.YTop, (int)Math.Ceiling(all.Max(point => point.Y) / plot.YStep) * plot.YStep);
            Top = top;
        }

        public int FirstPower { get; }

        public int LastPower { get; }

        public int LastY { get; }

        public double Top { get; }

        public double X(double value) => Left + (PlotWidth * (Math.Log2(value) - FirstPower) / (LastPower - FirstPower));

        public double Y(double value) => Top + (PlotHeight * (1 - (value / LastY)));
    }
}
