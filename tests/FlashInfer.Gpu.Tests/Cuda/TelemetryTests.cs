using System.Diagnostics.Metrics;
using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class TelemetryTests
{
    [Fact]
    public void Launches_and_graphs_are_counted()
    {
        using CudaContext context = Gpu.Require();
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream stream = new(context);
        Dictionary<string, long> counts = [];
        using MeterListener listener = new();
        listener.InstrumentPublished = static (instrument, listener) =>
        {
            if (instrument.Meter.Name == FlashInferTelemetry.MeterName)
            {
                listener.EnableMeasurementEvents(instrument);
            }
        };
        listener.SetMeasurementEventCallback<long>(
            (instrument, value, _, _) => counts[instrument.Name] = counts.GetValueOrDefault(instrument.Name) + value
        );
        listener.Start();

        kernels.Busy(stream, 1);
        stream.BeginCapture();
        kernels.Busy(stream, 1);
        using CudaGraph graph = stream.EndCapture();
        graph.Launch(stream);
        graph.Launch(stream);
        stream.Synchronize();

        Assert.Equal(2, counts["flashinfer.kernel.launches"]);
        Assert.Equal(2, counts["flashinfer.graph.launches"]);
    }
}
