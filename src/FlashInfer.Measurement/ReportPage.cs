using System.Globalization;
using System.Net;
using System.Text;

namespace FlashInfer.Measurement;

/// <summary>A column of a table.</summary>
/// <param name="Name">Its head.</param>
/// <param name="Text">A row's text; a column whose rows all have none is left out.</param>
/// <param name="IsText">Whether it begins at the left: numbers end at the right.</param>
/// <param name="Bar">A fraction to draw beside the text.</param>
internal sealed record ReportColumn<TRow>(string Name, Func<TRow, string> Text, bool IsText = false, Func<TRow, double?>? Bar = null);

/// <summary>A page of HTML that asks for nothing from elsewhere; light or dark as its reader's screen, and light on paper.</summary>
internal sealed class ReportPage
{
    private const double BarWidth = 64;

    // Charts are drawn for a white sheet: on a dark screen their colours are taken by value.
    private const string Style = """
        :root { color-scheme: light dark; --ink: #222; --faint: #666; --rule: #e4e4e4; --sheet: #fff }
        body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--sheet); max-width: 1240px; margin: 2em auto; padding: 0 1em }
        h1 { font-size: 1.7em; margin: 0 0 .5em }
        h2 { font-size: 1.2em; margin: 1.5em 0 .4em }
        dl { display: flex; flex-wrap: wrap; gap: .5em 2em; margin: 0 0 .8em }
        dt { color: var(--faint); font-size: .85em }
        dd { margin: 0; font-weight: 600 }
        figure { margin: 1.5em 0; overflow-x: auto }
        figure svg { display: block; width: 100%; min-width: 680px; max-width: 940px; height: auto }
        div { overflow-x: auto }
        table { border-collapse: collapse; font-variant-numeric: tabular-nums }
        th, td { padding: 3px 14px 3px 0; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap }
        th { color: var(--faint); font-weight: 600; font-size: .9em }
        .text { text-align: left }
        tr:hover td { background: color-mix(in srgb, var(--ink) 6%, transparent) }
        td svg { margin-left: 8px; vertical-align: middle }
        @media screen and (prefers-color-scheme: dark) {
          :root { --ink: #e6e6e6; --faint: #a0a0a0; --rule: #383838; --sheet: #161616 }
          svg[fill="#222222"], svg [fill="#333333"] { fill: #e6e6e6 }
          svg [fill="#ffffff"] { fill: #161616 }
          svg [fill="#555555"] { fill: #a0a0a0 }
          svg [fill="#e4e4e4"] { fill: #383838 }
          svg [fill="#0072b2"] { fill: #4aa8e8 }
          svg [stroke="#222222"], svg [stroke="#333333"] { stroke: #e6e6e6 }
          svg [stroke="#ffffff"] { stroke: #161616 }
          svg [stroke="#e4e4e4"] { stroke: #383838 }
          svg [stroke="#0072b2"] { stroke: #4aa8e8 }
        }
        @media print { body { max-width: none; margin: 0; font-size: 10px } figure, tr { break-inside: avoid } th, td { padding-right: 8px } }
        """;

    private readonly StringBuilder _html = new();

    public ReportPage(string title) =>
        _html.Append(
            $"""
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8"/>
            <meta name="viewport" content="width=device-width"/>
            <title>{Encode(title)}</title>
            <style>
            {Style}
            </style>
            </head>
            <body>
            <h1>{Encode(title)}</h1>

            """
        );

    /// <summary>Adds names and values in a row.</summary>
    public void Facts(ReadOnlySpan<(string Name, string Value)> facts)
    {
        _html.Append("<dl>");
        foreach ((string name, string value) in facts)
        {
            _html.Append($"<div><dt>{Encode(name)}</dt><dd>{Encode(value)}</dd></div>");
        }

        _html.Append("</dl>\n");
    }

    /// <summary>Adds an SVG, if there is one.</summary>
    public void Chart(string? svg) => _html.Append(svg is null ? "" : $"<figure>\n{svg}</figure>\n");

    /// <summary>Adds a table.</summary>
    public void Table<TRow>(string title, IEnumerable<ReportColumn<TRow>> columns, IEnumerable<TRow> rows)
    {
        TRow[] all = [.. rows];
        ReportColumn<TRow>[] used = [.. columns.Where(column => all.Any(row => column.Text(row).Length > 0))];
        _html.Append($"<h2>{Encode(title)}</h2>\n<div><table>\n<tr>");
        foreach (ReportColumn<TRow> column in used)
        {
            _html.Append($"<th{Class(column)}>{Encode(column.Name)}</th>");
        }

        _html.Append("</tr>\n");
        foreach (TRow row in all)
        {
            _html.Append("<tr>");
            foreach (ReportColumn<TRow> column in used)
            {
                _html.Append($"<td{Class(column)}>{Encode(column.Text(row))}{(column.Bar?.Invoke(row) is { } part ? Bar(part) : "")}</td>");
            }

            _html.Append("</tr>\n");
        }

        _html.Append("</table></div>\n");
    }

    public override string ToString() => $"{_html}</body>\n</html>\n";

    private static string Class<TRow>(ReportColumn<TRow> column) => column.IsText ? " class=\"text\"" : "";

    private static string Bar(double part) =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"""<svg xmlns="http://www.w3.org/2000/svg" width="{BarWidth}" height="8" viewBox="0 0 {BarWidth} 8"><rect width="{BarWidth}" height="8" fill="#e4e4e4"/><rect x="0" width="{BarWidth * Math.Clamp(part, 0, 1):F1}" height="8" fill="{Svg.Colors[0]}"/></svg>"""
        );

    private static string Encode(string text) => WebUtility.HtmlEncode(text);
}
