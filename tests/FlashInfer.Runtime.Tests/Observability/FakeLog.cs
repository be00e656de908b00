using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Runtime.Tests.Observability;

/// <summary>A message as it was logged.</summary>
internal sealed record LogEntry(string Category, LogLevel Level, string Event, string Message);

/// <summary>A log that is kept.</summary>
/// <param name="onEntry">Called with each message, on the thread that logs.</param>
internal sealed class FakeLog(Action<LogEntry>? onEntry = null) : ILoggerFactory
{
    /// <summary>All messages.</summary>
    public ConcurrentQueue<LogEntry> Entries { get; } = [];

    /// <summary>The least level that is logged.</summary>
    public LogLevel Least { get; init; } = LogLevel.Debug;

    /// <summary>The names of the events, in their order.</summary>
    public IEnumerable<string> Events => Entries.Select(static entry => entry.Event);

    /// <summary>The texts of the warnings.</summary>
    public IEnumerable<string> Warnings => Entries.Where(static e => e.Level == LogLevel.Warning).Select(static e => e.Message);

    public ILogger CreateLogger(string categoryName) => new Logger(this, categoryName);

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public void Dispose() { }

    private void Add(LogEntry entry)
    {
        Entries.Enqueue(entry);
        onEntry?.Invoke(entry);
    }

    private sealed class Logger(FakeLog log, string category) : ILogger
    {
        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => logLevel >= log.Least;

        public void Log<TState>(
            LogLevel logLevel,
            EventId eventId,
            TState state,
            Exception? exception,
            Func<TState, Exception?, string> formatter
        ) => log.Add(new LogEntry(category, logLevel, eventId.Name!, formatter(state, exception)));
    }
}
