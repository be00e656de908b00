using System.Globalization;
using FlashInfer;
using FlashInfer.Benchmarks;
using FlashInfer.Compilation;

// Measures on a GPU: ceilings of this run, then decode over a grid of cases, append, planning and compiling, and writes a results file.
//   FlashInfer.Benchmarks --out DIR [--commit HASH] [--only decode,append,plan,compile] [--rows FILE]
//   FlashInfer.Benchmarks --chart RESULTS.json OUT.svg      draws a results file; needs no GPU
// FILE holds rows measured by others, one a line: ROW|bench|case|microseconds|relative error, the last two where they apply.
CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
if (args is ["--chart", var from, var to])
{
    File.WriteAllText(to, ResultsChart.Draw(File.ReadAllText(from)));
    return 0;
}

string output = Option("--out") ?? "benchmarks/results";
string commit = Option("--commit") ?? "unknown";
string[] only = (Option("--only") ?? "compile,decode,append,plan").Split(',');

using Device device = Device.OpenCuda();
using Gpu gpu = new(device);
Ceilings ceilings = gpu.MeasureCeilings();
Results results = new(device, commit, ceilings, new KernelCompiler().DescribeNvrtc().Version?.ToString() ?? "none");
Console.WriteLine($"{device.Name}, driver CUDA {device.Cuda!.DriverVersion}, NVRTC {results.Nvrtc}");
Console.WriteLine($"ceilings: read {ceilings.ReadGBps:F0} GB/s, copy {ceilings.CopyGBps:F0} GB/s (read + write)");
foreach (string bench in only)
{
    IEnumerable<Row> rows = bench switch
    {
        "compile" => CompileBench.Run(device),
        "decode" => DecodeBench.Run(device, gpu, ceilings),
        "append" => AppendBench.Run(device, gpu, ceilings),
        "plan" => PlanBench.Run(device),
        _ => throw new ArgumentException($"--only names '{bench}'; expected compile, decode, append, plan."),
    };
    foreach (Row row in rows)
    {
        results.Add(row);
        Console.WriteLine(row.ToLine());
    }
}

foreach (Row row in Option("--rows") is { } file ? Row.Read(file) : [])
{
    results.Add(row);
    Console.WriteLine(row.ToLine());
}

Console.WriteLine($"wrote {results.Save(output)}");
return 0;

string? Option(string name)
{
    int at = Array.IndexOf(args, name);
    return at >= 0 && at + 1 < args.Length ? args[at + 1] : null;
}
