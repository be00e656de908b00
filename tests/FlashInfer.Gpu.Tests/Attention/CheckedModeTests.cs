using FlashInfer.Cuda;
using FlashInfer.Gpu.Tests.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

public sealed class CheckedModeTests
{
    private static readonly DeviceOptions s_checked = new() { IsChecked = true };

    [Fact]
    public void A_poisoned_page_table_is_told_with_call_layer_sequence_token_and_page()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        CheckedScenario.Check(device);
    }

    [Fact]
    public void Checked_results_agree_with_the_oracle()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        int seed = Random.Shared.Next();
        foreach (int pageSize in (int[])[16, 5])
        {
            DecodeScenario.Check(
                device,
                new DecodeCase(8, 2, 128, pageSize, DType.BFloat16, KvLayout.Nhd, 2, [300, 0, 17, 5000], null, 1, seed)
            );
        }
    }

    [Fact]
    public void A_replayed_graph_tells_its_layers_apart()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        using CheckedScenario scenario = new(device);
        using CudaGraph graph = Capture(scenario);
        graph.Launch(device.Stream!);

        scenario.Poison(scenario.Sequences[2], 3, 77);
        DeviceAssertException e = Assert.Throws<DeviceAssertException>(() => graph.Launch(device.Stream!));
        scenario.Expect(e, "BatchDecodeWithPagedKvCache.Run", 1, 3, 77);

        scenario.Poison(scenario.Sequences[2], 3, scenario.Sequences[2].Pages[3]);
        graph.Launch(device.Stream!);
    }

    [Fact]
    public void A_graph_launched_by_another_library_is_checked_by_the_next_call()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        using CheckedScenario scenario = new(device);
        using CudaGraph graph = Capture(scenario);
        scenario.Poison(scenario.Sequences[2], 0, -5);
        using (CudaGraph theirs = CudaGraph.FromHandle(context, graph.Handle))
        {
            theirs.Launch(device.Stream!);
        }

        device.Synchronize();
        DeviceAssertException e = Assert.Throws<DeviceAssertException>(() => scenario.Decode.Plan(scenario.Sequences));
        scenario.Expect(e, "BatchDecodeWithPagedKvCache.Run", 1, 0, -5);
        scenario.Decode.Plan(scenario.Sequences);
    }

    [Fact]
    public void A_graph_that_outlives_its_wrapper_is_refused()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        CheckedScenario scenario = new(device);
        using CudaGraph graph = Capture(scenario);
        scenario.Dispose();
        Assert.Throws<ObjectDisposedException>(() => graph.Launch(device.Stream!));
    }

    [Fact]
    public void Work_on_another_stream_that_does_not_wait_is_refused()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream first = new(context);
        using CudaStream second = new(context);
        using CheckedScenario scenario = new(device);
        device.Synchronize();
        Step(scenario, second);
        second.Synchronize();
        Step(scenario, first); // everything is loaded and compiled: what follows takes microseconds
        first.Synchronize();

        // A plan that has not arrived yet.
        kernels.Busy(first, 50);
        scenario.Decode.Plan(scenario.Sequences, null, first);
        Refused(() => scenario.Decode.Run(0, scenario.Query.View, scenario.Output.View, default(TensorView), second));
        first.Synchronize();

        // A launch, which checked mode has waited for: the mistake still shows.
        scenario.Decode.Run(0, scenario.Query.View, scenario.Output.View, default(TensorView), first);
        Refused(() => scenario.Decode.Run(0, scenario.Query.View, scenario.Output.View, default(TensorView), second));

        // And the stream may go on where it was.
        scenario.Decode.Run(0, scenario.Query.View, scenario.Output.View, default(TensorView), first);
    }

    [Fact]
    public void Every_way_of_waiting_counts()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context, null, s_checked);
        using CudaStream first = new(context);
        using CudaStream second = new(context);
        using CudaEvent mark = new(context);
        using CheckedScenario scenario = new(device);
        Action[] ways =
        [
            first.Synchronize,
            device.Synchronize,
            () => scenario.Output.View.ToArray(first),
            () =>
            {
                mark.Record(first);
                mark.Synchronize();
            },
            () =>
            {
                mark.Record(first);
                second.Wait(mark);
            },
            () =>
            {
                // As another library would: its own objects for the same stream and event.
                using CudaStream theirs = CudaStream.FromHandle(context, second.Handle);
                mark.Record(first);
                theirs.Wait(CudaEvent.FromHandle(context, mark.Handle));
            },
        ];
        device.Synchronize();
        for (int round = 0; round < 5; round++)
        {
            foreach (Action wait in ways)
            {
                Step(scenario, first);
                wait();
                Step(scenario, second);
                second.Synchronize();
            }
        }
    }

    private static void Refused(Action action)
    {
        InvalidOperationException e = Assert.Throws<InvalidOperationException>(action);
        Assert.Contains("does not wait for that work", e.Message, StringComparison.Ordinal);
    }

    private static void Step(CheckedScenario scenario, CudaStream stream)
    {
        scenario.Decode.Plan(scenario.Sequences, null, stream);
        scenario.Decode.Run(0, scenario.Query.View, scenario.Output.View, default(TensorView), stream);
    }

    /// <summary>A graph of layers 1 and 2.</summary>
    private static CudaGraph Capture(CheckedScenario scenario)
    {
        scenario.Decode.Plan(scenario.Sequences);
        scenario.Device.Stream!.BeginCapture();
        scenario.Decode.Run(1, scenario.Query.View, scenario.Output.View);
        scenario.Decode.Run(2, scenario.Query.View, scenario.Output.View);
        return scenario.Device.Stream.EndCapture();
    }
}
