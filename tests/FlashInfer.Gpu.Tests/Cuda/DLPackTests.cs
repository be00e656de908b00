using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

/// <summary>Tensors handed out and taken on a GPU, and who waits for whom.</summary>
public sealed class DLPackTests
{
    private const nint LegacyDefaultStream = 1;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_tensor_goes_out_and_comes_back_as_the_same_memory(bool isVersioned)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using DeviceTensor<float> tensor = device.Allocate<float>(2, 3);
        tensor.CopyFrom([0, 1, 2, 3, 4, 5]);

        nint handed = tensor.View.ToDLPack(isVersioned: isVersioned);
        tensor.Dispose();
        using DeviceTensor back = device.FromDLPack(handed, isVersioned);

        Assert.Equal([0, 1, 2, 3, 4, 5], back.View.As<float>().ToArray());
    }

    [Fact]
    public unsafe void It_names_the_GPU_and_the_CPU_does_not_take_it()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using Device cpu = Device.OpenCpu();
        using DeviceTensor<float> tensor = device.Allocate<float>(4);

        nint handed = tensor.View.ToDLPack();

        // Behind version, context, deleter, flags and the data's address: type and number of the device.
        Assert.Equal((2, context.Ordinal), (*(int*)(handed + 40), *(int*)(handed + 44)));
        Assert.Contains(
            "of type 2 (Cuda)",
            Assert.Throws<ArgumentException>(() => cpu.FromDLPack(handed)).Message,
            StringComparison.Ordinal
        );
        device.FromDLPack(handed).Dispose();
    }

    [Fact]
    public void The_consumer_s_stream_waits_for_ours_unless_told_not_to()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream consumer = new(context);
        using CudaStream other = new(context);
        using DeviceTensor<float> tensor = device.Allocate<float>(4);
        kernels.Busy(device.Stream!, 100);

        nint unordered = tensor.View.ToDLPack(consumerStream: -1);
        nint ordered = tensor.View.ToDLPack(consumerStream: consumer.Handle);

        Assert.True(other.IsCompleted);
        Assert.False(consumer.IsCompleted);
        consumer.Synchronize();
        Assert.True(device.Stream!.IsCompleted);
        device.FromDLPack(unordered).Dispose();
        device.FromDLPack(ordered).Dispose();
    }

    [Fact]
    public void Default_streams_are_meant_by_their_numbers_and_0_is_refused()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using DeviceTensor<float> tensor = device.Allocate<float>(4);

        foreach (nint? stream in (nint?[])[null, LegacyDefaultStream, 2])
        {
            device.FromDLPack(tensor.View.ToDLPack(stream)).Dispose();
        }

        Assert.Throws<ArgumentException>("consumerStream", () => tensor.View.ToDLPack(consumerStream: 0));
        device.Stream!.BeginCapture();
        Assert.Throws<InvalidOperationException>(() => tensor.View.ToDLPack(LegacyDefaultStream));
        device.Stream!.EndCapture().Dispose();
    }
}
