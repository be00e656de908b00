using System.CommandLine;
using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Compilation;
using FlashInfer.Cuda;
using Spectre.Console;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer modules</c>: configurations of an assembly, and what their kernels use.</summary>
internal static class ModulesCommand
{
    private const int WarpThreads = 32;

    private static readonly Option<string> s_architecture = Options.Architecture("sm_90a when not given.");
    private static readonly Option<bool> s_noCompile = new("--no-compile")
    {
        Description = "Show what is in the bundle and in the cache, and compile nothing.",
    };

    public static Command Create()
    {
        Command command = new(
            "modules",
            "List the configurations of an assembly and their kernels: registers, memory, occupancy, where they lie."
        )
        {
            Options.Assembly,
            Options.Reference,
            s_architecture,
            Options.Kernels,
            Options.Checked,
            s_noCompile,
            Options.Jobs,
            Options.Nvrtc,
            Options.CacheDirectory,
        };
        command.SetAction(static line => Output.Run(line, output => Run(line, output)));
        return command;
    }

    private static int Run(ParseResult line, Output output)
    {
        string assembly = line.GetRequiredValue(Options.Assembly);
        string[] architectures = Options.Architectures(line.GetValue(s_architecture)) ?? ["sm_90a"];
        IReadOnlyList<FoundConfig> configs = Options.Configs(line);
        KernelCompiler compiler = Options.Compiler(line, Path.GetDirectoryName(Path.GetFullPath(assembly)));
        KernelKinds kinds = Options.Kinds(line);
        bool compiles = !line.GetValue(s_noCompile);
        if (compiles && compiler.DescribeNvrtc().Version is null)
        {
            Output.Note("NVRTC was not found, so only what a bundle or the cache has is described; flashinfer doctor says more.");
            compiles = false;
        }

        var compiled = compiles
            ? KernelBuild
                .Run(compiler, Options.Units(line, configs, kinds), architectures, line.GetValue(Options.Jobs), output)
                .ToDictionary(static k => (k.Unit.Name, k.Kernel.Architecture), static k => k.Kernel)
            : [];
        ModulesReport report = new([
            .. configs.Select(config => new ConfigReport(
                config.Type,
                config.Assembly,
                config.Spec.ToString(),
                [
                    .. architectures.SelectMany(architecture =>
                        Options
                            .Units(line, [config], kinds)
                            .Where(unit => unit.Serves(architecture))
                            .Select(unit => Kernel(unit, architecture))
                    ),
                ]
            )),
        ]);
        output.Answer(report, _ => Write(report, assembly, output));
        return ExitCode.Good;

        KernelReport Kernel(TranslationUnit unit, string architecture) =>
            Describe(unit, architecture, compiled.GetValueOrDefault((unit.Name, architecture)) ?? compiler.Find(unit, architecture));
    }

    private static KernelReport Describe(TranslationUnit unit, string architecture, CompiledKernel? kernel)
    {
        KernelInfo info = default;
        if (
            kernel is null
            || kernel.Resources.FirstOrDefault(entry => entry.Entry == unit.Name) is not { } use
            || !CubinImage.TryReadVariable(kernel.Cubin.Span, unit.Name + "_info", MemoryMarshal.AsBytes(new Span<KernelInfo>(ref info)))
        )
        {
            return new(unit.Name, architecture, Output.Word(kernel?.Origin), null, null, null, null, null, null, null, null, null);
        }

        return new KernelReport(
            unit.Name,
            architecture,
            Output.Word(kernel.Origin),
            use.Registers,
            use.StackBytes,
            use.SpillStoreBytes,
            use.StaticSharedBytes,
            info.SharedBytes,
            info.Threads,
            info.BlocksPerSm,
            info.BlocksPerSm * info.Threads / WarpThreads,
            kernel.Cubin.Length
        );
    }

    private static void Write(ModulesReport report, string assembly, Output output)
    {
        if (report.Configs.Count == 0)
        {
            output.Line($"{assembly} and what it references have no [AttentionConfig] class.");
        }

        foreach (ConfigReport config in report.Configs)
        {
            output.Line($"{config.Type} of {config.Assembly}: {config.Shape}");
            Table table = Output.Table(
                "kernel",
                "for",
                ">registers",
                ">local",
                ">spilled",
                ">shared",
                ">threads",
                ">blocks/SM",
                ">warps/SM",
                ">cubin",
                "in"
            );
            foreach (KernelReport k in config.Kernels)
            {
                table.AddRow(
                    Output.Row(
                        k.Unit,
                        k.Architecture,
                        $"{k.Registers}",
                        Size(k.LocalBytes),
                        Size(k.SpillBytes),
                        Size(k.StaticSharedBytes + k.DynamicSharedBytes),
                        $"{k.Threads}",
                        $"{k.BlocksPerMultiprocessor}",
                        $"{k.WarpsPerMultiprocessor}",
                        Size(k.CubinBytes),
                        k.Where
                    )
                );
            }

            output.Write(table);
            output.Line();
        }
    }

    private static string Size(int? bytes) => bytes is { } known ? Output.Bytes(known) : "";
}
