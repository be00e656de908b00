// What generator and analyzers cost while somebody types, in a project of 100 configurations.
//
//   dotnet run --project benchmarks/FlashInfer.EditorBenchmarks -c Release -- [FILE.json COMMIT]

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
const double LimitUs = 20_000;

JsonArray rows = [];
EditorProject project = new(Configs);
Sample opened = Take(() => project.Generate());
Add("the project is opened", [opened]);

Sample[] elsewhere = Measure(project.EditOther, () => project.Generate());
Add("an edit in a file without a configuration", elsewhere);
Sample[] config = Measure(project.EditConfig, () => project.Generate());
Add("an edit of one configuration", config);

// What an editor asks for the file that is open; the time of the analyzers alone, which is that of the clock.
Sample[] analyzed = Measure(project.EditConfig, Analyze);
Add("analyzers on the file of an edited configuration, by the clock", [.. analyzed.Select(static s => s with { CpuUs = s.WallUs })]);

bool isMet = elsewhere.All(static sample => sample.Outputs == 0) && Median(config, static sample => sample.CpuUs) <= LimitUs;
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

// Processor time of the whole process, so that what else the machine does is left out; that of the clock beside it.
static Sample Take(Func<(TimeSpan Time, int Outputs)> work)
{
    TimeSpan before = Environment.CpuUsage.TotalTime;
    (TimeSpan time, int outputs) = work();
    return new Sample((Environment.CpuUsage.TotalTime - before).TotalMicroseconds, time.TotalMicroseconds, outputs);
}

// Each edit behind the first few, which compile the compiler's own code.
static Sample[] Measure(Action<int> edit, Func<(TimeSpan Time, int Outputs)> work)
{
    List<Sample> samples = [];
    for (int i = 0; i < Warmup + Edits; i++)
    {
        edit(i);
        samples.Add(Take(work));
    }

    return [.. samples.Skip(Warmup)];
}

static double Median(Sample[] samples, Func<Sample, double> time) => samples.Select(time).Order().ElementAt(samples.Length / 2);

(TimeSpan Time, int Outputs) Analyze()
{
    _ = project.Generate();
    DiagnosticAnalyzer[] analyzers = [new AttentionConfigAnalyzer(), new UsageAnalyzer()];
    CompilationWithAnalyzers compilation = project.Output.WithAnalyzers(
        [.. analyzers],
        new CompilationWithAnalyzersOptions(new AnalyzerOptions([]), null, concurrentAnalysis: false, logAnalyzerExecutionTime: true)
    );
    SemanticModel model = project.Output.GetSemanticModel(project.ConfigTree);

    // The compiler's own work on the file, which an editor wants as well.
    _ = model.GetDiagnostics();
    int count = compilation.GetAnalyzerSemanticDiagnosticsAsync(model, null, CancellationToken.None).GetAwaiter().GetResult().Length;
    TimeSpan time = TimeSpan.Zero;
    foreach (DiagnosticAnalyzer analyzer in analyzers)
    {
        time += compilation.GetAnalyzerTelemetryInfoAsync(analyzer, CancellationToken.None).GetAwaiter().GetResult().ExecutionTime;
    }

    return (time, count);
}

void Add(string what, Sample[] samples)
{
    double cpu = Median(samples, static sample => sample.CpuUs);
    double wall = Median(samples, static sample => sample.WallUs);
    double best = samples.Min(static sample => sample.WallUs);
    int outputs = samples.Max(static sample => sample.Outputs);
    Console.WriteLine(
        string.Create(
            CultureInfo.InvariantCulture,
            $"{what, -66} {cpu, 9:F0} us of processor time, {wall, 9:F0} us by the clock, {best, 9:F0} at best; {outputs} outputs"
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
                ["edits"] = samples.Length,
                ["outputs"] = outputs,
            },
            ["us"] = Math.Round(cpu, 1),
            ["clockUs"] = Math.Round(wall, 1),
            ["bestClockUs"] = Math.Round(best, 1),
        }
    );
}

/// <summary>One edit.</summary>
/// <param name="CpuUs">Microseconds of processor time, the driver's included.</param>
/// <param name="WallUs">Microseconds by the clock.</param>
/// <param name="Outputs">What was made or changed: models and files of the generator, or diagnostics.</param>
internal sealed record Sample(double CpuUs, double WallUs, int Outputs);
