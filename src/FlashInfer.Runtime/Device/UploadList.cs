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
    /// <param name="count">Items.</param>
    /// <param name="stream">The stream.</param>
    /// <param name="header">The header, but for its count.</param>
    public void Commit(int count, CudaStream? stream, ListHeader header = default)
    {
        header.Count = count;
        MemoryMarshal.Write(_buffer.Begin(), header);
        _buffer.Commit(Bytes(count), stream);
    }

    public void Dispose() => _buffer.Dispose();

    private static int Bytes(int items) => checked(Unsafe.SizeOf<ListHeader>() + (items * Unsafe.SizeOf<T>()));
}
