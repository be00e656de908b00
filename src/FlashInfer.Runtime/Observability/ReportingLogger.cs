using Microsoft.Extensions.Logging;

namespace FlashInfer.Observability;

/// <summary>A log whose messages, but for those of debugging, are also told to a callback as lines.</summary>
internal sealed class ReportingLogger(ILogger log, Action<string> report) : ILogger
{
    /// <inheritdoc/>
    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => log.BeginScope(state);

    /// <inheritdoc/>
    public bool IsEnabled(LogLevel logLevel) => IsReported(logLevel) || log.IsEnabled(logLevel);

    /// <inheritdoc/>
    public void Log<TState>(
        LogLevel logLevel,
        EventId eventId,
        TState state,
        Exception? exception,
        Func<TState, Exception?, string> formatter
    )
    {
        if (log.IsEnabled(logLevel))
        {
            log.Log(logLevel, eventId, state, exception, formatter);
        }

        if (IsReported(logLevel))
        {
            report(formatter(state, exception));
        }
    }

    private static bool IsReported(LogLevel level) => level is >= LogLevel.Information and < LogLevel.None;
}
