using System.Globalization;
using System.Xml.Linq;
using FlashInfer.Tests.PublicApi;

namespace FlashInfer.Tests.Benchmarks;

public sealed class ResultsChartTests
{
    private const string Small = """
        {
          "device": "GPU <1> & more", "driver": "13.0", "nvrtc": "13.0", "date": "2026-01-02", "commit": "abc1234",
          "ceilings": { "readGBps": 3000.4, "copyGBps": 2800 },
          "rows": [
            { "bench": "plan", "case": "Plan", "params": {}, "us": 3 },
            { "bench": "decode", "case": "of another tool", "params": { "variant": "x" }, "us": 3, "fractionOfCeiling": 0.1 },
            ROW("small", 32, 8, 128, 512, "BFloat16", "default", 0.25),
            ROW("large", 32, 8, 128, 131072, "BFloat16", "default", 0.95),
            ROW("large, less", 32, 8, 128, 131072, "BFloat16", "default", 0.5),
            ROW("fp8 portable", 71, 1, 64, 1000, "Float8E4M3", "portable", 1.1)
          ]
        }
        """;

    private const string Prefill = """
        {
          "device": "GPU", "date": "2026-01-02", "commit": "abc1234", "ceilings": { "readGBps": 3000, "matmulTflops": 750 },
          "rows": [
            { "bench": "plan", "case": "Plan", "params": {}, "us": 3 },
            { "bench": "prefill", "case": "a", "us": 100, "tflops": 400, "peer": "cuDNN 9.19", "peerUs": 125, "ratioToPeer": 1.25, "params":
              { "heads": 32, "kvHeads": 8, "headDim": 128, "dtype": "BFloat16", "kvDtype": "BFloat16", "layout": "Ragged", "qoLen": 512, "kvLen": 512, "causal": true, "variant": "default" } },
            { "bench": "prefill", "case": "b", "us": 100, "tflops": 600, "peer": "cuDNN 9.19", "peerUs": 125, "ratioToPeer": 1.25, "params":
              { "heads": 32, "kvHeads": 8, "headDim": 128, "dtype": "BFloat16", "kvDtype": "BFloat16", "layout": "Ragged", "qoLen": 2048, "kvLen": 2048, "causal": true } },
            { "bench": "prefill", "case": "c", "us": 100, "tflops": 500, "params":
              { "heads": 32, "kvHeads": 8, "headDim": 128, "dtype": "BFloat16", "kvDtype": "BFloat16", "pageSize": 16, "layout": "Hnd", "qoLen": 2048, "kvLen": 2048, "causal": true, "variant": "portable" } },
            { "bench": "prefill", "case": "d", "us": 100, "tflops": 820, "params":
              { "heads": 32, "kvHeads": 8, "headDim": 128, "dtype": "BFloat16", "kvDtype": "BFloat16", "layout": "Ragged", "qoLen": 512, "kvLen": 512, "causal": false } },
            { "bench": "prefill", "case": "chunk", "us": 100, "tflops": 1, "params":
              { "heads": 32, "kvHeads": 8, "headDim": 64, "dtype": "BFloat16", "kvDtype": "BFloat16", "layout": "Ragged", "qoLen": 512, "kvLen": 2048, "causal": true } },
            { "bench": "prefill", "case": "lengths", "us": 100, "tflops": 1, "params":
              { "heads": 32, "kvHeads": 8, "headDim": 64, "dtype": "BFloat16", "kvDtype": "BFloat16", "layout": "Ragged", "qoLen": 512, "kvLen": 512, "causal": true, "lengths": "mixed" } }
          ]
        }
        """;

    [Fact]
    public void A_small_file_is_drawn()
    {
        XElement svg = XElement.Parse(ResultsChart.Draw(Rows(Small)));
        XNamespace ns = "http://www.w3.org/2000/svg";
        string[] texts = [.. svg.Descendants(ns + "text").Select(text => text.Value)];
        string[] titles = [.. svg.Descendants(ns + "title").Select(title => title.Value)];

        Assert.Contains("GPU <1> & more, 2026-01-02, commit abc1234; ceiling 3000 GB/s, read in the same run", texts);
        Assert.Equal(
            ["small: 4.5 µs, 25.0 %", "large: 4.5 µs, 95.0 %", "large, less: 4.5 µs, 50.0 %", "fp8 portable: 4.5 µs, 110.0 %"],
            titles
        );
        Assert.Equal(["32/8", "71/1 headDim 64 KV Float8E4M3 portable"], texts.TakeLast(2));
        // 512 tokens of 8 * 128 * 2 * 2 bytes are 2 MiB, 131,072 are 512 MiB, and 1,000 of 64 * 2 bytes are 125 KiB.
        Assert.Equal(
            ["64 KiB", "256 KiB", "1 MiB", "4 MiB", "16 MiB", "64 MiB", "256 MiB", "1 GiB"],
            texts.Where(text => text.EndsWith("iB", StringComparison.Ordinal))
        );
        Assert.Contains("120 %", texts);
        // One line, through the better of the two at 512 MiB: x is 5/14 and 13/14 of the plot, y a quarter and 95 of 120 % of its height.
        Assert.Contains(svg.Descendants(ns + "path"), path => (string?)path.Attribute("d") == "M291.4 400.7L645.7 167.3");
        Assert.Single(svg.Descendants(ns + "path"), path => path.Attribute("stroke-opacity") is not null);
    }

