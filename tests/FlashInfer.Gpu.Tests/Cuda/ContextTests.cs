using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class ContextTests
{
    [Fact]
    public void Properties_make_sense()
    {
        using CudaContext context = Gpu.Require();
        (long free, long total) = context.GetMemoryInfo();

        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{context}, driver {context.DriverVersion}, {context.MultiprocessorCount} SMs, {context.SharedMemoryPerBlockOptIn} B shared, {context.L2CacheBytes} B L2, {free} of {total} B free, {context.TotalMemory} B in all"
        );
        Assert.Equal(0, context.Ordinal);
        Assert.NotEmpty(context.Name);
        Assert.True(context.DriverVersion.Major >= 12);
        Assert.StartsWith(
            $"sm_{context.ComputeCapabilityMajor}{context.ComputeCapabilityMinor}",
            context.Architecture,
            StringComparison.Ordinal
        );
        Assert.InRange(context.MultiprocessorCount, 1, 1000);
        Assert.InRange(context.SharedMemoryPerBlockOptIn, 48 << 10, 1 << 20);
        Assert.InRange(context.L2CacheBytes, 1 << 20, 1 << 30);
        Assert.InRange(free, 1, total);
        Assert.InRange(context.TotalMemory, 1L << 30, 1L << 40);
        Assert.InRange(CudaContext.DeviceCount, 1, 64);
    }

    [Fact]
    public void Device_that_is_not_there_is_named_with_the_count()
    {
        using CudaContext context = Gpu.Require();

        DeviceUnavailableException e = Assert.Throws<DeviceUnavailableException>(() => CudaContext.Open(1000));

        Assert.Contains("no CUDA device 1000: this process may use " + CudaContext.DeviceCount, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Context_of_another_owner_works_and_is_left_alone()
    {
        using CudaContext context = Gpu.Require();
        CudaContext same = CudaContext.FromHandle(context.Handle);

        Assert.Equal(context.Handle, same.Handle);
        Assert.Equal(context.Ordinal, same.Ordinal);
        Assert.Equal(context.Name, same.Name);
        same.Dispose();
        context.Synchronize();
    }

    [Fact]
    public void Disposal_in_the_wrong_order_is_harmless_and_use_afterwards_is_an_error()
    {
        using CudaContext keeper = Gpu.Require();
        CudaContext context = Gpu.Require();
        CudaStream stream = new(context);
        CudaEvent mark = new(context);
        context.Dispose();

        Assert.Throws<ObjectDisposedException>(() => stream.Synchronize());
        Assert.Throws<ObjectDisposedException>(() => new CudaStream(context));
        stream.Dispose();
        mark.Dispose();
        Assert.Throws<ObjectDisposedException>(() => stream.Handle);
        keeper.Synchronize();
    }

    [Fact]
    public void Streams_and_events_left_to_the_finalizer_do_no_harm()
    {
        using CudaContext keeper = Gpu.Require();
        Abandon();
        for (int i = 0; i < 3; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }

        keeper.Synchronize();

        static void Abandon()
        {
            for (int i = 0; i < 20; i++)
            {
                CudaContext context = CudaContext.Open(0);
                CudaStream stream = new(context);
                new CudaEvent(context).Record(stream);
            }
        }
    }

    [Fact]
    public void Every_thread_may_call_in()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);

        Parallel.For(
            0,
            32,
            i =>
            {
                byte[] sent = Gpu.RandomBytes(10_000, i);
                byte[] received = new byte[sent.Length];
                nint address = backend.Allocate(sent.Length);
                backend.CopyIn(address, sent, null);
                backend.CopyOut(received, address, null);
                backend.Free(address);
                Assert.Equal(sent, received);
            }
        );
    }
}
