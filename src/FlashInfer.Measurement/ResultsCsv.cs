using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>A results file as comma-separated values (RFC 4180): a line for each row, a column for each parameter and figure that any row has.</summary>
internal static class ResultsCsv
{
    public static string Write(JsonObject file)
    {
        Dictionary<string, string>[] rows = [.. file["rows"]!.AsArray().Select(static row => Flatten(row!.AsObject()))];
        string[] columns = [.. rows.SelectMany(static row => row.Keys).Distinct()];
        StringBuilder csv = new();
        csv.AppendJoin(',', columns.Select(Quote)).Append("\r\n");
        foreach (Dictionary<string, string> row in rows)
        {
            csv.AppendJoin(',', columns.Select(column => Quote(row.GetValueOrDefault(column, "")))).Append("\r\n");
        }

        return csv.ToString();
    }

    private static Dictionary<string, string> Flatten(JsonObject row)
    {
        Dictionary<string, string> cells = [];
        foreach ((string name, JsonNode? value) in row)
        {
            foreach ((string inner, JsonNode? cell) in value is JsonObject group ? [.. group] : new[] { KeyValuePair.Create(name, value) })
            {
                cells[inner] = cell is null ? "" : Cell(cell);
            }
        }

        return cells;
    }

    private static string Cell(JsonNode value) =>
        value.GetValueKind() switch
        {
            JsonValueKind.String => value.GetValue<string>(),
            JsonValueKind.Number => value.Deserialize<double>().ToString("R", CultureInfo.InvariantCulture),
            _ => value.ToJsonString(),
        };

    private static string Quote(string text) => text.AsSpan().IndexOfAny(",\"\r\n") < 0 ? text : $"\"{text.Replace("\"", "\"\"")}\"";
}
