using System.CommandLine;
using FlashInfer.Compilation;
using Spectre.Console;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer doctor</c>: what this machine runs, why, and what to do next.</summary>
internal static class DoctorCommand
{
    private static readonly Option<string> s_program = new("--program")
    {
        Description = "The folder of a program whose kernels compiled ahead of time count as well.",
        HelpName = "FOLDER",
    };

    private static readonly Option<bool> s_verbose = new("--verbose", "-v")
    {
        Description = "Every place where a library was looked for, also when it was found.",
    };

    public static Command Create()
    {
        Command command = new(
            "doctor",
            "Say what this machine runs: driver, GPUs, compiler, cache, and what is missing. The exit code is 1 without a usable GPU."
        )
        {
            s_program,
            s_verbose,
            Options.Nvrtc,
            Options.CacheDirectory,
        };
        command.SetAction(static line => Output.Run(line, output => Run(line, output)));
        return command;
    }

    private static int Run(ParseResult line, Output output)
    {
        string? program = line.GetValue(s_program);
        KernelCompilerOptions options = new()
        {
            NvrtcPath = line.GetValue(Options.Nvrtc),
            CacheDirectory = line.GetValue(Options.CacheDirectory),
            UseBundles = program is not null,
            BundleDirectory = program,
        };
        DoctorReport report = Doctor.Examine(program, options);
        output.Answer(report, _ => Write(report, line.GetValue(s_verbose), output));
        return report.Runs.On == "cuda" ? ExitCode.Good : ExitCode.Bad;
    }

    private static void Write(DoctorReport report, bool verbose, Output output)
    {
        output.Line($"FlashInfer {report.Version} on {report.Runtime}, {report.System}");
        output.Line();
        Grid grid = new Grid().AddColumns(3);
        Add(
            "driver",
            report.Driver.Problem is null,
            FirstSentence(report.Driver.Problem) ?? $"for CUDA {report.Driver.CudaVersion}",
            report.Driver.Problem is null ? [] : report.Driver.Tried
        );
        foreach (DeviceReport device in report.Devices)
        {
            Add(
                $"GPU {device.Ordinal}",
                device.Problem is null,
                device.Problem ?? $"{device.Name}, {device.Architecture}, {device.Multiprocessors} SMs, {Output.Bytes(device.MemoryBytes)}"
            );
        }

        Add(
            "NVRTC",
            report.Nvrtc.Problem is null,
            FirstSentence(report.Nvrtc.Problem)
                ?? $"{report.Nvrtc.Version} from {report.Nvrtc.Path}, for {report.Nvrtc.Architectures[0]} to {report.Nvrtc.Architectures[^1]}",
            report.Nvrtc.Problem is null && !verbose ? [] : report.Nvrtc.Tried
        );
        Add(
            "cache",
            report.Cache.Problem is null,
            report.Cache.Problem
                ?? $"{report.Cache.Folder}, can be written; {Output.Count(report.Cache.Kernels, "kernel")}, {Output.Bytes(report.Cache.Bytes)}"
        );
        foreach (BundleReport bundle in report.Bundles)
        {
            Add(
                "bundle",
                bundle.Problem is null,
                $"{bundle.Path}: {bundle.Problem ?? $"{Output.Count(bundle.Kernels, "kernel")} for {string.Join(", ", bundle.Architectures)}"}"
            );
        }

        output.Write(grid);
        output.Line();
        output.Line($"Programs run on {report.Runs.Name}; kernels: {report.Runs.Kernels}.");
        output.Line($"To do: {report.Next ?? "nothing."}");

        void Add(string what, bool isGood, string text, IReadOnlyList<TriedReport>? tried = null)
        {
            grid.AddRow(new Text(what), new Text(isGood ? "ok" : "no", new Style(isGood ? Color.Green : Color.Red)), new Text(text));
            foreach (TriedReport step in tried ?? [])
            {
                Text place = new($"{step.Path}: {step.Outcome}", new Style(decoration: Decoration.Dim));
                grid.AddRow(Text.Empty, Text.Empty, new Padder(place, new Padding(2, 0, 0, 0)));
            }
        }
    }

    // What is to be done about it comes last, and once.
    private static string? FirstSentence(string? text) => text is null ? null : text.Split(". ")[0].TrimEnd('.') + ".";
}
