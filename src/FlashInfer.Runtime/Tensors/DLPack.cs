using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using FlashInfer.Observability;

namespace FlashInfer;

/// <summary>
/// Tensors of other libraries without a copy, in the form of <c>dlpack.h</c>: a structure with a deleter, which whoever takes the tensor
/// calls once. <see cref="TensorView.ToDLPack"/> and <see cref="Device.FromDLPack"/> are its public side.
/// </summary>
internal static unsafe class DLPack
{
    // What DLPack says of streams, as the array API standard does.
    private const nint LegacyDefaultStream = 1;
    private const nint NoSynchronisation = -1;

    private const uint Major = 1;
    private const uint Minor = 1;
    private const ulong ReadOnlyFlag = 1;

    /// <summary>Makes the structure, with a reference to the memory that its deleter gives back.</summary>
    public static nint Export(TensorView tensor, DeviceMemory? memory, nint? consumerStream, bool isVersioned, CudaStream? stream)
    {
        if (tensor.IsEmpty)
        {
            throw new InvalidOperationException("This view is no tensor (default); there is nothing to hand out.");
        }

        nint address = tensor.Address;
        Synchronise(tensor.Device, consumerStream, stream);
        Handout handout = new(tensor.Device, memory);
        try
        {
            return isVersioned ? Versioned(tensor, address, handout) : Unversioned(tensor, address, handout);
        }
        catch
        {
            handout.Release();
            throw;
        }
    }

    /// <summary>Takes a tensor over; when this throws it is still the caller's.</summary>
    public static DeviceTensor Import(Device device, nint managed, bool isVersioned, bool allowReadOnly)
    {
        if (managed == 0)
        {
            throw new ArgumentException("The pointer to the DLPack tensor is null.", nameof(managed));
        }

        ManagedVersioned* versioned = (ManagedVersioned*)managed;
        if (isVersioned && versioned->Major != Major)
        {
            // Of what a later version holds only the deleter is known.
            throw new ArgumentException(
                $"The tensor is one of DLPack {versioned->Major}.{versioned->Minor}; expected {Major}.x. Ask its library for that version, or call its deleter.",
                nameof(managed)
            );
        }

        if (isVersioned && (versioned->Flags & ReadOnlyFlag) != 0 && !allowReadOnly)
        {
            throw new ArgumentException(
                "The tensor is read-only; ask its library for a copy, or pass allowReadOnly and never use it as an output.",
                nameof(managed)
            );
        }

        ref readonly Tensor tensor = ref isVersioned ? ref versioned->Tensor : ref ((Managed*)managed)->Tensor;
        RequireDevice(device, tensor);
        DType dtype = Dtype(tensor);
        (TensorShape shape, TensorStrides strides) = Layout(tensor);
        nint address = tensor.Data + checked((nint)tensor.ByteOffset);
        Device.CheckForeign(address, dtype, shape);
        DeviceMemory memory = new(device, address, shape.Elements * dtype.Size(), () => CallDeleter(managed, isVersioned));
        return new DeviceTensor(memory, new TensorView(device, memory, address, dtype, shape, strides));
    }

    /// <summary>Makes what was written on our stream visible on the consumer's.</summary>
    private static void Synchronise(Device device, nint? consumerStream, CudaStream? stream)
    {
        device.CheckStream(stream);
        if (device.Cuda is not { } context)
        {
            if (consumerStream is not (null or NoSynchronisation))
            {
                throw new ArgumentException("The CPU device has no streams; pass none.", nameof(consumerStream));
            }

            return;
        }

        if (consumerStream == 0)
        {
            throw new ArgumentException(
                "The consumer's stream is 0, which DLPack forbids since it has two meanings; pass 1 for the legacy default stream, 2 for the thread's, or -1 for no synchronisation.",
                nameof(consumerStream)
            );
        }

        CudaStream producer = stream ?? device.Stream!;
        nint consumer = consumerStream ?? LegacyDefaultStream;
        if (consumer == NoSynchronisation || consumer == producer.Handle)
        {
            return;
        }

        if (producer.IsCapturing)
        {
            throw new InvalidOperationException(
                "The stream is being captured into a graph, so there is no moment for another stream to wait for; hand the tensor out before the capture, or pass -1 and order the work yourself."
            );
        }

        using CudaEvent written = new(context);
        written.Record(producer);
        using CudaStream waiting = CudaStream.FromHandle(context, consumer);
        waiting.Wait(written);
    }

