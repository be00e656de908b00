using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Cpu;
using FlashInfer.Cuda;

namespace FlashInfer.Tests.Cpu;

public sealed class CpuBackendTests : IDisposable
{
    private readonly CpuBackend _backend = new(2);

    public void Dispose() => _backend.Dispose();

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(100_000)]
    public void Memory_is_aligned_and_counted(long bytes)
    {
        nint address = _backend.Allocate(bytes);
        Assert.NotEqual(0, address);
        Assert.Equal(0, address % 256);
        Assert.Equal(1, _backend.LiveAllocations);
        _backend.Free(address);
        Assert.Equal(0, _backend.LiveAllocations);
    }

    [Fact]
    public void Wrong_sizes_and_addresses_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => _backend.Allocate(-1));
        nint address = _backend.Allocate(16);
        Assert.Throws<ArgumentException>(() => _backend.Free(address + 8));
        _backend.Free(address);
        ArgumentException exception = Assert.Throws<ArgumentException>(() => _backend.Free(address));
        Assert.Contains($"0x{address:x}", exception.Message, StringComparison.Ordinal);
        FlashInferException tooMuch = Assert.Throws<FlashInferException>(() => _backend.Allocate(long.MaxValue / 2));
        Assert.Contains($"{long.MaxValue / 2} bytes", tooMuch.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Copies_and_fills_reach_exactly_their_bytes()
    {
        nint a = _backend.Allocate(64);
        nint b = _backend.Allocate(64);
        _backend.Fill(a, 7, 64, null);
        _backend.Fill(b, 9, 64, null);
        _backend.CopyIn(a + 4, [1, 2, 3], null);
        _backend.Copy(b + 8, a + 3, 5, null);
        _backend.Synchronize();
        byte[] read = new byte[15];
        _backend.CopyOut(read, b, null);
        Assert.Equal(new byte[] { 9, 9, 9, 9, 9, 9, 9, 9, 7, 1, 2, 3, 7, 9, 9 }, read);

        // Overlapping copies behave as if through a buffer.
        _backend.Copy(b + 9, b + 8, 5, null);
        _backend.CopyOut(read, b, null);
        Assert.Equal(new byte[] { 7, 7, 1, 2, 3, 7, 9 }, read[8..]);
    }

    [Fact]
    public void Streams_are_refused()
    {
        // What kind of stream it is does not matter, so that none has to be created here.
        CudaStream stream = (CudaStream)RuntimeHelpers.GetUninitializedObject(typeof(CudaStream));
        nint memory = _backend.Allocate(16);
        using UploadBuffer buffer = _backend.CreateUploadBuffer(16);
        Action[] calls =
        [
            () => _backend.CopyIn(memory, [1], stream),
            () => _backend.CopyOut(new byte[1], memory, stream),
            () => _backend.Copy(memory, memory, 1, stream),
            () => _backend.Fill(memory, 1, 1, stream),
            () => buffer.Commit(1, stream),
        ];
        foreach (Action call in calls)
        {
            ArgumentException exception = Assert.Throws<ArgumentException>(call);
            Assert.Equal("stream", exception.ParamName);
            Assert.Contains("The CPU device has no streams", exception.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void An_upload_buffer_is_the_memory_that_kernels_read()
    {
        UploadBuffer buffer = _backend.CreateUploadBuffer(32);
        Assert.Equal(32, buffer.Capacity);
        Span<byte> host = buffer.Begin();
        Assert.Equal(32, host.Length);
        host[31] = 5;
        buffer.Commit(32, null);
        Assert.Equal(5, Marshal.ReadByte(buffer.Address, 31));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Commit(33, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Commit(-1, null));
        Assert.Equal(1, _backend.LiveAllocations);
        buffer.Dispose();
        buffer.Dispose();
        Assert.Equal(0, _backend.LiveAllocations);
        Assert.Throws<ObjectDisposedException>(() => buffer.Begin().Length);
    }

    [Fact]
    public void Disposal_frees_everything_and_owners_may_free_later()
    {
        CpuBackend backend = new(2);
        nint address = backend.Allocate(16);
        UploadBuffer buffer = backend.CreateUploadBuffer(16);
        backend.Dispose();
        backend.Dispose();
        Assert.Equal(0, backend.LiveAllocations);
        backend.Free(address);
        buffer.Dispose();
        Assert.Throws<ObjectDisposedException>(() => backend.Allocate(16));
        Assert.Throws<ObjectDisposedException>(backend.Synchronize);
        Assert.Throws<ObjectDisposedException>(() => backend.LoadKernels(new AttentionSpec(1, 1, 64, 16, DType.Float16)));
    }

    [Fact]
    public void Kernels_know_their_name_and_their_units()
    {
        using AttentionKernels kernels = _backend.LoadKernels(new AttentionSpec(32, 8, 128, 16, DType.BFloat16));
        foreach ((int queryTokens, int compiledFor) in ((int, int)[])[(1, 1), (2, 2), (3, 4), (8, 8)])
        {
            DecodeKernel decode = kernels.Decode(queryTokens);
            Assert.Same(decode, kernels.Decode(compiledFor));
            Assert.Equal((2, 8, 4 * compiledFor, 1), (decode.Blocks, decode.UnitsPerItem, decode.ColumnsPerUnit, decode.Teams));
            Assert.Equal($"cpu_decode_v{CpuAttentionKernels.BestVectorBits} on 2 threads", decode.Name);
        }
    }
}
