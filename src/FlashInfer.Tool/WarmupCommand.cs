using System.CommandLine;
using System.Diagnostics;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer warmup</c>: the kernels of an assembly into this user's cache.</summary>
internal static class WarmupCommand
{
    private static readonly Option<string> s_architecture = Options.Architecture("When not given: those of this machine.");

    public static Command Create()
    {
        Command command = new("warmup", "Compile the kernels of an assembly into the kernel cache, so that its program finds them there.")
        {
            Options.Assembly,
            Options.Reference,
            s_architecture,
            Options.Kernels,
            Options.Checked,
            Options.Jobs,
            Options.Nvrtc,
            Options.CacheDirectory,
        };
        command.SetAction(static line => Output.Run(line, output => Run(line, output)));
        return command;
    }

    private static int Run(ParseResult line, Output output)
    {
        long start = Stopwatch.GetTimestamp();
        string[] architectures = Options.Architectures(line.GetValue(s_architecture)) ?? OfThisMachine();
        IReadOnlyList<FoundConfig> configs = Options.Configs(line);
        KernelCompiler compiler = Options.Compiler(line);
        if (compiler.CacheDirectory is not { } folder)
        {
            throw new ToolException(ExitCode.Bad, "This user has no cache folder; name one with --cache-dir or FLASHINFER_CACHE_DIR.");
        }

        var kernels = KernelBuild.Run(
            compiler,
            Options.Units(line, configs, Options.Kinds(line)),
            architectures,
            line.GetValue(Options.Jobs),
            output
        );
        BuildReport report = new(
            folder,
            configs.Count,
            architectures,
            kernels.Length,
            kernels.Count(static k => k.Kernel.Origin == KernelOrigin.Compiled),
            kernels.Sum(static k => (long)k.Kernel.Cubin.Length),
            Math.Round(Stopwatch.GetElapsedTime(start).TotalSeconds, 3)
        );
        output.Answer(report, _ => report.WriteTo(output));
        return ExitCode.Good;
    }

    private static string[] OfThisMachine()
    {
        List<string> found = [];
        int count = CudaContext.DeviceCount;
        for (int i = 0; i < count; i++)
        {
            using CudaContext context = CudaContext.Open(i);
            found.Add(context.Architecture);
        }

        return found.Count > 0
            ? [.. found.Distinct()]
            : throw new ToolException(
                ExitCode.Bad,
                "This machine has no GPU to compile for; name one with --architecture, such as sm_90a. flashinfer doctor says what is missing."
            );
    }
}
