using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

public class MergeStatesTests
{
    [Fact]
    public void Random_states_merge_as_the_definition_says()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        int seed = Random.Shared.Next();
        for (int i = 0; i < 60; i++)
        {
            MergeScenario.Check(device, seed + i);
        }
    }

    [Fact]
    public void A_captured_merge_reads_what_lies_there_at_each_replay()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using CudaStream stream = new(context);
        const int Rows = 3000;
        using DeviceTensor<Half> output = device.Allocate<Half>(Rows, 8, 128);
        using DeviceTensor<Half> second = device.Allocate<Half>(Rows, 8, 128);
        using DeviceTensor<float> lse = device.Allocate<float>(Rows, 8);
        using DeviceTensor<float> secondLse = device.Allocate<float>(Rows, 8);
        Fill(second, (Half)3);
        Fill(secondLse, 0f);
        AttentionStates.MergeStateInPlace(output, lse, second, secondLse, stream: stream);
        stream.BeginCapture();
        AttentionStates.MergeStateInPlace(output, lse, second, secondLse, stream: stream);
        using CudaGraph graph = stream.EndCapture();
        for (int replay = 1; replay < 4; replay++)
        {
            Fill(output, (Half)replay);
            Fill(lse, 0f);
            device.Synchronize();
            graph.Launch(stream);
            stream.Synchronize();

            Assert.All(output.View.ToArray(), value => Assert.Equal((replay + 3) / 2f, (float)value));
            Assert.All(lse.View.ToArray(), value => Assert.Equal(1f, value));
        }

        static void Fill<T>(DeviceTensor<T> tensor, T value)
            where T : unmanaged
        {
            T[] values = new T[tensor.View.Shape.Elements];
            values.AsSpan().Fill(value);
            tensor.View.CopyFrom(values);
        }
    }
}
