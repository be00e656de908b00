using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>Code as it ought to be written, of which nothing is to be reported: serving loops, and the samples.</summary>
public sealed class ServingCodeTests
{
    private const string ImplicitUsings = """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Threading;
        global using System.Threading.Tasks;
        """;

    [Fact]
    public void Nothing_is_reported_of_serving_code() => Assert.Empty(Diagnostics(Path.Combine(TestPaths.ProjectDirectory, "Serving")));

    /// <summary>By our analyzers: a sample may need packages that a test has no reference to.</summary>
    [Theory]
    [InlineData("samples/Quickstart")]
    [InlineData("samples/Stories")]
    [InlineData("tests/FlashInfer.GenerationSandbox")]
    [InlineData("benchmarks/FlashInfer.Benchmarks")]
    [InlineData("src/FlashInfer.Measurement")]
    public void Nothing_is_reported_of_programs(string folder) =>
        Assert.DoesNotContain(
            Diagnostics(Path.Combine(TestPaths.RepositoryRoot, folder)),
            static line => line.StartsWith("FI", StringComparison.Ordinal)
        );

    private static IEnumerable<string> Diagnostics(string folder)
    {
        string[] files =
        [
            .. Directory
                .EnumerateFiles(folder, "*.cs", SearchOption.AllDirectories)
                .Where(static file =>
                    !file.Contains("/obj/", StringComparison.Ordinal) && !file.Contains("/bin/", StringComparison.Ordinal)
                )
                // The program's statements are in the first file.
                .OrderBy(static file => Path.GetFileName(file) == "Program.cs" ? 0 : 1)
                .ThenBy(static file => file, StringComparer.Ordinal),
        ];
        Assert.NotEmpty(files);
        return GeneratorHarness
            .RunProgram(File.ReadAllText(files[0]), files.Skip(1).Select(File.ReadAllText).Append(ImplicitUsings))
            .Diagnostics()
            .Select(static d => $"{d.Id} {d.Location.GetLineSpan()} {d.GetMessage()}");
    }
}
