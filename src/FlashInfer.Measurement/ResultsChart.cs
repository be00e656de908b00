using System.Globalization;
using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>
/// Draws a results file as an SVG: of decode the fraction of the read ceiling over the bytes of keys and values, of prefill TFLOP/s over
/// the length. The same file gives the same bytes on every machine.
/// </summary>
internal static class ResultsChart
{
    /// <summary>Draws a file.</summary>
    /// <param name="json">The text of a results file.</param>
    /// <exception cref="FormatException">It has no rows of decode or prefill that say what was measured.</exception>
    public static string Draw(string json)
    {
        JsonNode file = JsonNode.Parse(json)!;
        JsonNode[] rows = [.. file["rows"]!.AsArray().Select(row => row!)];
        JsonNode[] decode = [.. rows.Where(IsDecode)];
        JsonNode[] prefill = [.. rows.Where(IsPrefill)];
        return decode.Length > 0 ? DrawDecode(file, decode)
            : prefill.Length > 0 ? DrawPrefill(file, prefill)
            : throw new FormatException(
                "The file has no decode rows with heads, kvHeads, headDim, kvTokens and fractionOfCeiling, and no prefill rows with heads, kvHeads, headDim, qoLen, kvLen, causal and tflops; expected a file that FlashInfer.Benchmarks wrote."
            );
    }

    internal static string DrawDecode(JsonNode file, JsonNode[] rows) =>
        Plot.Draw(
            "Batch decode: fraction of the read ceiling",
            Text($"{Origin(file)}; ceiling {(double)file["ceilings"]!["readGBps"]!:F0} GB/s, read in the same run"),
            new Plot(
                "keys and values read by one launch",
                Bytes,
                20,
                100,
                100,
                " %",
                [
                    .. rows.GroupBy(row => Name(row["params"]!))
                        .Select(series => new PlotSeries(series.Key, [.. series.Select(DecodePoint)], [])),
                ]
            )
        );

    /// <summary>One plot for causal attention and one without mask, of batches whose sequences are all alike and have as many query tokens as tokens.</summary>
    private static string DrawPrefill(JsonNode file, JsonNode[] rows)
    {
        double? ceiling = (double?)file["ceilings"]!["matmulTflops"];
        string[] peers = [.. rows.Where(HasPeer).Select(row => (string)row["peer"]!).Distinct()];
        string subtitle = Origin(file);
        if (peers.Length > 0)
        {
            subtitle += $"; dashed: {string.Join(", ", peers)} on contiguous keys and values";
        }

        if (ceiling is not null)
        {
            subtitle += Text($"; a matrix product reaches {ceiling:F0} TFLOP/s");
        }

        return Plot.Draw(
            "Batch prefill: TFLOP/s",
            subtitle,
            [
                .. rows.GroupBy(row => (bool)row["params"]!["causal"]!)
                    .OrderByDescending(mask => mask.Key)
                    .Select(mask => new Plot(
                        mask.Key ? "tokens of each sequence, causal" : "tokens of each sequence, without a mask",
                        power => power >= 10 ? $"{1 << (power - 10)}k" : $"{1 << power}",
                        100,
                        (int)Math.Ceiling((ceiling ?? 0) / 100) * 100,
                        ceiling,
                        "",
                        [
                            .. mask.GroupBy(row => Name(row["params"]!))
                                .Select(series => new PlotSeries(
                                    series.Key,
                                    [.. series.Select(row => PrefillPoint(row, "us"))],
                                    [.. series.Where(HasPeer).Select(row => PrefillPoint(row, "peerUs"))]
                                )),
                        ]
                    )),
            ]
        );
    }

    internal static string Origin(JsonNode file) => $"{file["device"]}, {file["date"]}, commit {file["commit"]}";

    internal static bool IsDecode(JsonNode row) =>
        (string?)row["bench"] == "decode"
        && Has(row, "us", "fractionOfCeiling")
        && Has(row["params"]!, "heads", "kvHeads", "headDim", "pageSize", "kvTokens", "dtype", "kvDtype", "layout", "qoLen");

    private static bool IsPrefill(JsonNode row) =>
        (string?)row["bench"] == "prefill"
        && Has(row, "us", "tflops")
        && Has(row["params"]!, "heads", "kvHeads", "headDim", "dtype", "kvDtype", "layout", "qoLen", "kvLen", "causal")
        && (int)row["params"]!["qoLen"]! == (int)row["params"]!["kvLen"]!
        && row["params"]!["lengths"] is null;

    /// <summary>Rows over pages quote the peer of their ragged sibling: it is drawn once.</summary>
    private static bool HasPeer(JsonNode row) => Has(row, "peer", "peerUs") && (string)row["params"]!["layout"]! == "Ragged";

    internal static bool Has(JsonNode values, params ReadOnlySpan<string> names)
    {
        foreach (string name in names)
        {
            if (values[name] is null)
            {
                return false;
            }
        }

        return true;
    }

    internal static PlotPoint DecodePoint(JsonNode row)
    {
        JsonNode values = row["params"]!;
        double bytes =
            2.0
            * (double)values["kvTokens"]!
            * (int)values["kvHeads"]!
            * (int)values["headDim"]!
            * (((string)values["kvDtype"]!).StartsWith("Float8", StringComparison.Ordinal) ? 1 : 2);
        double percent = (double)row["fractionOfCeiling"]! * 100;
        return new PlotPoint(bytes, percent, Text($"{row["case"]}: {(double)row["us"]!:F1} µs, {percent:F1} %"));
    }

    /// <summary>The rate of a row, or of its peer for the same work.</summary>
    private static PlotPoint PrefillPoint(JsonNode row, string time)
    {
        double tflops = (double)row["tflops"]! * (double)row["us"]! / (double)row[time]!;
        string ratio = row["ratioToPeer"] is { } value ? Text($", {(double)value:F2} of {row["peer"]}") : "";
        return new PlotPoint(
            (int)row["params"]!["kvLen"]!,
            tflops,
            Text($"{row["case"]}: {(double)row["us"]!:F1} µs, {tflops:F0} TFLOP/s{ratio}")
        );
    }

    /// <summary>Heads, and whatever differs from the default: BFloat16, headDim 128, pages of 16 tokens, NHD, for decode one query token.</summary>
    internal static string Name(JsonNode values)
    {
        bool isPrefill = values["causal"] is not null;
        bool isRagged = (string)values["layout"]! == "Ragged";
        List<string> words = [$"{values["heads"]}/{values["kvHeads"]}"];
        Add((int)values["headDim"]! != 128, $"headDim {values["headDim"]}");
        Add(isRagged, "ragged");
        Add(!isRagged && (isPrefill || (int)values["pageSize"]! != 16), $"page {values["pageSize"]}");
        Add(!isRagged && (string)values["layout"]! != "Nhd", ((string)values["layout"]!).ToUpperInvariant());
        Add((string)values["dtype"]! != "BFloat16", (string)values["dtype"]!);
        Add((string)values["kvDtype"]! != (string)values["dtype"]!, $"KV {values["kvDtype"]}");
        Add(!isPrefill && (int)values["qoLen"]! != 1, $"{values["qoLen"]} query tokens");
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

    internal static string Bytes(int power) =>
        power >= 30 ? $"{1 << (power - 30)} GiB"
        : power >= 20 ? $"{1 << (power - 20)} MiB"
        : power >= 10 ? $"{1 << (power - 10)} KiB"
        : $"{1 << power} B";

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
