using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class TelemetryTests
{
    [Fact]
    public void Launches_and_graphs_are_counted()
    {
        using CudaContext context = Gpu.Require();
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream stream = new(context);
        using Measurements measured = new();

        kernels.Busy(stream, 1);
        stream.BeginCapture();
        kernels.Busy(stream, 1);
        using CudaGraph graph = stream.EndCapture();
        graph.Launch(stream);
        graph.Launch(stream);
        stream.Synchronize();

        Assert.Equal(2, measured.Of("flashinfer.kernel.launches").Sum());
        Assert.Equal(2, measured.Of("flashinfer.graph.launches").Sum());
    }
}
