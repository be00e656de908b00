using System.Diagnostics;
using System.Text.Json;

namespace FlashInfer.Tests.Tools;

/// <summary>Runs the tool, or dotnet, as a user does: as a process of its own, with its output redirected.</summary>
internal static class ToolProcess
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(3);

    /// <summary>The assembly with configurations that the tool is used on.</summary>
    public static string Sandbox { get; } = Path.Combine(AppContext.BaseDirectory, "FlashInfer.GenerationSandbox.dll");

    /// <summary>Runs the tool on a machine without NVRTC and without a GPU, whatever this one has.</summary>
    public static ToolResult RunBare(params IEnumerable<string> arguments) => Run(arguments, ("FLASHINFER_NVRTC", "/nowhere"));

    /// <summary>Runs the tool with the NVRTC of the tests; skips the test when there is none.</summary>
    public static ToolResult RunWithNvrtc(params IEnumerable<string> arguments) =>
        Run(arguments, ("FLASHINFER_NVRTC", Runtime.Tests.Compilation.TestNvrtc.Require()));

    /// <summary>Runs dotnet.</summary>
    public static ToolResult RunDotnet(
        string folder,
        IEnumerable<string> arguments,
        params IEnumerable<(string Name, string Value)> variables
    )
    {
        ProcessStartInfo start = new("dotnet", arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach ((string name, string value) in variables)
        {
            start.Environment[name] = value;
        }

        // What the test host tells its children about MSBuild is not for a build of somebody else's project.
        foreach (string name in start.Environment.Keys.Where(static name => name.StartsWith("MSBUILD", StringComparison.OrdinalIgnoreCase)))
        {
            start.Environment.Remove(name);
        }

        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        if (!process.WaitForExit(s_patience))
        {
            process.Kill(entireProcessTree: true);
            throw new TimeoutException($"dotnet {string.Join(' ', start.ArgumentList)} did not end within {s_patience}.");
        }

        return new ToolResult(process.ExitCode, output.Result, errors.Result);
    }

    private static ToolResult Run(IEnumerable<string> arguments, (string Name, string Value) nvrtc) =>
        RunDotnet(
            AppContext.BaseDirectory,
            [Path.Combine(AppContext.BaseDirectory, "flashinfer.dll"), .. arguments],
            nvrtc,
            ("CUDA_VISIBLE_DEVICES", "")
        );
}

/// <param name="ExitCode">What the process returned.</param>
/// <param name="Output">Its standard output.</param>
/// <param name="Errors">Its standard error.</param>
internal sealed record ToolResult(int ExitCode, string Output, string Errors)
{
    /// <summary>The output as JSON.</summary>
    public JsonElement Json => JsonDocument.Parse(Output).RootElement;

    /// <summary>Both streams, for the message of a failed assertion.</summary>
    public override string ToString() => $"exit code {ExitCode}\n{Output}\n{Errors}";
}
