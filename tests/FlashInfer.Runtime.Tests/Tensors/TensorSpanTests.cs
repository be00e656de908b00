using System.Numerics.Tensors;

namespace FlashInfer.Tests.Tensors;

public sealed class TensorSpanTests : IDisposable
{
    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });

    public void Dispose() => _device.Dispose();

    [Fact]
    public void A_tensor_of_the_CPU_is_seen_in_place()
    {
        using DeviceTensor<float> tensor = _device.Allocate<float>(2, 1, 3);
        tensor.CopyFrom([0, 1, 2, 3, 4, 5]);

        TensorSpan<float> span = tensor.View.AsTensorSpan();
        span[1, 0, 2] = 50;

        Assert.Equal([2, 1, 3], span.Lengths);
        Assert.Equal([0, 1, 2, 3, 4, 50], tensor.ToArray());
    }

    [Fact]
    public void A_view_with_gaps_keeps_its_strides()
    {
        using DeviceTensor<float> tensor = _device.Allocate<float>(3, 4);
        tensor.CopyFrom([.. Enumerable.Range(0, 12).Select(static i => (float)i)]);

        TensorSpan<float> columns = _device.View<float>(tensor.Address, [3, 2], [4, 1]).AsTensorSpan();

        float[] flat = new float[6];
        columns.FlattenTo(flat);
        Assert.Equal([0, 1, 4, 5, 8, 9], flat);
    }

    [Fact]
    public void Host_tensors_go_in_and_out_with_and_without_gaps()
    {
        using DeviceTensor<float> tensor = _device.Allocate<float>(3, 2);
        float[] host = [.. Enumerable.Range(0, 12).Select(static i => (float)i)];

        tensor.View.CopyFrom(new ReadOnlyTensorSpan<float>(host, [3, 2], [4, 1]));
        Assert.Equal([0, 1, 4, 5, 8, 9], tensor.ToArray());
        tensor.View.CopyFrom(new ReadOnlyTensorSpan<float>(host, [3, 2]));
        Assert.Equal([0, 1, 2, 3, 4, 5], tensor.ToArray());

        float[] dense = new float[6];
        tensor.View.CopyTo(new TensorSpan<float>(dense, [3, 2]));
        Assert.Equal([0, 1, 2, 3, 4, 5], dense);
        float[] wide = new float[12];
        tensor.View.CopyTo(new TensorSpan<float>(wide, [3, 2], [4, 1]));
        Assert.Equal([0, 1, 0, 0, 2, 3, 0, 0, 4, 5, 0, 0], wide);
    }

    [Fact]
    public void Other_shapes_are_refused()
    {
        using DeviceTensor<float> tensor = _device.Allocate<float>(3, 2);

        ArgumentException e = Assert.Throws<ArgumentException>(
            "source",
            () => tensor.View.CopyFrom(new ReadOnlyTensorSpan<float>(new float[6], [2, 3]))
        );
        Assert.Contains("The host tensor is [2, 3]; this is Float32[3, 2]", e.Message, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => default(TensorView<float>).AsTensorSpan());
    }
}
