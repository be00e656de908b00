using System.Buffers.Binary;
using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

public sealed class ModuleTests
{
    [Fact]
    public void Kernel_runs_with_its_structure()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        const int Count = 1000;
        nint target = backend.Allocate(Count * sizeof(uint));
        byte[] received = new byte[Count * sizeof(uint)];
        FillParams args = new()
        {
            Destination = target,
            Value = 0xDEADBEEF,
            Count = Count - 1,
        };

        backend.Fill(target, 0, Count * sizeof(uint), null);
        kernels.Fill.Launch(args, new(8), new(128), 0, backend.Stream);
        backend.CopyOut(received, target, null);

        for (int i = 0; i < Count; i++)
        {
            Assert.Equal(i < Count - 1 ? 0xDEADBEEF : 0, BinaryPrimitives.ReadUInt32LittleEndian(received.AsSpan(i * sizeof(uint))));
        }

        backend.Free(target);
    }

    [Fact]
    public void Attributes_and_occupancy_make_sense()
    {
        using CudaContext context = Gpu.Require();
        using TestKernels kernels = TestKernels.Load(context);

        Assert.InRange(kernels.Fill.Registers, 1, 255);
        Assert.Equal(0, kernels.Fill.LocalBytes);
        Assert.Equal(0, kernels.Fill.StaticSharedBytes);
        Assert.Equal(1024, kernels.Fill.MaxThreadsPerBlock);
        Assert.InRange(kernels.Fill.GetMaxActiveBlocksPerMultiprocessor(128, 0), 1, 64);
        Assert.NotEqual(0, kernels.Fill.Handle);
    }

    [Fact]
    public void Dynamic_shared_memory_above_48_KiB_has_to_be_allowed()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        using TestKernels kernels = TestKernels.Load(context);
        int most = context.SharedMemoryPerBlockOptIn;
        nint target = backend.Allocate(sizeof(uint));
        FillParams args = new() { Destination = target };
        byte[] received = new byte[sizeof(uint)];

        CudaDriverException e = Assert.Throws<CudaDriverException>(() =>
            kernels.Shared.Launch(args, new(1), new(32), most, backend.Stream)
        );
        Assert.Contains($"Kernel 'shared'", e.Message, StringComparison.Ordinal);
        Assert.Contains($"{most:N0} bytes of dynamic shared memory", e.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => kernels.Shared.SetMaxDynamicSharedMemory(most + 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => kernels.Shared.SetMaxDynamicSharedMemory(-1));
        kernels.Shared.SetMaxDynamicSharedMemory(most);
        Assert.Equal(1, kernels.Shared.GetMaxActiveBlocksPerMultiprocessor(32, most));
        kernels.Shared.Launch(args, new(1), new(32), most, backend.Stream);
        backend.CopyOut(received, target, null);

        Assert.Equal(most, BinaryPrimitives.ReadInt32LittleEndian(received));
        backend.Free(target);
    }

    [Fact]
    public void Block_that_is_too_large_is_refused_and_the_device_lives_on()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);
        using TestKernels kernels = TestKernels.Load(context);

        CudaDriverException e = Assert.Throws<CudaDriverException>(() =>
            kernels.Spin.Launch(new SpinParams { Nanoseconds = 1 }, new(1), new(2048), 0, stream)
        );

        Assert.Equal("cuLaunchKernelEx", e.Call);
        Assert.Contains("block 2048 x 1 x 1", e.Message, StringComparison.Ordinal);
        kernels.Busy(stream, 1);
        stream.Synchronize();
    }

    [Fact]
    public void Constant_is_read_back()
    {
        using CudaContext context = Gpu.Require();
        using TestKernels kernels = TestKernels.Load(context);
        byte[] answer = new byte[4];

        kernels.Module.ReadGlobal("answer", answer);

        Assert.Equal(42, BinaryPrimitives.ReadInt32LittleEndian(answer));
        ArgumentException size = Assert.Throws<ArgumentException>(() => kernels.Module.ReadGlobal("answer", new byte[8]));
        Assert.Contains("'answer' has 4 bytes", size.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Symbols_that_are_not_there_are_named()
    {
        using CudaContext context = Gpu.Require();
        using TestKernels kernels = TestKernels.Load(context);

        CudaDriverException kernel = Assert.Throws<CudaDriverException>(() => kernels.Module.GetFunction("nothing"));
        CudaDriverException variable = Assert.Throws<CudaDriverException>(() => kernels.Module.ReadGlobal("nothing", new byte[4]));

        Assert.Equal("CUDA_ERROR_NOT_FOUND", kernel.CodeName);
        Assert.Contains("Kernel 'nothing'", kernel.Message, StringComparison.Ordinal);
        Assert.Equal("CUDA_ERROR_NOT_FOUND", variable.CodeName);
        Assert.Contains("Variable 'nothing'", variable.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Images_that_are_no_cubin_are_refused_with_a_reason()
    {
        using CudaContext context = Gpu.Require();
        byte[] empty = new byte[64];
        "\u007fELF"u8.CopyTo(empty);
        empty[4] = 2;
        empty[5] = 1;
        empty[6] = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(empty.AsSpan(18), 190);

        Assert.Throws<ArgumentException>(() => CudaModule.Load(context, Gpu.RandomBytes(1000, 1)));
        CudaDriverException e = Assert.Throws<CudaDriverException>(() => CudaModule.Load(context, empty));
        CudaDriverException ptx = Assert.Throws<CudaDriverException>(() => CudaModule.LoadPtx(context, "this is no PTX"u8));

        TestContext.Current.TestOutputHelper?.WriteLine($"{e.Message}\n{ptx.Message}");
        Assert.Equal("cuModuleLoadData", e.Call);
        Assert.Contains("A cubin of 64 bytes", e.Message, StringComparison.Ordinal);
        Assert.Contains(context.Name, e.Message, StringComparison.Ordinal);
        Assert.Contains("PTX of 14 bytes", ptx.Message, StringComparison.Ordinal);
        context.Synchronize();
    }

    [Fact]
    public void Disposed_module_is_not_used()
    {
        using CudaContext context = Gpu.Require();
        using CudaStream stream = new(context);
        TestKernels kernels = TestKernels.Load(context);
        kernels.Dispose();

        Assert.Throws<ObjectDisposedException>(() => kernels.Busy(stream, 1));
        Assert.Throws<ObjectDisposedException>(() => kernels.Module.GetFunction("fill"));
    }
}
