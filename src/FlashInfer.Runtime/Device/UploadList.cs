using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>An <see cref="UploadBuffer"/> as kernels read it: a <see cref="ListHeader"/> and items.</summary>
internal sealed class UploadList<T>(Backend backend, int capacity) : IDisposable
    where T : unmanaged
{
    private readonly UploadBuffer _buffer = backend.CreateUploadBuffer(Bytes(capacity));

    public nint Address => _buffer.Address;

    /// <summary>Items that the list can hold.</summary>
    public int Capacity => capacity;

    /// <summary>Room for the items, contents undefined.</summary>
    public Span<T> Begin() => MemoryMarshal.Cast<byte, T>(_buffer.Begin()[Unsafe.SizeOf<ListHeader>()..]);

    /// <summary>Sends the first items of the last <see cref="Begin"/>'s span, in stream order.</summary>
    public void Commit(int count, CudaStream? stream, float scaleLog2 = 0, int cluster = 0)
    {
        MemoryMarshal.Write(
            _buffer.Begin(),
            new ListHeader
            {
                Count = count,
                ScaleLog2 = scaleLog2,
                Cluster = cluster,
            }
        );
        _buffer.Commit(Bytes(count), stream);
    }

    public void Dispose() => _buffer.Dispose();

    private static int Bytes(int items) => checked(Unsafe.SizeOf<ListHeader>() + (items * Unsafe.SizeOf<T>()));
}
