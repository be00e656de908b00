using Microsoft.Extensions.Logging;

namespace FlashInfer.Tool;

/// <summary>The library's log as notes: warnings only, for the commands show their progress themselves.</summary>
internal sealed class WarningNotes : ILoggerFactory, ILogger
{
    public static WarningNotes Instance { get; } = new();

    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Warning;

    public void Log<TState>(
        LogLevel logLevel,
        EventId eventId,
        TState state,
        Exception? exception,
        Func<TState, Exception?, string> formatter
    ) => Output.Note(formatter(state, exception));

    public void Dispose() { }
}
