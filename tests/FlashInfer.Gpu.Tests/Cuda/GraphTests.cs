using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class GraphTests
{
    [Fact]
    public void Replay_runs_fill_copy_and_kernel_again()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        const int Count = 1000;
        nint source = backend.Allocate(Count);
        nint copy = backend.Allocate(Count);
        nint filled = backend.Allocate(Count);
        nint numbers = backend.Allocate(Count * sizeof(uint));
        byte[] received = new byte[Count];
        byte[] receivedNumbers = new byte[Count * sizeof(uint)];
        FillParams args = new()
        {
            Destination = numbers,
            Value = 0x01010101,
            Count = Count,
        };

        backend.Stream.BeginCapture();
        Assert.True(backend.Stream.IsCapturing);
        backend.Copy(copy, source, Count, null);
        backend.Fill(filled, 3, Count, null);
        kernels.Fill.Launch(args, new(8), new(128), 0, backend.Stream);
        kernels.Fill.Launch(args, new(8), new(128), 0, backend.Stream, programmaticDependentLaunch: true);
        using CudaGraph graph = backend.Stream.EndCapture();
        Assert.False(backend.Stream.IsCapturing);

        for (int replay = 0; replay < 3; replay++)
        {
            byte[] sent = Gpu.RandomBytes(Count, replay);
            backend.CopyIn(source, sent, null);
            backend.Fill(filled, 0, Count, null);
            backend.Fill(numbers, 0, Count * sizeof(uint), null);
            graph.Launch(backend.Stream);
            backend.CopyOut(received, copy, null);
            Assert.Equal(sent, received);
            backend.CopyOut(received, filled, null);
            Assert.All(received, value => Assert.Equal(3, value));
            backend.CopyOut(receivedNumbers, numbers, null);
            Assert.All(receivedNumbers, value => Assert.Equal(1, value));
        }

        backend.Free(source);
        backend.Free(copy);
        backend.Free(filled);
        backend.Free(numbers);
    }

    [Fact]
    public void Replay_reads_the_list_of_the_latest_commit()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using UploadBuffer list = backend.CreateUploadBuffer(1000);
        nint target = backend.Allocate(1000);
        byte[] received = new byte[1000];

        backend.Stream.BeginCapture();
        backend.Copy(target, list.Address, 1000, null);
        using CudaGraph graph = backend.Stream.EndCapture();

        for (int step = 0; step < 20; step++)
        {
            byte[] sent = Gpu.RandomBytes(1000, step);
            sent.CopyTo(list.Begin());
            list.Commit(1000, null);
            graph.Launch(backend.Stream);
            backend.CopyOut(received, target, null);
            Assert.Equal(sent, received);
        }

        backend.Free(target);
    }

    [Fact]
    public void What_does_not_belong_into_a_capture_is_refused_and_the_capture_goes_on()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        UploadBuffer list = backend.CreateUploadBuffer(1000);
        nint target = backend.Allocate(1000);
        byte[] bytes = new byte[1000];

        // A slot in flight, so that Begin asks an event while this thread captures.
        kernels.Busy(backend.Stream, 20);
        for (int i = 0; i < 4; i++)
        {
            list.Begin().Fill(4);
            list.Commit(1000, null);
        }

        backend.Stream.BeginCapture();
        list.Begin().Fill(8);
        InvalidOperationException commit = Assert.Throws<InvalidOperationException>(() => list.Commit(1000, null));
        Assert.Throws<InvalidOperationException>(() => backend.CopyIn(target, bytes, null));
        Assert.Throws<InvalidOperationException>(() => backend.CopyOut(bytes, target, null));
        Assert.Throws<InvalidOperationException>(() => backend.Free(target));
        Assert.Throws<InvalidOperationException>(list.Dispose);
        nint during = backend.Allocate(1000);
        backend.Fill(target, 6, 1000, null);
        using CudaGraph graph = backend.Stream.EndCapture();

        Assert.Contains("Plan, list updates", commit.Message, StringComparison.Ordinal);
        graph.Launch(backend.Stream);
        backend.CopyOut(bytes, target, null);
        Assert.All(bytes, value => Assert.Equal(6, value));
        backend.Fill(during, 1, 1000, null);
        backend.Synchronize();
        backend.Free(during);
        backend.Free(target);
        list.Dispose();
    }

    [Fact]
    public void Synchronising_ends_a_capture_with_an_error_and_the_stream_lives_on()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);

        stream.BeginCapture();
        CudaDriverException inside = Assert.Throws<CudaDriverException>(stream.Synchronize);
        CudaDriverException end = Assert.Throws<CudaDriverException>(() => stream.EndCapture());

        Assert.StartsWith("CUDA_ERROR_STREAM_CAPTURE", inside.CodeName, StringComparison.Ordinal);
        Assert.Equal("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", end.CodeName);
        Assert.Contains("ended the capture", end.Message, StringComparison.Ordinal);
        stream.Synchronize();
        stream.BeginCapture();
        stream.EndCapture().Dispose();
    }

    [Fact]
    public void Ending_a_capture_that_was_not_begun_is_an_error()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);

        CudaDriverException e = Assert.Throws<CudaDriverException>(() => stream.EndCapture());

        Assert.Equal("cuStreamEndCapture", e.Call);
        stream.Synchronize();
    }

    [Fact]
    public void Disposed_graph_is_not_launched()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);
        stream.BeginCapture();
        CudaGraph graph = stream.EndCapture();
        graph.Launch(stream);
        graph.Dispose();

        Assert.Throws<ObjectDisposedException>(() => graph.Launch(stream));
        stream.Synchronize();
    }
}
