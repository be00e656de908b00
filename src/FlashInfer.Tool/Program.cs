using System.CommandLine;
using System.CommandLine.Help;
using FlashInfer.Tool;

RootCommand root = new("FlashInfer for .NET: what this machine runs, the kernels of an assembly, and compiling them ahead of time.")
{
    Options.Json,
    DoctorCommand.Create(),
    ModulesCommand.Create(),
    InspectCommand.Create(),
    AotCommand.Create(),
    WarmupCommand.Create(),
    BenchCommand.Create(),
    CacheCommand.Create(),
};

ParseResult line = root.Parse(args);
if (line.Errors.Count > 0 && line.Action is not HelpAction)
{
    foreach (var error in line.Errors)
    {
        Console.Error.WriteLine($"flashinfer: error: {error.Message}");
    }

    Console.Error.WriteLine("flashinfer --help, or flashinfer COMMAND --help, says what there is.");
    return ExitCode.Usage;
}

return line.Invoke();
