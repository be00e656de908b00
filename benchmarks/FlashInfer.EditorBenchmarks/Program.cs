// What generator and analyzers cost while somebody types, in a project of 100 configurations.
//
//   dotnet run --project benchmarks/FlashInfer.EditorBenchmarks -c Release -- [FILE.json COMMIT]

using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using FlashInfer.EditorBenchmarks;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Diagnostics.Usage;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Diagnostics;

const int Configs = 100;
const int Warmup = 10;
const int Edits = 60;

JsonArray rows = [];
EditorProject project = new(Configs);
(TimeSpan first, int made) = project.Generate();
Add("the project is opened", [first.TotalMicroseconds], made);

double[] elsewhere = Measure(project.EditOther, () => project.Generate(), out int changedElsewhere);
Add("an edit in a file without a configuration", elsewhere, changedElsewhere);
double[] config = Measure(project.EditConfig, () => project.Generate(), out int changedConfig);
Add("an edit of one configuration", config, changedConfig);

// What an editor asks for the file that is open.
double[] analyzed = Measure(project.EditConfig, Analyze, out int reported);
Add("analyzers on the file of an edited configuration, which uses it", analyzed, reported);

bool isMet = changedElsewhere == 0 && Median(config) <= 20_000;
Console.WriteLine(isMet ? "nothing runs again elsewhere, and an edit costs at most 20 ms" : "TOO MUCH");
if (args is [var file, var commit])
{
    JsonObject results = new()
    {
        ["device"] = $"CPU ({RuntimeInformation.ProcessArchitecture}, {Environment.ProcessorCount} threads)",
        ["date"] = DateTime.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture),
        ["commit"] = commit,
        ["rows"] = rows,
    };
    File.WriteAllText(file, results.ToJsonString(new JsonSerializerOptions { WriteIndented = true, IndentSize = 2 }) + "\n");
}

return isMet ? 0 : 1;

(TimeSpan Time, int Changed) Analyze()
{
    _ = project.Generate();
    SemanticModel model = project.Output.GetSemanticModel(project.ConfigTree);

    // The compiler's own work on the file, which an editor has done by then.
    _ = model.GetDiagnostics();
    CompilationWithAnalyzers compilation = project.Output.WithAnalyzers([new AttentionConfigAnalyzer(), new UsageAnalyzer()]);
    Stopwatch watch = Stopwatch.StartNew();
    int count = compilation.GetAnalyzerSemanticDiagnosticsAsync(model, null, CancellationToken.None).GetAwaiter().GetResult().Length;
    return (watch.Elapsed, count);
}

// Microseconds of each edit behind the first few, which compile the compiler's own code.
static double[] Measure(Action<int> edit, Func<(TimeSpan Time, int Changed)> work, out int changed)
{
    List<double> times = [];
    changed = 0;
    for (int i = 0; i < Warmup + Edits; i++)
    {
        edit(i);
        (TimeSpan time, changed) = work();
        if (i >= Warmup)
        {
            times.Add(time.TotalMicroseconds);
        }
    }

    return [.. times];
}

static double Median(double[] times)
{
    double[] sorted = [.. times.Order()];
    return sorted[sorted.Length / 2];
}

void Add(string what, double[] times, int changed)
{
    double[] sorted = [.. times.Order()];
    double slow = sorted[(int)(0.95 * (sorted.Length - 1))];
    Console.WriteLine(
        string.Create(
            CultureInfo.InvariantCulture,
            $"{what, -66} {Median(times), 10:F0} us, 95 % within {slow, 8:F0} us; {changed} outputs"
        )
    );
    rows.Add(
        new JsonObject
        {
            ["bench"] = "editor",
            ["case"] = $"{Configs} configurations: {what}",
            ["params"] = new JsonObject
            {
                ["configs"] = Configs,
                ["edits"] = times.Length,
                ["outputs"] = changed,
            },
            ["us"] = Math.Round(Median(times), 1),
            ["us95"] = Math.Round(slow, 1),
        }
    );
}
