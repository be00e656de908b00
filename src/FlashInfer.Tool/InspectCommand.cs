using System.CommandLine;
using System.Diagnostics;
using FlashInfer.Compilation;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer inspect</c>: one kernel as CUDA, PTX or SASS.</summary>
internal static class InspectCommand
{
    private const string Cuda = "cuda";
    private const string Ptx = "ptx";
    private const string Sass = "sass";

    private static readonly Argument<string> s_kernel = new("kernel")
    {
        Description = "The kernel's name, or a part that only one name has; flashinfer modules lists them.",
    };
    private static readonly Option<string> s_form = new Option<string>("--form", "-f")
    {
        Description = "What to show: the unit's CUDA text, the PTX or the machine code.",
        DefaultValueFactory = static _ => Cuda,
    }.AcceptOnlyFromAmong(Cuda, Ptx, Sass);
    private static readonly Option<string> s_architecture = Options.Architecture("One; sm_90a when not given.");

    public static Command Create()
    {
        Command command = new("inspect", "Show one kernel of an assembly: its CUDA unit, PTX or SASS.")
        {
            Options.Assembly,
            s_kernel,
            s_form,
            s_architecture,
            Options.Reference,
            Options.Checked,
            Options.Nvrtc,
            Options.CacheDirectory,
        };
        command.SetAction(static line => Output.Run(line, output => Run(line, output)));
        return command;
    }

    private static int Run(ParseResult line, Output output)
    {
        string form = line.GetRequiredValue(s_form);
        string[] architectures = Options.Architectures(line.GetValue(s_architecture)) ?? ["sm_90a"];
        if (architectures.Length > 1)
        {
            throw new ToolException(
                ExitCode.Usage,
                $"--architecture names {architectures.Length}; expected one, such as {architectures[0]}."
            );
        }

        string assembly = line.GetRequiredValue(Options.Assembly);
        IReadOnlyList<FoundConfig> configs = Options.Configs(line);
        TranslationUnit unit = Choose(Options.Units(line, configs, KernelKinds.All), line.GetRequiredValue(s_kernel), assembly);
        KernelCompiler compiler = Options.Compiler(line);
        string text = form switch
        {
            Ptx => compiler.CompileToPtx(unit, architectures[0]),
            Sass => Disassemble(compiler.Compile(unit, architectures[0]), compiler.DescribeNvrtc().Path),
            _ => unit.ToString(),
        };
        InspectReport report = new(unit.Name, form == Cuda ? null : architectures[0], form, text);
        output.Answer(report, _ => Console.Out.WriteLine(text.TrimEnd()));
        return ExitCode.Good;
    }

    private static TranslationUnit Choose(TranslationUnit[] units, string wanted, string assembly)
    {
        TranslationUnit[] found = [.. units.Where(unit => unit.Name == wanted)];
        if (found.Length == 0)
        {
            found = [.. units.Where(unit => unit.Name.Contains(wanted, StringComparison.Ordinal))];
        }

        return found.Length == 1
            ? found[0]
            : throw new ToolException(
                ExitCode.Usage,
                $"{Output.Count(found.Length, "kernel")} of '{assembly}' {(found.Length == 1 ? "has" : "have")} '{wanted}' in the name; expected one of:\n"
                    + string.Join('\n', (found.Length == 0 ? units : found).Select(static unit => $"  {unit.Name}"))
            );
    }

    private static string Disassemble(CompiledKernel kernel, string? nvrtc)
    {
        string tool =
            Disassemblers(nvrtc).FirstOrDefault(File.Exists)
            ?? throw new ToolException(
                ExitCode.Bad,
                "nvdisasm, which turns a cubin into text, is neither in bin beside NVRTC nor in $CUDA_HOME/bin, /usr/local/cuda/bin or PATH; install the CUDA toolkit's cuda-nvdisasm, or use --form ptx."
            );
        string cubin = Path.Combine(Path.GetTempPath(), $"{kernel.Unit}-{Guid.NewGuid():N}.cubin");
        try
        {
            File.WriteAllBytes(cubin, kernel.Cubin.Span);
            ProcessStartInfo start = new(tool, ["--print-code", cubin]) { RedirectStandardOutput = true, RedirectStandardError = true };
            using Process process = Process.Start(start)!;
            Task<string> errors = process.StandardError.ReadToEndAsync();
            string text = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0 ? text : throw new ToolException(ExitCode.Bad, $"{tool} failed: {errors.Result.Trim()}");
        }
        finally
        {
            File.Delete(cubin);
        }
    }

    private static IEnumerable<string> Disassemblers(string? nvrtc)
    {
        string name = OperatingSystem.IsWindows() ? "nvdisasm.exe" : "nvdisasm";
        if (Path.GetDirectoryName(nvrtc) is { Length: > 0 } folder)
        {
            yield return Path.Combine(folder, name);
            yield return Path.Combine(folder, "..", "bin", name);
        }

        if (Environment.GetEnvironmentVariable("CUDA_HOME") is { Length: > 0 } home)
        {
            yield return Path.Combine(home, "bin", name);
        }

        yield return Path.Combine("/usr/local/cuda/bin", name);
        foreach (string path in (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator))
        {
            yield return Path.Combine(path, name);
        }
    }
}
