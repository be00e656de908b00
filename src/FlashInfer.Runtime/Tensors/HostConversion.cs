using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>Copies between host floats and device elements of another type, in pieces: a large tensor needs no second copy of itself.</summary>
internal static class HostConversion
{
    private const int PieceElements = 1 << 20;

    public static void CopyIn<T>(
        TensorView destination,
        ReadOnlySpan<float> source,
        Action<ReadOnlySpan<float>, Span<T>> convert,
        CudaStream? stream
    )
        where T : unmanaged
    {
        nint address = destination.Address;
        Backend backend = destination.Device.Backend;
        T[] buffer = ArrayPool<T>.Shared.Rent(Math.Min(source.Length, PieceElements));
        try
        {
            while (!source.IsEmpty)
            {
                Span<T> piece = buffer.AsSpan(0, Math.Min(source.Length, PieceElements));
                convert(source[..piece.Length], piece);
                backend.CopyIn(address, MemoryMarshal.AsBytes(piece), stream);
                source = source[piece.Length..];
                address += piece.Length * Unsafe.SizeOf<T>();
            }
        }
        finally
        {
            ArrayPool<T>.Shared.Return(buffer);
        }
    }

    public static void CopyOut<T>(
        TensorView source,
        Span<float> destination,
        Action<ReadOnlySpan<T>, Span<float>> convert,
        CudaStream? stream
    )
        where T : unmanaged
    {
        nint address = source.Address;
        Backend backend = source.Device.Backend;
        T[] buffer = ArrayPool<T>.Shared.Rent(Math.Min(destination.Length, PieceElements));
        try
        {
            while (!destination.IsEmpty)
            {
                Span<T> piece = buffer.AsSpan(0, Math.Min(destination.Length, PieceElements));
                backend.CopyOut(MemoryMarshal.AsBytes(piece), address, stream);
                convert(piece, destination[..piece.Length]);
                destination = destination[piece.Length..];
                address += piece.Length * Unsafe.SizeOf<T>();
            }
        }
        finally
        {
            ArrayPool<T>.Shared.Return(buffer);
        }
    }
}
