namespace FlashInfer;

/// <summary>The names under which this library measures and traces; nothing is measured before somebody listens.</summary>
public static class FlashInferTelemetry
{
    /// <summary>The name of the <see cref="System.Diagnostics.Metrics.Meter"/>.</summary>
    public const string MeterName = "FlashInfer";

    /// <summary>The name of the <see cref="System.Diagnostics.ActivitySource"/>.</summary>
    public const string ActivitySourceName = "FlashInfer";
}
