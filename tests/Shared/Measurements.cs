using System.Diagnostics.Metrics;

namespace FlashInfer.Tests;

/// <summary>What the library's meter measures while this is there, of all threads.</summary>
internal sealed class Measurements : IDisposable
{
    private readonly MeterListener _listener = new();
    private readonly List<(string Instrument, double Value, Dictionary<string, object?> Tags)> _all = [];

    public Measurements()
    {
        _listener.InstrumentPublished = static (instrument, listener) =>
        {
            if (instrument.Meter.Name == FlashInferTelemetry.MeterName)
            {
                listener.EnableMeasurementEvents(instrument);
            }
        };
        _listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Add(instrument, value, tags));
        _listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Add(instrument, value, tags));
        _listener.Start();
    }

    /// <summary>The values of an instrument, of those with a tag where one is named.</summary>
    public IReadOnlyList<double> Of(string instrument, string? tag = null, string? value = null)
    {
        lock (_all)
        {
            return
            [
                .. _all.Where(m => m.Instrument == instrument && (tag is null || m.Tags.GetValueOrDefault(tag) as string == value))
                    .Select(m => m.Value),
            ];
        }
    }

    /// <summary>Asks the instruments that are read and not told.</summary>
    public void Observe() => _listener.RecordObservableInstruments();

    public void Dispose() => _listener.Dispose();

    private void Add(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        lock (_all)
        {
            _all.Add((instrument.Name, value, new Dictionary<string, object?>([.. tags])));
        }
    }
}
