namespace FlashInfer.Tests.Tools;

/// <summary>What every command has in common: help, exit codes, one line for a failure.</summary>
public sealed class CommandLineTests
{
    [Fact]
    public void Help_lists_the_commands()
    {
        ToolResult result = ToolProcess.RunBare("--help");

        Assert.Equal(0, result.ExitCode);
        Assert.All(
            ["doctor", "modules", "inspect", "aot", "warmup", "bench", "cache", "--json"],
            word => Assert.Contains($"  {word}", result.Output, StringComparison.Ordinal)
        );
    }

    [Theory]
    [InlineData("Required argument 'assembly' missing", "aot")]
    [InlineData("'nonsense'", "nonsense")]
    [InlineData("--jobs is 0; expected 1 or more.", "aot", "App.dll", "--jobs", "0")]
    [InlineData("no .NET assembly; give the .dll", "modules", "FlashInfer.GenerationSandbox.pdb")]
    [InlineData("is not there; build the project, and give the .dll in its output folder.", "warmup", "Missing.dll", "-a", "sm_80")]
    [InlineData("'hopper' is not a GPU architecture; expected sm_", "aot", "FlashInfer.GenerationSandbox.dll", "-a", "sm_80,hopper")]
    [InlineData("--kernels names 'most'; expected Append,", "aot", "FlashInfer.GenerationSandbox.dll", "--kernels", "append,most")]
    public void A_wrong_command_line_ends_with_2_and_says_why(string message, params string[] arguments)
    {
        ToolResult result = ToolProcess.RunBare(arguments);

        Assert.Equal(2, result.ExitCode);
        Assert.Equal("", result.Output);
        string[] lines = result.Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.StartsWith("flashinfer: error: ", lines[0], StringComparison.Ordinal);
        Assert.Contains(message, result.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public void A_failure_is_JSON_as_well()
    {
        ToolResult result = ToolProcess.RunBare("modules", "Missing.dll", "--json");

        Assert.Equal(2, result.ExitCode);
        Assert.Contains("Missing.dll' is not there", result.Json.GetProperty("error").GetString(), StringComparison.Ordinal);
    }
}
