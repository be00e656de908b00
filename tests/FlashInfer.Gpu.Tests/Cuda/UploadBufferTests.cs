using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class UploadBufferTests
{
    [Fact]
    public void Slots_are_never_overwritten_in_flight()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        const int Bytes = 10_000;
        const int Commits = 1000;
        using UploadBuffer list = backend.CreateUploadBuffer(Bytes);
        nint log = backend.Allocate((long)Bytes * Commits);

        // What each commit made visible is copied aside in stream order, with the device far behind the host at first.
        kernels.Busy(backend.Stream, 50);
        for (int i = 0; i < Commits; i++)
        {
            Gpu.RandomBytes(Bytes, i).CopyTo(list.Begin());
            list.Commit(Bytes, null);
            backend.Copy(log + (nint)i * Bytes, list.Address, Bytes, null);
        }

        byte[] received = new byte[Bytes * Commits];
        backend.CopyOut(received, log, null);
        for (int i = 0; i < Commits; i++)
        {
            Assert.True(Gpu.RandomBytes(Bytes, i).AsSpan().SequenceEqual(received.AsSpan(i * Bytes, Bytes)), $"commit {i}");
        }

        backend.Free(log);
    }

    [Fact]
    public void Only_a_fifth_commit_waits_for_the_first()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        using CudaEvent free = new(context);
        using UploadBuffer list = backend.CreateUploadBuffer(100);

        kernels.Busy(backend.Stream, 500);
        free.Record(backend.Stream);
        for (int i = 0; i < 4; i++)
        {
            list.Begin().Clear();
            list.Commit(100, null);
        }

        Assert.False(free.IsCompleted);
        list.Begin();
        Assert.True(free.IsCompleted);
    }

    [Fact]
    public void Commits_on_another_stream_say_nothing_of_a_slot_in_flight()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        using CudaStream other = new(context);
        using CudaEvent free = new(context);
        using UploadBuffer list = backend.CreateUploadBuffer(100);

        kernels.Busy(backend.Stream, 500);
        free.Record(backend.Stream);
        for (int i = 0; i < 4; i++)
        {
            list.Begin().Clear();
            list.Commit(100, i == 0 ? null : other);
        }

        other.Synchronize();
        Assert.False(free.IsCompleted);
        list.Begin();
        Assert.True(free.IsCompleted);
    }

    [Fact]
    public void Commit_copies_the_first_bytes_only()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using UploadBuffer list = backend.CreateUploadBuffer(100);
        byte[] received = new byte[100];

        backend.Fill(list.Address, 9, 100, null);
        list.Begin().Fill(1);
        list.Commit(30, null);
        backend.CopyOut(received, list.Address, null);

        Assert.All(received[..30], value => Assert.Equal(1, value));
        Assert.All(received[30..], value => Assert.Equal(9, value));
        Assert.Equal(100, list.Capacity);
        Assert.Equal(100, list.Begin().Length);
        list.Commit(0, null);
        Assert.Throws<InvalidOperationException>(() => list.Commit(1, null));
        list.Begin();
        Assert.Throws<ArgumentOutOfRangeException>(() => list.Commit(101, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => list.Commit(-1, null));
    }

    [Fact]
    public void Steady_state_allocates_nothing()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        using UploadBuffer list = backend.CreateUploadBuffer(1000);
        nint target = backend.Allocate(1000);

        // The first rounds compile the methods.
        Step(100);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Step(100);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        backend.Synchronize();
        backend.Free(target);

        void Step(int rounds)
        {
            for (int i = 0; i < rounds; i++)
            {
                list.Begin()[0] = 1;
                list.Commit(1000, null);
                backend.Copy(target, list.Address, 1000, null);
                FillParams args = new()
                {
                    Destination = target,
                    Value = 7,
                    Count = 100,
                };
                kernels.Fill.Launch(args, new(1), new(128), 0, backend.Stream, programmaticDependentLaunch: true);
            }
        }
    }
}
