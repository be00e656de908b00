using System.Diagnostics;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Benchmarks;

/// <summary>From a unit's text to a launchable kernel: with NVRTC, and from the disk cache. NVRTC's own cache must be off (CUDA_CACHE_DISABLE=1).</summary>
internal static class CompileBench
{
    public static IEnumerable<Row> Decode(Device device) =>
        Run(
            device,
            new AttentionSpec[]
            {
                new(32, 8, 128, 16, DType.BFloat16),
                new(32, 32, 64, 16, DType.Float16),
                new(32, 8, 256, 16, DType.BFloat16),
                new(32, 8, 128, 1, DType.BFloat16),
            }.SelectMany(spec => new[] { spec.DecodeUnit, spec.AppendUnit })
        );

    public static IEnumerable<Row> Prefill(Device device)
    {
        AttentionSpec spec = new(32, 8, 128, 16, DType.BFloat16);
        return Run(device, [spec.PrefillPagedUnit, spec.PrefillRaggedUnit]);
    }

    private static IEnumerable<Row> Run(Device device, IEnumerable<TranslationUnit> units)
    {
        if (Environment.GetEnvironmentVariable("CUDA_CACHE_DISABLE") != "1")
        {
            throw new InvalidOperationException(
                "Set CUDA_CACHE_DISABLE=1: NVRTC would answer from its own cache and the times would say nothing."
            );
        }

        string folder = Path.Combine(Path.GetTempPath(), $"flashinfer-bench-{Guid.NewGuid():N}");
        try
        {
            foreach (TranslationUnit unit in units)
            {
                // A folder for each round: in one of its own every round compiles again.
                int round = 0;
                yield return Row(unit, "cold", Timing.OfFive(() => Measure(device, unit, Path.Combine(folder, $"{round++}"), "cold")));
                yield return Row(unit, "cached", Timing.OfFive(() => Measure(device, unit, Path.Combine(folder, "0"), "cached")));
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static Row Row(TranslationUnit unit, string how, Timing timing) =>
        new Row("compile", $"{unit.Name} {how} to launchable", new() { ["unit"] = unit.Name, ["how"] = how }).With(timing);

    private static double Measure(Device device, TranslationUnit unit, string folder, string how)
    {
        long start = Stopwatch.GetTimestamp();
        KernelCompiler compiler = new(new KernelCompilerOptions { CacheDirectory = folder });
        CompiledKernel kernel = compiler.Compile(unit, device.Cuda!.Architecture);
        using CudaModule module = CudaModule.Load(device.Cuda, kernel.Cubin.Span);
        _ = module.GetFunction(unit.Name);
        double us = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
        if (kernel.FromCache != (how == "cached"))
        {
            throw new InvalidOperationException(
                $"{unit.Name} was to be measured {how}, but the disk cache {(kernel.FromCache ? "answered" : "did not answer")}."
            );
        }

        return us;
    }
}
