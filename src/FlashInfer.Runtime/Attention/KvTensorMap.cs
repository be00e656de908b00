using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Attention;

/// <summary>A whole cache as the copy engine sees it: keys and values of every layer are pages behind one another.</summary>
internal static unsafe class KvTensorMap
{
    private const int Rank = 5;
    private const int TileTokens = 16;
    private const int ColumnElements = 64;
    private const int Float16 = 6;
    private const int BFloat16 = 9;
    private const int Swizzle128Bytes = 3;
    private const int Promote128Bytes = 2;

    /// <summary>Dimensions {64, kvHeads, pageSize, pages of all layers, headDim / 64}, box {64, 1, 16, 1, headDim / 64}: one box is one tile.</summary>
    public static TensorMap Encode(CudaContext context, PagedKvCache cache)
    {
        AttentionSpec spec = cache.Spec;
        int bytes = spec.KvDtype.Size();
        uint columns = (uint)(spec.HeadDim / ColumnElements);
        ulong* dimensions = stackalloc ulong[Rank]
        {
            ColumnElements,
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
            (ulong)(ColumnElements * bytes),
        };
        uint* box = stackalloc uint[Rank] { ColumnElements, 1, TileTokens, 1, columns };
        uint* steps = stackalloc uint[Rank] { 1, 1, 1, 1, 1 };

        // The driver wants the map itself at a multiple of 64 bytes; the kernel's argument is, the stack need not be.
        void* aligned = NativeMemory.AlignedAlloc((nuint)sizeof(TensorMap), 64);
        try
        {
            context.MakeCurrent();
            Check(
                cuTensorMapEncodeTiled(
                    aligned,
                    spec.KvDtype == DType.Float16 ? Float16 : BFloat16,
                    Rank,
                    (void*)cache.KeyAddress(0),
                    dimensions,
                    strides,
                    box,
                    steps,
                    0,
                    Swizzle128Bytes,
                    Promote128Bytes,
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
}
