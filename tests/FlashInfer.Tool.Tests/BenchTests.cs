using System.Globalization;
using System.Text.Json;
using FlashInfer.Measurement;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Tools;

/// <summary>Measuring on the CPU over a tiny grid, and comparing results files.</summary>
public sealed class BenchTests
{
    private static readonly string[] s_tiny =
    [
        "bench",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--heads",
        "4",
        "--kv-heads",
        "2",
        "--head-dim",
        "64",
        "--decode",
        "2x40",
        "--prefill",
        "1x20",
    ];

    [SkippableTheory]
    [InlineData("sm_80")]
    [InlineData("sm_90a")]
    public void The_kernels_that_measure_on_a_GPU_compile(string architecture)
    {
        using TemporaryFolder cache = new();
        Assert.NotEmpty(TestNvrtc.Compiler(cache.Path).Compile(Gpu.Unit(), architecture).Cubin.ToArray());
    }

    [Fact]
    public void A_grid_is_measured_and_written_in_three_forms()
    {
        using TemporaryFolder folder = new();

        ToolResult run = ToolProcess.RunBare([.. s_tiny, "--output", folder.Path]);

        Assert.True(run.ExitCode == 0, run.ToString());
        Assert.Matches(@"At best, measured now: \d+ GB/s read from memory, [\d.]+ [TG]FLOP/s of", run.Output);
        Assert.Matches(@"decode +4/2 d64 page 16 Nhd bf16 batch=2 kvLen=40 +\d+\.\d +\d+\.\d % ", run.Output);
        Assert.Matches(@"prefill +4/2 d64 page 16 Nhd bf16 causal batch=1 qoLen=20 kvLen=20 +\d+\.\d ", run.Output);

        string[] files = [.. folder.Files.Order(StringComparer.Ordinal)];
        Assert.Collection(
            files,
            csv => Assert.EndsWith("-bench.csv", csv, StringComparison.Ordinal),
            html => Assert.EndsWith("-bench.html", html, StringComparison.Ordinal),
            json => Assert.EndsWith("-bench.json", json, StringComparison.Ordinal)
        );
        string[] lines = File.ReadAllLines(folder.File(files[0]));
        Assert.Equal(3, lines.Length);
        Assert.StartsWith("bench,case,variant,dtype,", lines[0], StringComparison.Ordinal);
        string page = File.ReadAllText(folder.File(files[1]));
        const int Pictures = 3 + 2; // charts, and a bar for each case
        Assert.Equal(Pictures, page.Split("<svg ").Length - 1);

        // Self-contained: the only address in it is the name of SVG.
        Assert.Equal(Pictures, page.Split("http").Length - 1);
        Assert.DoesNotContain("src=", page, StringComparison.Ordinal);
        CheckFile(JsonDocument.Parse(File.ReadAllText(folder.File(files[2]))).RootElement);
    }

    [Fact]
    public void As_JSON_it_is_the_results_file_and_only_what_was_asked_for_is_measured()
    {
        ToolResult run = ToolProcess.RunBare([.. s_tiny[..^2], "--json"]);

        Assert.True(run.ExitCode == 0, run.ToString());
        JsonElement row = Assert.Single(run.Json.GetProperty("rows").EnumerateArray());
        Assert.Equal("decode", row.GetProperty("bench").GetString());
        Assert.Equal(80, row.GetProperty("params").GetProperty("kvTokens").GetInt32());
    }

    [Theory]
    [InlineData(2, "--decode has '8by4'; expected a batch and the tokens of each sequence", "--decode", "8by4")]
    [InlineData(2, "--prefill has '0x4'", "--prefill", "0x4")]
    [InlineData(2, "--device is 'tpu'; expected auto, gpu or cpu.", "--device", "tpu")]
    [InlineData(2, "headDim is 72", "--device", "cpu", "--head-dim", "72")]
    [InlineData(2, "--threads is 0; expected 1 or more.", "--threads", "0")]
    [InlineData(1, "NVIDIA driver", "--device", "gpu")]
    public void What_cannot_be_measured_is_said(int exitCode, string message, params string[] arguments)
    {
        ToolResult run = ToolProcess.RunBare(["bench", .. arguments]);

        Assert.Equal(exitCode, run.ExitCode);
        Assert.Contains(message, run.Errors, StringComparison.Ordinal);
        Assert.Equal("", run.Output);
    }

