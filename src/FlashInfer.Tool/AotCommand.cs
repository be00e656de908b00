using System.CommandLine;
using System.Diagnostics;
using FlashInfer.Compilation;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer aot</c>: the kernels of an assembly into a bundle beside it.</summary>
internal static class AotCommand
{
    private static readonly Option<string> s_architecture = Options.Architecture(
        $"When not given: {string.Join(",", Options.UsualArchitectures)}."
    );
    private static readonly Option<string> s_output = new("--output", "-o")
    {
        Description = $"The bundle; beside the assembly when not given, with {KernelBundle.Extension} in place of .dll.",
        HelpName = "FILE",
    };

    private static readonly Option<bool> s_ptx = new("--ptx")
    {
        Description =
            "Add the portable kernels as PTX, for GPUs newer than those that are named: their driver compiles it, where there is no NVRTC.",
    };

    public static Command Create()
    {
        Command command = new(
            "aot",
            "Compile the kernels of an assembly ahead of time, into a file that its program then finds beside itself."
        )
        {
            Options.Assembly,
            Options.Reference,
            s_architecture,
            s_output,
            s_ptx,
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
        string assembly = line.GetRequiredValue(Options.Assembly);
        string[] architectures = Options.Architectures(line.GetValue(s_architecture)) ?? Options.UsualArchitectures;
        if (line.GetValue(s_ptx))
        {
            architectures = [.. architectures, KernelBundle.PtxArchitecture];
        }

        string bundle = Path.GetFullPath(line.GetValue(s_output) ?? Path.ChangeExtension(assembly, KernelBundle.Extension));
        IReadOnlyList<FoundConfig> configs = Options.Configs(line);
        var kernels = KernelBuild.Run(
            Options.Compiler(line),
            Options.Units(line, configs, Options.Kinds(line)),
            architectures,
            line.GetValue(Options.Jobs),
            output
        );
        Directory.CreateDirectory(Path.GetDirectoryName(bundle)!);
        KernelBundle.Write(bundle, kernels, KernelHeaders.Embedded);
        if (configs.Count == 0)
        {
            Output.Note($"'{assembly}' and what it references have no [AttentionConfig] class, so the bundle is empty.");
        }

        BuildReport report = new(
            bundle,
            configs.Count,
            architectures,
            kernels.Length,
            kernels.Count(static k => k.Kernel.Origin == KernelOrigin.Compiled),
            new FileInfo(bundle).Length,
            Math.Round(Stopwatch.GetElapsedTime(start).TotalSeconds, 3)
        );
        output.Answer(report, _ => report.WriteTo(output));
        return ExitCode.Good;
    }
}
