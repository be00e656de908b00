namespace FlashInfer.Tool;

/// <summary>What the tool returns to the shell.</summary>
internal static class ExitCode
{
    /// <summary>Done, and the answer is good.</summary>
    public const int Good = 0;

    /// <summary>Done, and the answer is bad: no GPU can be used, a cache entry is damaged; or something could not be done.</summary>
    public const int Bad = 1;

    /// <summary>The command line names something that is not there or cannot be.</summary>
    public const int Usage = 2;
}

/// <summary>Ends a command with a sentence for its user.</summary>
/// <param name="exitCode">What the tool returns.</param>
/// <param name="message">What was wrong, the value, what was expected, what to do.</param>
internal sealed class ToolException(int exitCode, string message) : Exception(message)
{
    public int ExitCode { get; } = exitCode;
}