    [Fact]
    public void A_comparison_finds_what_became_slower_by_more_than_tolerance_and_noise()
    {
        using TemporaryFolder folder = new();
        Write(folder, "a.json", ("same", 100, 0.01), ("slower", 100, 0.01), ("noisy", 100, 0.5), ("faster", 100, 0.01), ("gone", 1, 0));
        Write(folder, "b.json", ("same", 104, 0.01), ("slower", 110, 0.01), ("noisy", 140, 0.01), ("faster", 50, 0.01));

        ToolResult run = Compare(folder, "--json", "--html", folder.File("c.html"));

        Assert.Equal(1, run.ExitCode);
        Assert.Equal(
            ["same", "slower", "same", "faster"],
            run.Json.GetProperty("cases").EnumerateArray().Select(static row => row.GetProperty("verdict").GetString())
        );
        Assert.Equal(1, run.Json.GetProperty("unpaired").GetInt32());
        Assert.Contains("<rect x=", File.ReadAllText(folder.File("c.html")), StringComparison.Ordinal);

        ToolResult text = Compare(folder, "--tolerance", "12");
        Assert.Equal(0, text.ExitCode);
        Assert.Matches(@"decode +faster +100\.0 +50\.0 +2\.000 +1\.0 % +faster", text.Output);
        Assert.Contains("4 cases, on the geometric mean 1.0", text.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Files_that_cannot_be_compared_are_refused()
    {
        using TemporaryFolder folder = new();
        Write(folder, "a.json", ("one", 100, 0));
        Write(folder, "b.json", ("other", 100, 0));

        ToolResult different = Compare(folder);
        Assert.Equal(2, different.ExitCode);
        Assert.Contains("no case in common", different.Errors, StringComparison.Ordinal);

        File.WriteAllText(folder.File("b.json"), "[1]");
        ToolResult other = Compare(folder);
        Assert.Equal(2, other.ExitCode);
        Assert.Contains("is no results file", other.Errors, StringComparison.Ordinal);
    }

    private static void CheckFile(JsonElement file)
    {
        Assert.Matches(@"^CPU \(\w+, 1 thread\)$", file.GetProperty("device").GetString()!);
        Assert.StartsWith("0.1.0", file.GetProperty("commit").GetString(), StringComparison.Ordinal);
        Assert.InRange(file.GetProperty("ceilings").GetProperty("readGBps").GetDouble(), 0.1, 10_000);
        Assert.InRange(file.GetProperty("ceilings").GetProperty("mathTflops").GetDouble(), 0.0001, 100);
        foreach (JsonElement row in file.GetProperty("rows").EnumerateArray())
        {
            Assert.InRange(row.GetProperty("us").GetDouble(), 0.1, 60e6);
            Assert.InRange(row.GetProperty("relError").GetDouble(), 0, 1e-2);
            Assert.True(row.GetProperty("fractionOfCeiling").GetDouble() > 0);
            Assert.Contains(row.GetProperty("boundBy").GetString(), (string[])["memory", "math"]);
        }
    }

    private static ToolResult Compare(TemporaryFolder folder, params string[] arguments) =>
        ToolProcess.RunBare(["bench", "compare", folder.File("a.json"), folder.File("b.json"), .. arguments]);

    private static void Write(TemporaryFolder folder, string name, params (string Case, double Us, double Spread)[] rows) =>
        File.WriteAllText(
            folder.File(name),
            $$"""
            { "device": "GPU", "date": "2026-01-02", "commit": "abc", "ceilings": { "readGBps": 1000 }, "rows": [
              {{string.Join(
                ",",
                rows.Select(static row =>
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $$"""{ "bench": "decode", "case": "{{row.Case}}", "params": {}, "us": {{row.Us}}, "spread": {{row.Spread}} }"""
                    )
                )
            )}} ] }
            """
        );
}