    [Fact]
    public void Prefill_rows_are_drawn_with_their_peers_and_the_ceiling()
    {
        XElement svg = XElement.Parse(ResultsChart.Draw(Prefill));
        XNamespace ns = "http://www.w3.org/2000/svg";
        string[] texts = [.. svg.Descendants(ns + "text").Select(text => text.Value)];
        string[] titles = [.. svg.Descendants(ns + "title").Select(title => title.Value)];

        Assert.Contains(
            "GPU, 2026-01-02, commit abc1234; dashed: cuDNN 9.19 on contiguous keys and values; a matrix product reaches 750 TFLOP/s",
            texts
        );
        Assert.Equal(
            [
                "a: 100.0 µs, 400 TFLOP/s, 1.25 of cuDNN 9.19",
                "b: 100.0 µs, 600 TFLOP/s, 1.25 of cuDNN 9.19",
                "c: 100.0 µs, 500 TFLOP/s",
                "d: 100.0 µs, 820 TFLOP/s",
            ],
            titles
        );
        // What has other numbers of query tokens than of tokens, or different lengths, has no place on the axis.
        Assert.DoesNotContain(texts, text => text.Contains("headDim 64", StringComparison.Ordinal));
        Assert.Equal(
            ["32/8 ragged", "32/8 page 16 HND portable"],
            texts.Where(text => text.StartsWith("32/8", StringComparison.Ordinal)).Take(2)
        );
        Assert.Equal(
            ["tokens of each sequence, causal", "tokens of each sequence, without a mask"],
            texts.Where(text => text.Contains("sequence,", StringComparison.Ordinal))
        );
        Assert.Equal(["256", "1k", "4k"], texts.Where(text => text is "256" or "1k" or "4k").Distinct());
        // From 512 to 2k tokens, a quarter and three quarters of the plot: 400 and 600 of 800 TFLOP/s, and the peer at 1 / 1.25 of them.
        string[] lines =
        [
            .. svg.Descendants(ns + "path")
                .Where(path => path.Attribute("stroke-opacity") is not null)
                .Select(path => $"{path.Attribute("d")?.Value} {path.Attribute("stroke-dasharray")?.Value}"),
        ];
        Assert.Equal(["M225.0 284.0L535.0 184.0 ", "M225.0 324.0L535.0 244.0 5 4"], lines);
        // The ceiling stands out, between two lines of the grid.
        Assert.Contains(
            svg.Descendants(ns + "path"),
            path => (string?)path.Attribute("d") == "M70 109.0H690" && (string?)path.Attribute("stroke") == "#999999"
        );
        Assert.Contains("900", texts);
    }

    [Fact]
    public void A_long_subtitle_takes_two_lines()
    {
        XElement svg = XElement.Parse(ResultsChart.Draw(Prefill.Replace("\"GPU\"", "\"A GPU of a long name\"", StringComparison.Ordinal)));
        XNamespace ns = "http://www.w3.org/2000/svg";
        string[] texts = [.. svg.Descendants(ns + "text").Select(text => text.Value)];

        Assert.Equal(
            [
                "A GPU of a long name, 2026-01-02, commit abc1234; dashed: cuDNN 9.19 on contiguous keys and values;",
                "a matrix product reaches 750 TFLOP/s",
            ],
            texts[1..3]
        );
    }

    [Fact]
    public void The_culture_of_the_machine_does_not_matter()
    {
        string before = ResultsChart.Draw(Rows(Small));
        CultureInfo culture = CultureInfo.CurrentCulture;
        CultureInfo commas = (CultureInfo)CultureInfo.InvariantCulture.Clone();
        commas.NumberFormat.NumberDecimalSeparator = ",";
        try
        {
            CultureInfo.CurrentCulture = commas;
            Assert.Equal(before, ResultsChart.Draw(Rows(Small)));
        }
        finally
        {
            CultureInfo.CurrentCulture = culture;
        }
    }

    [Fact]
    public void A_file_without_rows_of_decode_or_prefill_is_refused() =>
        Assert.Contains(
            "no decode rows",
            Assert.Throws<FormatException>(() => ResultsChart.Draw("""{ "rows": [] }""")).Message,
            StringComparison.Ordinal
        );

    [Fact]
    public void The_charts_in_the_repository_show_their_files()
    {
        string[] charts = Directory.GetFiles(ApprovedFile.RepositoryPath("benchmarks", "results"), "*.svg");
        Assert.NotEmpty(charts);
        Assert.All(
            charts,
            chart =>
                Assert.Equal(
                    ResultsChart.Draw(File.ReadAllText(Path.ChangeExtension(chart, ".json"))),
                    File.ReadAllText(chart).ReplaceLineEndings("\n")
                )
        );
    }

    /// <summary>ROW(case, heads, kvHeads, headDim, kvTokens, kvDtype, variant, fraction) in the text, as the benchmark writes a row.</summary>
    private static string Rows(string text) =>
        System.Text.RegularExpressions.Regex.Replace(
            text,
            """ROW\(("[^"]*"), (.*?), (.*?), (.*?), (.*?), ("[^"]*"), ("[^"]*"), (.*?)\)""",
            """{ "bench": "decode", "case": $1, "params": { "heads": $2, "kvHeads": $3, "headDim": $4, "kvTokens": $5, "dtype": "BFloat16", "kvDtype": $6, "variant": $7, "pageSize": 16, "layout": "Nhd", "qoLen": 1 }, "us": 4.5, "fractionOfCeiling": $8 }"""
        );
}
