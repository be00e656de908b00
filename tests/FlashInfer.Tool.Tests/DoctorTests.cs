using System.Text.Json;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Tools;

public sealed class DoctorTests
{
    [Fact]
    public void A_machine_without_anything_is_told_what_runs_and_what_to_do()
    {
        using TemporaryFolder cache = new();

        ToolResult result = ToolProcess.RunBare("doctor", "--cache-dir", cache.Path);

        Assert.Equal(1, result.ExitCode);
        Assert.Equal("", result.Errors);
        string[] lines = result.Output.Split('\n');
        Assert.Matches(@"^FlashInfer \d+\.\d+\.\d+ on \.NET 10", lines[0]);
        Assert.Contains(
            lines,
            static line =>
                line.StartsWith("NVRTC   no  NVRTC, CUDA's run-time compiler, cannot be used from '/nowhere'.", StringComparison.Ordinal)
        );
        Assert.Contains("  /nowhere: no such file or folder", result.Output, StringComparison.Ordinal);
        Assert.Contains(lines, line => line.Contains($"{cache.Path}, can be written; 0 kernels", StringComparison.Ordinal));
        Assert.Contains(lines, static line => line.StartsWith("Programs run on CPU (", StringComparison.Ordinal));
        Assert.Single(lines, static line => line.StartsWith("To do: ", StringComparison.Ordinal));
        Assert.All(lines, static line => Assert.Equal(line.TrimEnd(), line));
        Assert.DoesNotContain('\u001b', result.Output);
    }

    [Fact]
    public void The_same_as_JSON()
    {
        using TemporaryFolder cache = new();

        ToolResult result = ToolProcess.RunBare("doctor", "--json", "--cache-dir", cache.Path);

        Assert.Equal(1, result.ExitCode);
        JsonElement report = result.Json;
        Assert.Equal("cpu", report.GetProperty("runs").GetProperty("on").GetString());
        Assert.StartsWith("cpu_decode_v", report.GetProperty("runs").GetProperty("kernels").GetString(), StringComparison.Ordinal);
        Assert.NotEqual(0, report.GetProperty("nvrtc").GetProperty("tried").GetArrayLength());
        Assert.Equal(JsonValueKind.Null, report.GetProperty("nvrtc").GetProperty("version").ValueKind);
        Assert.Equal(cache.Path, report.GetProperty("cache").GetProperty("folder").GetString());
        Assert.NotEmpty(report.GetProperty("next").GetString()!);
    }

    [SkippableFact]
    public void A_compiler_is_named_with_version_and_architectures()
    {
        JsonElement nvrtc = ToolProcess.RunWithNvrtc("doctor", "--json").Json.GetProperty("nvrtc");

        Assert.StartsWith("1", nvrtc.GetProperty("version").GetString(), StringComparison.Ordinal);
        Assert.Contains("sm_80", nvrtc.GetProperty("architectures").EnumerateArray().Select(static a => a.GetString()));
        Assert.Equal(JsonValueKind.Null, nvrtc.GetProperty("problem").ValueKind);
    }

    [Fact]
    public void A_cache_that_cannot_be_written_is_told()
    {
        using TemporaryFolder folder = new();
        File.WriteAllText(folder.File("file"), "");

        ToolResult result = ToolProcess.RunBare("doctor", "--json", "--cache-dir", folder.File("file"));

        string? problem = result.Json.GetProperty("cache").GetProperty("problem").GetString();
        Assert.StartsWith("The folder cannot be written: ", problem, StringComparison.Ordinal);
    }

    [Fact]
    public void A_damaged_bundle_of_a_program_is_told()
    {
        using TemporaryFolder program = new();
        File.WriteAllText(program.File("App.fikernels"), "not a bundle");

        JsonElement bundle = Assert.Single(
            ToolProcess.RunBare("doctor", "--json", "--program", program.Path).Json.GetProperty("bundles").EnumerateArray()
        );

        Assert.Equal("It is none: it does not begin as one; build the program again.", bundle.GetProperty("problem").GetString());
    }
}