    private static nint Versioned(TensorView tensor, nint address, Handout handout)
    {
        ManagedVersioned* managed = (ManagedVersioned*)AllocateFor(tensor, sizeof(ManagedVersioned));
        managed->Major = Major;
        managed->Minor = Minor;
        managed->Context = GCHandle.ToIntPtr(GCHandle.Alloc(handout));
        managed->Deleter = &DeleteVersioned;
        managed->Flags = 0;
        Fill(ref managed->Tensor, tensor, address, (long*)(managed + 1));
        return (nint)managed;
    }

    private static nint Unversioned(TensorView tensor, nint address, Handout handout)
    {
        Managed* managed = (Managed*)AllocateFor(tensor, sizeof(Managed));
        managed->Context = GCHandle.ToIntPtr(GCHandle.Alloc(handout));
        managed->Deleter = &DeleteUnversioned;
        Fill(ref managed->Tensor, tensor, address, (long*)(managed + 1));
        return (nint)managed;
    }

    /// <summary>One block: the structure, and behind it shape and strides.</summary>
    private static void* AllocateFor(TensorView tensor, int structure) =>
        NativeMemory.Alloc((nuint)(structure + (2 * tensor.Shape.Rank * sizeof(long))));

    private static void Fill(ref Tensor native, TensorView tensor, nint address, long* dimensions)
    {
        int rank = tensor.Shape.Rank;
        (byte code, byte bits) = TypeOf(tensor.Dtype);
        native = new Tensor
        {
            Data = address,
            DeviceType = tensor.Device.Kind == DeviceKind.Cuda ? DeviceType.Cuda : DeviceType.Cpu,
            DeviceId = tensor.Device.Cuda?.Ordinal ?? 0,
            Rank = rank,
            TypeCode = code,
            TypeBits = bits,
            TypeLanes = 1,
            Shape = dimensions,
            Strides = dimensions + rank,
        };
        for (int i = 0; i < rank; i++)
        {
            native.Shape[i] = tensor.Shape[i];
            native.Strides[i] = tensor.Stride(i);
        }
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void DeleteVersioned(ManagedVersioned* managed) => Delete(managed, managed->Context);

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void DeleteUnversioned(Managed* managed) => Delete(managed, managed->Context);

    private static void Delete(void* managed, nint context)
    {
        GCHandle handle = GCHandle.FromIntPtr(context);
        ((Handout)handle.Target!).Release();
        handle.Free();
        NativeMemory.Free(managed);
    }

    private static void CallDeleter(nint managed, bool isVersioned)
    {
        // A producer may have nothing to free.
        if (isVersioned)
        {
            ManagedVersioned* tensor = (ManagedVersioned*)managed;
            if (tensor->Deleter is not null)
            {
                tensor->Deleter(tensor);
            }
        }
        else
        {
            Managed* tensor = (Managed*)managed;
            if (tensor->Deleter is not null)
            {
                tensor->Deleter(tensor);
            }
        }
    }

    private static void RequireDevice(Device device, in Tensor tensor)
    {
        bool same = device.Cuda is { } context
            ? tensor.DeviceType is DeviceType.Cuda or DeviceType.CudaManaged && tensor.DeviceId == context.Ordinal
            : tensor.DeviceType is DeviceType.Cpu or DeviceType.CudaHost;
        if (!same)
        {
            throw new ArgumentException(
                $"The tensor lies on device {tensor.DeviceId} of type {(int)tensor.DeviceType} ({tensor.DeviceType}), but this device is {device}."
            );
        }
    }

    private static (TensorShape Shape, TensorStrides Strides) Layout(in Tensor tensor)
    {
        if (tensor.Rank is < 1 or > TensorShape.MaxRank)
        {
            throw new ArgumentException($"The tensor has {tensor.Rank} dimensions; expected 1 to {TensorShape.MaxRank}.");
        }

        Span<int> dimensions = stackalloc int[tensor.Rank];
        for (int i = 0; i < dimensions.Length; i++)
        {
            long dimension = tensor.Shape[i];
            dimensions[i] = dimension is >= 0 and <= int.MaxValue
                ? (int)dimension
                : throw new ArgumentException($"Dimension {i} of the tensor is {dimension}; expected 0 to {int.MaxValue}.");
        }

        TensorShape shape = new(dimensions);
        TensorStrides strides = TensorStrides.Contiguous(shape);
        for (int i = 0; tensor.Strides is not null && i < dimensions.Length; i++)
        {
            strides[i] =
                tensor.Strides[i] >= 0
                    ? tensor.Strides[i]
                    : throw new ArgumentException($"Stride {i} of the tensor is {tensor.Strides[i]}; expected 0 or more.");
        }

        return (shape, strides);
    }

    private static (byte Code, byte Bits) TypeOf(DType dtype) =>
        dtype switch
        {
            DType.Int32 => (0, 32),
            DType.Float32 => (2, 32),
            DType.Float16 => (2, 16),
            DType.BFloat16 => (4, 16),
            DType.Float8E4M3 => (10, 8),
            DType.Float8E5M2 => (12, 8),
            _ => throw new ArgumentOutOfRangeException(nameof(dtype), dtype, "DLPack has no type for these elements."),
        };

    private static DType Dtype(in Tensor tensor)
    {
        foreach (DType dtype in Enum.GetValues<DType>())
        {
            if ((tensor.TypeCode, tensor.TypeBits) == TypeOf(dtype) && tensor.TypeLanes == 1)
            {
                return dtype;
            }
        }

        throw new ArgumentException(
            $"The tensor's elements are of DLPack's type code {tensor.TypeCode} with {tensor.TypeBits} bits and {tensor.TypeLanes} lanes; expected {string.Join(", ", Enum.GetValues<DType>())}."
        );
    }

    /// <summary>What a tensor that was handed out keeps alive.</summary>
    private sealed class Handout
    {
        private readonly Device _device;
        private readonly DeviceMemory? _memory;

        public Handout(Device device, DeviceMemory? memory)
        {
            _device = device;
            _memory = memory;
            memory?.Retain();
        }

        public void Release()
        {
            try
            {
                _memory?.Release();
            }
            catch (Exception e)
            {
                // The caller is native code, which no exception may reach.
                _device.Log.HandoutNotFreed(e.Message);
            }
        }
    }

    private enum DeviceType
    {
        Cpu = 1,
        Cuda = 2,
        CudaHost = 3,
        CudaManaged = 13,
    }

    /// <summary>DLTensor.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Tensor
    {
        public nint Data;
        public DeviceType DeviceType;
        public int DeviceId;
        public int Rank;
        public byte TypeCode;
        public byte TypeBits;
        public ushort TypeLanes;
        public long* Shape;
        public long* Strides;
        public ulong ByteOffset;
    }

    /// <summary>DLManagedTensor: before DLPack 1.0.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Managed
    {
        public Tensor Tensor;
        public nint Context;
        public delegate* unmanaged[Cdecl]<Managed*, void> Deleter;
    }

    /// <summary>DLManagedTensorVersioned.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct ManagedVersioned
    {
        public uint Major;
        public uint Minor;
        public nint Context;
        public delegate* unmanaged[Cdecl]<ManagedVersioned*, void> Deleter;
        public ulong Flags;
        public Tensor Tensor;
    }
}
