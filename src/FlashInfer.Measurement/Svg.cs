using System.Globalization;
using System.Security;
using System.Text;

namespace FlashInfer.Measurement;

/// <summary>What charts are made of: the same values give the same bytes on every machine.</summary>
internal static class Svg
{
    /// <summary>Told apart also by those who see colours otherwise (Okabe and Ito).</summary>
    public static readonly string[] Colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333"];

    // Of a subtitle, at 12 points in the width of a plot and its legend.
    private const int LineLength = 125;

    /// <summary>A white sheet with a title, and a subtitle of one line or two.</summary>
    public static void Begin(StringBuilder svg, double width, double height, double left, string title, string subtitle)
    {
        Line(
            svg,
            $"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222222">"""
        );
        Line(svg, $"""<rect width="{width}" height="{height}" fill="#ffffff"/>""");
        Line(svg, $"""<text x="{left}" y="30" font-size="17" font-weight="bold">{Escape(title)}</text>""");
        int end = subtitle.Length > LineLength ? subtitle.LastIndexOf("; ", LineLength, StringComparison.Ordinal) + 1 : 0;
        string[] lines = end > 0 ? [subtitle[..end], subtitle[(end + 1)..]] : [subtitle];
        for (int i = 0; i < lines.Length; i++)
        {
            Line(svg, $"""<text x="{left}" y="{52 + (i * 16)}" fill="#555555">{Escape(lines[i])}</text>""");
        }
    }

    public static string Marker(int shape, double x, double y) =>
        (shape % 4) switch
        {
            0 => Text($"M{x - 4:F1} {y:F1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z"),
            1 => Text($"M{x - 3.5:F1} {y - 3.5:F1}h7v7h-7Z"),
            2 => Text($"M{x:F1} {y - 5:F1}l5 5l-5 5l-5 -5Z"),
            _ => Text($"M{x:F1} {y - 5:F1}l4.5 8.5h-9Z"),
        };

    public static string Escape(string text) => SecurityElement.Escape(text);

    public static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    public static void Line(StringBuilder svg, FormattableString line) => svg.Append(Text(line)).Append('\n');
}
