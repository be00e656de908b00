using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Cpu;

namespace FlashInfer.Tests.Tensors;

/// <summary>Tensors to and from other libraries, on the CPU. What the other library sees is read by offsets, as <c>dlpack.h</c> lays it out on 64 bits.</summary>
public sealed unsafe class DLPackTests : IDisposable
{
    private static int s_deleted;

    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });

    public void Dispose() => _device.Dispose();

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_tensor_goes_out_and_comes_back_as_the_same_memory(bool isVersioned)
    {
        using DeviceTensor<float> tensor = _device.Allocate<float>(3, 4);
        tensor.CopyFrom([.. Enumerable.Range(0, 12).Select(static i => (float)i)]);

        nint handed = tensor.View.Rows(1, 2).ToDLPack(isVersioned: isVersioned);
        using DeviceTensor back = _device.FromDLPack(handed, isVersioned);

        Assert.Equal((tensor.Address + 16, DType.Float32, new TensorShape(2, 4)), (back.Address, back.Dtype, back.Shape));
        Assert.Equal([4, 5, 6, 7, 8, 9, 10, 11], back.View.As<float>().ToArray());
    }

    [Fact]
    public void The_versioned_structure_is_laid_out_as_dlpack_h_says()
    {
        using DeviceTensor<BFloat16> tensor = _device.Allocate<BFloat16>(5, 7);

        byte* native = (byte*)tensor.View.ToDLPack(consumerStream: -1);

        Assert.Equal((1u, 1u), (*(uint*)native, *(uint*)(native + 4)));
        Assert.Equal(0ul, *(ulong*)(native + 24));
        CheckTensor(native + 32, tensor.Address);
        ((delegate* unmanaged[Cdecl]<void*, void>)*(nint*)(native + 16))(native);
    }

    [Fact]
    public void The_older_structure_is_laid_out_as_dlpack_h_says()
    {
        using DeviceTensor<BFloat16> tensor = _device.Allocate<BFloat16>(5, 7);

        byte* native = (byte*)tensor.View.ToDLPack(isVersioned: false);

        CheckTensor(native, tensor.Address);
        ((delegate* unmanaged[Cdecl]<void*, void>)*(nint*)(native + 56))(native);
    }

    [Theory]
    [InlineData(DType.Int32, 0, 32)]
    [InlineData(DType.Float32, 2, 32)]
    [InlineData(DType.Float16, 2, 16)]
    [InlineData(DType.BFloat16, 4, 16)]
    [InlineData(DType.Float8E4M3, 10, 8)]
    [InlineData(DType.Float8E5M2, 12, 8)]
    public void Element_types_have_the_codes_of_dlpack_h(DType dtype, int code, int bits)
    {
        using DeviceTensor tensor = _device.Allocate(dtype, 16);

        nint handed = tensor.View.ToDLPack();

        byte* type = (byte*)handed + 32 + 20;
        Assert.Equal((code, bits, 1), (type[0], type[1], *(ushort*)(type + 2)));
        using DeviceTensor back = _device.FromDLPack(handed);
        Assert.Equal(dtype, back.Dtype);
    }

    [Fact]
    public void Memory_stays_until_both_sides_are_done()
    {
        CpuBackend backend = (CpuBackend)_device.Backend;
        int before = backend.LiveAllocations;
        DeviceTensor<float> tensor = _device.Allocate<float>(4);
        tensor.CopyFrom([1, 2, 3, 4]);
        DeviceTensor back = _device.FromDLPack(tensor.View.ToDLPack());

        tensor.Dispose();

        Assert.Throws<ObjectDisposedException>(() => tensor.Address);
        Assert.Equal([1, 2, 3, 4], back.View.As<float>().ToArray());
        Assert.Equal(before + 1, backend.LiveAllocations);
        back.Dispose();
        Assert.Equal(before, backend.LiveAllocations);
        Assert.Throws<ObjectDisposedException>(() => back.Address);
    }

    [Fact]
    public void A_foreign_tensor_is_given_back_once()
    {
        Foreign foreign = new(rank: 2, dimensions: [2, 3], strides: [1, 2]);
        s_deleted = 0;

        DeviceTensor tensor = _device.FromDLPack(foreign.Address);

        Assert.Equal((1L, 2L, foreign.Data + 8), (tensor.View.Stride(0), tensor.View.Stride(1), tensor.Address));
        tensor.Dispose();
        tensor.Dispose();
        Assert.Equal(1, s_deleted);
        foreign.Free();
    }

    [Fact]
    public void Strides_that_are_not_there_mean_a_contiguous_tensor()
    {
        Foreign foreign = new(rank: 2, dimensions: [2, 3], strides: null);

        using (DeviceTensor tensor = _device.FromDLPack(foreign.Address))
        {
            Assert.True(tensor.View.IsContiguous);
        }

        foreign.Free();
    }

    [Theory]
    [InlineData("version", "The tensor is one of DLPack 2.0; expected 1.x.")]
    [InlineData("readOnly", "The tensor is read-only")]
    [InlineData("device", "The tensor lies on device 0 of type 2 (Cuda), but this device is CPU")]
    [InlineData("type", "DLPack's type code 2 with 64 bits and 1 lanes; expected Float16,")]
    [InlineData("lanes", "32 bits and 4 lanes")]
    [InlineData("rank", "The tensor has 6 dimensions; expected 1 to 5.")]
    [InlineData("scalar", "The tensor has 0 dimensions")]
    [InlineData("size", "Dimension 0 of the tensor is 4294967296; expected 0 to 2147483647.")]
    [InlineData("stride", "Stride 1 of the tensor is -1; expected 0 or more.")]
    [InlineData("alignment", "elements of Float32 lie at multiples of 4 bytes")]
    public void What_cannot_be_taken_is_refused_and_still_the_caller_s(string wrong, string message)
    {
        Foreign foreign = new(
            rank: wrong switch
            {
                "rank" => 6,
                "scalar" => 0,
                _ => 2,
            },
            dimensions: [wrong == "size" ? 1L << 32 : 2, 3, 1, 1, 1, 1],
            strides: [3, wrong == "stride" ? -1 : 1, 1, 1, 1, 1]
        );
        byte* native = (byte*)foreign.Address;
        switch (wrong)
        {
            case "version":
                *(uint*)native = 2;
                break;
            case "readOnly":
                *(ulong*)(native + 24) = 1;
                break;
            case "device":
                *(int*)(native + 32 + 8) = 2;
                break;
            case "type":
                native[32 + 21] = 64;
                break;
            case "lanes":
                native[32 + 22] = 4;
                break;
            case "alignment":
                *(ulong*)(native + 32 + 40) = 2;
                break;
        }

        s_deleted = 0;

        ArgumentException e = Assert.ThrowsAny<ArgumentException>(() => _device.FromDLPack(foreign.Address));

        Assert.Contains(message, e.Message, StringComparison.Ordinal);
        Assert.Equal(0, s_deleted);
        foreign.Free();
    }

    [Fact]
    public void A_read_only_tensor_is_taken_when_allowed()
    {
        Foreign foreign = new(rank: 1, dimensions: [6], strides: [1]);
        *(ulong*)(foreign.Address + 24) = 1;

        using (DeviceTensor tensor = _device.FromDLPack(foreign.Address, allowReadOnly: true))
        {
            Assert.Equal(6, tensor.Shape.Elements);
        }

        foreign.Free();
    }

    [Fact]
    public void Streams_and_nothing_are_refused_on_the_CPU()
    {
        using DeviceTensor<float> tensor = _device.Allocate<float>(4);

        Assert.Throws<ArgumentException>("consumerStream", () => tensor.View.ToDLPack(consumerStream: 1));
        Assert.Throws<InvalidOperationException>(() => default(TensorView).ToDLPack());
        Assert.Throws<ArgumentException>("managed", () => _device.FromDLPack(0));
    }

    private static void CheckTensor(byte* tensor, nint address)
    {
        Assert.Equal(address, *(nint*)tensor);
        Assert.Equal((1, 0, 2), (*(int*)(tensor + 8), *(int*)(tensor + 12), *(int*)(tensor + 16)));
        Assert.Equal((4, 16, 1), (tensor[20], tensor[21], *(ushort*)(tensor + 22)));
        Assert.Equal([5, 7], new ReadOnlySpan<long>(*(long**)(tensor + 24), 2));
        Assert.Equal([7, 1], new ReadOnlySpan<long>(*(long**)(tensor + 32), 2));
        Assert.Equal(0ul, *(ulong*)(tensor + 40));
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void Deleted(void* tensor) => s_deleted++;

    /// <summary>A versioned tensor of floats as another library makes it, 8 bytes behind its data's beginning.</summary>
    private readonly struct Foreign
    {
        private readonly nint _dimensions;

        public Foreign(int rank, long[] dimensions, long[]? strides)
        {
            Data = (nint)NativeMemory.AlignedAlloc(256, 64);
            Address = (nint)NativeMemory.AllocZeroed(80);
            _dimensions = (nint)NativeMemory.AllocZeroed(12 * sizeof(long));
            byte* native = (byte*)Address;
            *(uint*)native = 1;
            *(nint*)(native + 16) = (nint)(delegate* unmanaged[Cdecl]<void*, void>)&Deleted;
            *(nint*)(native + 32) = Data;
            *(int*)(native + 40) = 1;
            *(int*)(native + 48) = rank;
            native[52] = 2;
            native[53] = 32;
            native[54] = 1;
            *(nint*)(native + 56) = _dimensions;
            *(nint*)(native + 64) = strides is null ? 0 : _dimensions + (6 * sizeof(long));
            *(ulong*)(native + 72) = 8;
            dimensions.CopyTo(new Span<long>((long*)_dimensions, 6));
            strides?.CopyTo(new Span<long>((long*)_dimensions + 6, 6));
        }

        public nint Address { get; }

        public nint Data { get; }

        public void Free()
        {
            NativeMemory.AlignedFree((void*)Data);
            NativeMemory.Free((void*)Address);
            NativeMemory.Free((void*)_dimensions);
        }
    }
}
