using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Attention;

/// <summary>A whole cache as the copy engine sees it: keys and values of every layer are pages behind one another.</summary>
internal static unsafe class KvTensorMap
{
    private const int Rank = 5;
    private const int TileTokens = 16;
    private const int UInt8 = 0;
    private const int Float16 = 6;
    private const int BFloat16 = 9;
    private const int Promote64Bytes = 1;
    private const int Promote128Bytes = 2;
    private const int Promote256Bytes = 3;

    /// <summary>
    /// A row of a head is cut into columns of 128 bytes, or 64 or 32 where that does not divide it. Dimensions {elements of a column,
    /// kvHeads, pageSize, pages of all layers, columns}, box {elements of a column, 1, 16, 1, columns}: one box is one tile.
    /// </summary>
    public static TensorMap Encode(CudaContext context, PagedKvCache cache)
    {
        AttentionSpec spec = cache.Spec;
        int bytes = spec.KvDtype.Size();
        int rowBytes = spec.HeadDim * bytes;
        (int columnBytes, int swizzle) =
            rowBytes % 128 == 0 ? (128, 3)
            : rowBytes % 64 == 0 ? (64, 2)
            : (32, 1);
        uint inner = (uint)(columnBytes / bytes);
        uint columns = (uint)(rowBytes / columnBytes);
        ulong* dimensions = stackalloc ulong[Rank]
        {
            inner,
            (ulong)spec.KvHeads,
            (ulong)spec.PageSize,
            (ulong)(2L * cache.Layers * cache.TotalPages),
            columns,
        };
        ulong* strides = stackalloc ulong[Rank - 1]
        {
            (ulong)(cache.HeadElements * bytes),
            (ulong)(cache.TokenElements * bytes),
            (ulong)(cache.PageElements * bytes),
            (ulong)columnBytes,
        };
        uint* box = stackalloc uint[Rank] { inner, 1, TileTokens, 1, columns };
        int dataType = spec.KvDtype switch
        {
            DType.Float16 => Float16,
            DType.BFloat16 => BFloat16,
            _ => UInt8,
        };
        uint* steps = stackalloc uint[Rank] { 1, 1, 1, 1, 1 };

        // The driver wants the map itself at a multiple of 64 bytes; the kernel's argument is, the stack need not be.
        void* aligned = NativeMemory.AlignedAlloc((nuint)sizeof(TensorMap), 64);
        try
        {
            context.MakeCurrent();
            Check(
                cuTensorMapEncodeTiled(
                    aligned,
                    dataType,
                    Rank,
                    (void*)cache.KeyAddress(0),
                    dimensions,
                    strides,
                    box,
                    steps,
                    0,
                    swizzle,
                    Promotion(spec, rowBytes),
                    0
                ),
                nameof(cuTensorMapEncodeTiled),
                context
            );
            return *(TensorMap*)aligned;
        }
        finally
        {
            NativeMemory.AlignedFree(aligned);
        }
    }

    /// <summary>
    /// How much the L2 cache fetches at once. Where the rows of the heads alternate (NHD), a row of 128 bytes takes the next head's along, to
    /// be read by another block soon; rows that do not start at multiples of 128 bytes would take along what nobody wants.
    /// </summary>
    private static int Promotion(AttentionSpec spec, int rowBytes) =>
        spec.KvLayout == KvLayout.Hnd ? Promote128Bytes
        : rowBytes == 128 ? Promote256Bytes
        : rowBytes > 128 && rowBytes % 128 != 0 ? Promote64Bytes
        : Promote128Bytes;
}
