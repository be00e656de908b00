using System.Globalization;
using FlashInfer;
using FlashInfer.Benchmarks;
using FlashInfer.Compilation;

// Measures on a GPU: ceilings of this run, then each bench over its cases, and writes a results file for decode and one for prefill.
//   FlashInfer.Benchmarks --out DIR [--commit HASH] [--bench decode,append,plan,compile,cascade,prefill,options,single] [--python PATH] [--budget SECONDS] [--rows FILE]
//   FlashInfer.Benchmarks --chart RESULTS.json OUT.svg      draws a results file; needs no GPU
// prefill measures PyTorch in turn with us, where PATH (python3) has it, and begins no case after SECONDS (200). FILE holds rows measured
// by others, one a line: ROW|bench|case|microseconds|relative error, the last two where they apply.
CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
if (args is ["--chart", var from, var to])
{
    File.WriteAllText(to, ResultsChart.Draw(File.ReadAllText(from)));
    return 0;
}

string output = Option("--out") ?? "benchmarks/results";
string commit = Option("--commit") ?? "unknown";
string[] benches = (Option("--bench") ?? "compile,decode,append,plan,cascade,prefill,single,options").Split(',');
TimeSpan budget = TimeSpan.FromSeconds(double.Parse(Option("--budget") ?? "200"));

List<string> failures = [];

using Device device = Device.OpenCuda();
using Gpu gpu = new(device);
using TorchPeer? peer = benches.Contains("prefill")
    ? TorchPeer.Start(Option("--python") ?? "python3", TorchPeer.Script, Console.Out)
    : null;
Ceilings ceilings = gpu.MeasureCeilings() with { MatmulTflops = peer?.MatmulTflops(8192) };
string nvrtc = new KernelCompiler().DescribeNvrtc().Version?.ToString() ?? "none";
Results results = new(device, commit, ceilings, nvrtc);
Console.WriteLine($"{device.Name}, driver CUDA {device.Cuda!.DriverVersion}, NVRTC {nvrtc}, {peer?.Version ?? "no PyTorch"}");
Console.WriteLine(
    $"ceilings: read {ceilings.ReadGBps:F0} GB/s, copy {ceilings.CopyGBps:F0} GB/s (read + write), matrix instructions alone {ceilings.MathTflops:F0} TFLOP/s"
);
if (ceilings.MatmulTflops is { } tflops)
{
    Console.WriteLine($"ceiling: product of 8192 x 8192 matrices {tflops:F0} TFLOP/s");
}

foreach (string bench in benches)
{
    Add(
        bench is "prefill" or "single" or "options" ? "prefill" : "decode",
        bench switch
        {
            "compile" => CompileBench.Decode(device),
            "decode" => DecodeBench.Run(device, gpu, ceilings),
            "append" => AppendBench.Run(device, gpu, ceilings),
            "plan" => PlanBench.Decode(device),
            "cascade" => CascadeBench.Run(device, gpu, ceilings),
            "single" => SingleBench.Run(device, gpu),
            "options" => OptionBench.Run(device, gpu),
            "prefill" => PrefillBench
                .Run(device, gpu, ceilings, peer, budget, failures)
                .Concat(PlanBench.Prefill(device))
                .Concat(CompileBench.Prefill(device)),
            _ => throw new ArgumentException(
                $"--bench names '{bench}'; expected compile, decode, append, plan, cascade, prefill, single, options."
            ),
        }
    );
}

Add("decode", Option("--rows") is { } file ? Row.Read(file) : []);
foreach (string path in results.Save(output))
{
    Console.WriteLine($"wrote {path}");
}

failures.ForEach(Console.WriteLine);
return failures.Count == 0 ? 0 : 1;

void Add(string file, IEnumerable<Row> rows)
{
    try
    {
        foreach (Row row in rows)
        {
            results.Add(file, row);
            Console.WriteLine(row.ToLine());
        }
    }
    catch (FlashInferException e)
    {
        // What was measured before it is worth its file.
        failures.Add(e.Message);
    }
}

string? Option(string name)
{
    int at = Array.IndexOf(args, name);
    return at >= 0 && at + 1 < args.Length ? args[at + 1] : null;
}
