using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed unsafe class MemoryTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(255)]
    [InlineData(65_537)]
    [InlineData(2 << 20)]
    [InlineData((9 << 20) + 3)]
    public void Round_trip_keeps_every_byte(int bytes)
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        byte[] sent = Gpu.RandomBytes(bytes, bytes);
        byte[] received = new byte[bytes];
        nint a = backend.Allocate(bytes);
        nint b = backend.Allocate(bytes);

        backend.CopyIn(a, sent, null);
        backend.Copy(b, a, bytes, null);
        backend.CopyOut(received, b, null);

        Assert.Equal(sent, received);
        Assert.Equal(0, a % 256);
        Assert.Equal(0, b % 256);
        backend.Free(a);
        backend.Free(b);
    }

    [Fact]
    public void Tensors_are_copied_again_by_each_replay_of_a_graph()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using DeviceTensor<int> source = device.Allocate<int>(3, 5);
        using DeviceTensor<int> destination = device.Allocate<int>(2, 5);
        device.Stream!.BeginCapture();
        source.View.Rows(1, 2).CopyTo(destination);
        using CudaGraph graph = device.Stream.EndCapture();

        foreach (int start in (int[])[10, 20])
        {
            source.CopyFrom([.. Enumerable.Range(start, 15)]);
            graph.Launch(device.Stream);
            Assert.Equal(Enumerable.Range(start + 5, 10), destination.ToArray());
        }
    }

    [Fact]
    public void Fill_sets_its_range_only()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        byte[] received = new byte[1000];
        nint address = backend.Allocate(1000);

        backend.Fill(address, 0xAB, 1000, null);
        backend.Fill(address + 100, 7, 333, null);
        backend.Fill(address, 9, 0, null);
        backend.CopyOut(received, address, null);

        for (int i = 0; i < received.Length; i++)
        {
            Assert.Equal(i is >= 100 and < 433 ? 7 : 0xAB, received[i]);
        }

        backend.Free(address);
    }

    [Fact]
    public void Source_may_be_reused_at_once()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        byte[] source = Gpu.RandomBytes(100_000, 1);
        byte[] expected = [.. source];
        byte[] received = new byte[source.Length];
        nint address = backend.Allocate(source.Length);

        kernels.Busy(backend.Stream, 50);
        backend.CopyIn(address, source, null);
        source.AsSpan().Clear();
        backend.CopyOut(received, address, null);

        Assert.Equal(expected, received);
        backend.Free(address);
    }

    [Fact]
    public void New_memory_is_valid_on_any_stream_while_the_devices_own_is_busy()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream other = new(context);
        const int Bytes = 1 << 20;
        byte[] received = new byte[Bytes];

        // The first block is freed behind work that still writes to it: it must not be handed out yet.
        nint busy = backend.Allocate(Bytes);
        kernels.Busy(backend.Stream, 50);
        backend.Fill(busy, 1, Bytes, null);
        backend.Free(busy);
        nint fresh = backend.Allocate(Bytes);
        backend.Fill(fresh, 2, Bytes, other);
        other.Synchronize();
        context.Synchronize();
        backend.CopyOut(received, fresh, other);

        Assert.All(received, value => Assert.Equal(2, value));
        backend.Free(fresh);
    }

    [Fact]
    public void Asking_for_more_than_there_is_says_so_and_leaves_the_device_usable()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        // More than there are addresses: of what has one the driver takes all that other processes leave, before it refuses.
        const long TooMuch = 1L << 50;

        CudaDriverException e = Assert.Throws<CudaDriverException>(() => backend.Allocate(TooMuch));

        Assert.Equal("CUDA_ERROR_OUT_OF_MEMORY", e.CodeName);
        Assert.Equal("cuMemAllocAsync", e.Call);
        Assert.Contains($"Asked for {TooMuch:N0} bytes;", e.Message, StringComparison.Ordinal);
        Assert.Contains(context.Name, e.Message, StringComparison.Ordinal);
        nint address = backend.Allocate(100);
        backend.Fill(address, 1, 100, null);
        backend.Synchronize();
        backend.Free(address);
    }

    [Fact]
    public void Freed_memory_is_kept_for_the_next_allocation()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        const long Bytes = 1L << 28;
        backend.Free(backend.Allocate(Bytes));
        backend.Synchronize();
        long before = context.GetMemoryInfo().Free;

        nint address = backend.Allocate(Bytes);

        // Were it not kept, the device would have lost as much free memory again.
        Assert.InRange(before - context.GetMemoryInfo().Free, long.MinValue, Bytes / 2);
        backend.Free(address);
        backend.TrimMemory();
    }

    [Fact]
    public void Trimmed_memory_is_given_back()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        using Measurements measured = new();
        const long Bytes = 1L << 28;
        device.TrimMemory();
        (long used, long kept) = device.Memory!.Value;
        DeviceTensor<int> tensor = device.Allocate<int>((int)(Bytes / sizeof(int)));
        Assert.Equal(used + Bytes, device.Memory!.Value.Used);
        tensor.Dispose();
        device.Synchronize();
        measured.Observe();

        device.TrimMemory();

        Assert.Equal([used], measured.Of("flashinfer.device.memory", "flashinfer.memory.state", "used"));
        Assert.InRange(measured.Of("flashinfer.device.memory", "flashinfer.memory.state", "kept").Single() - kept, Bytes, Bytes * 2);
        Assert.Equal((used, kept), device.Memory); // of the driver's own account: what is free altogether, other processes change
    }

    [Fact]
    public void Memory_cannot_be_trimmed_in_a_capture_of_the_device_s_stream()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        device.Stream!.BeginCapture();

        InvalidOperationException e = Assert.Throws<InvalidOperationException>(device.TrimMemory);

        Assert.Contains("before the capture or after it", e.Message, StringComparison.Ordinal);
        device.Stream.EndCapture().Dispose();
        device.TrimMemory();
        device.Dispose();
        Assert.Throws<ObjectDisposedException>(device.TrimMemory);
        Assert.Null(device.Memory);
    }

    [Fact]
    public void Addresses_are_told_apart()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        nint address = backend.Allocate(4096);
        int local = 0;

        Assert.Equal(0, context.FindDevice(address));
        Assert.Equal(0, context.FindDevice(address + 100));
        Assert.Null(context.FindDevice((nint)(&local)));
        backend.Free(address);
    }

    [Fact]
    public void Misuse_is_refused_before_anything_happens()
    {
        using CudaContext context = Gpu.Require();
        CudaBackend backend = Gpu.Backend(context);

        Assert.Throws<ArgumentOutOfRangeException>(() => backend.Allocate(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => backend.Fill(0, 0, -1, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => backend.Copy(0, 0, -1, null));
        backend.Free(0);
        nint empty = backend.Allocate(0);
        backend.CopyIn(empty, [], null);
        backend.CopyOut([], empty, null);
        backend.Free(empty);
        backend.Dispose();
        backend.Dispose();
        Assert.Throws<ObjectDisposedException>(() => backend.Allocate(1));
        Assert.Throws<ObjectDisposedException>(() => backend.Free(256));
        Assert.Throws<ObjectDisposedException>(() => backend.CreateUploadBuffer(1));
    }
}
