using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class StreamTests
{
    [Fact]
    public void Work_waits_for_the_event_of_another_stream()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream first = new(context);
        using CudaStream second = new(context);
        using CudaEvent mark = new(context);
        nint address = backend.Allocate(1000);
        byte[] received = new byte[1000];

        kernels.Busy(first, 100);
        backend.Fill(address, 1, 1000, first);
        mark.Record(first);
        second.Wait(mark);
        backend.Fill(address, 2, 1000, second);

        Assert.False(mark.IsCompleted);
        Assert.False(first.IsCompleted);
        Assert.False(second.IsCompleted);
        backend.CopyOut(received, address, second);
        Assert.True(mark.IsCompleted);
        Assert.True(first.IsCompleted);
        Assert.All(received, value => Assert.Equal(2, value));
        backend.Free(address);
    }

    [Fact]
    public void Events_measure_time()
    {
        using CudaContext context = Gpu.Require();
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream stream = new(context);
        using CudaEvent start = new(context, timing: true);
        using CudaEvent end = new(context, timing: true);

        start.Record(stream);
        kernels.Busy(stream, 20);
        end.Record(stream);
        CudaDriverException early = Assert.Throws<CudaDriverException>(() => CudaEvent.ElapsedMilliseconds(start, end));
        end.Synchronize();

        Assert.Equal("CUDA_ERROR_NOT_READY", early.CodeName);
        Assert.InRange(CudaEvent.ElapsedMilliseconds(start, end), 19f, 1000f);
    }

    [Fact]
    public void Event_without_timing_measures_nothing()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);
        using CudaEvent mark = new(context);
        mark.Record(stream);
        mark.Synchronize();

        CudaDriverException e = Assert.Throws<CudaDriverException>(() => CudaEvent.ElapsedMilliseconds(mark, mark));

        Assert.Equal("cuEventElapsedTime", e.Call);
    }

    [Fact]
    public void Event_that_was_never_recorded_is_complete()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);
        using CudaEvent mark = new(context);

        Assert.True(mark.IsCompleted);
        mark.Synchronize();
        stream.Wait(mark);
        stream.Synchronize();
    }

    [Fact]
    public void Stream_of_another_owner_works_and_is_left_alone()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream owner = new(context);
        CudaStream borrowed = CudaStream.FromHandle(context, owner.Handle);
        using CudaBackend backend = Gpu.Backend(context, borrowed);
        nint address = backend.Allocate(100);
        byte[] received = new byte[100];

        backend.Fill(address, 5, 100, null);
        backend.CopyOut(received, address, null);
        backend.Free(address);
        backend.Dispose();
        borrowed.Dispose();

        Assert.All(received, value => Assert.Equal(5, value));
        Assert.Throws<ObjectDisposedException>(() => borrowed.Synchronize());
        owner.Synchronize();
    }

    [Fact]
    public void Legacy_default_stream_is_a_stream()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using CudaStream legacy = CudaStream.FromHandle(context, 0);
        nint address = backend.Allocate(100);
        byte[] received = new byte[100];

        backend.CopyIn(address, Gpu.RandomBytes(100, 3), legacy);
        backend.CopyOut(received, address, legacy);

        Assert.Equal(Gpu.RandomBytes(100, 3), received);
        Assert.False(legacy.IsCapturing);
        CudaDriverException e = Assert.Throws<CudaDriverException>(legacy.BeginCapture);
        Assert.Equal("cuStreamBeginCapture", e.Call);
        backend.Free(address);
    }

    [Fact]
    public void Null_handles_are_argument_errors()
    {
        using CudaContext context = Gpu.Require();

        Assert.Throws<ArgumentException>(() => CudaEvent.FromHandle(context, 0));
        Assert.Throws<ArgumentException>(() => CudaGraph.FromHandle(context, 0));
        Assert.Throws<ArgumentException>(() => CudaModule.FromHandle(context, 0));
    }
}
