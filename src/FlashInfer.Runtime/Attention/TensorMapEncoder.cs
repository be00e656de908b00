using FlashInfer.Cuda;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Attention;

/// <summary>How much the L2 cache fetches at once when a box is copied; values are the driver's.</summary>
internal enum L2Promotion
{
    Bytes64 = 1,
    Bytes128 = 2,
    Bytes256 = 3,
}

/// <summary>Makes the maps by which the copy engine knows a tensor.</summary>
internal static unsafe class TensorMapEncoder
{
    private const int MaxRank = 5;
    private const int UInt8 = 0;
    private const int Float16 = 6;
    private const int BFloat16 = 9;

    /// <summary>Makes a map whose boxes are swizzled over the width of their innermost dimension if that is 128, 64 or 32 bytes.</summary>
    /// <param name="context">The device's context.</param>
    /// <param name="dtype">The element type.</param>
    /// <param name="address">The first element, at a multiple of 16 bytes.</param>
    /// <param name="dimensions">Extents, the innermost first.</param>
    /// <param name="strides">Elements between neighbours along every dimension but the innermost, whose elements are neighbours.</param>
    /// <param name="box">Extents of a box.</param>
    /// <param name="promotion">How much the L2 cache fetches at once.</param>
    public static TensorMap Encode(
        CudaContext context,
        DType dtype,
        nint address,
        ReadOnlySpan<long> dimensions,
        ReadOnlySpan<long> strides,
        ReadOnlySpan<int> box,
        L2Promotion promotion = L2Promotion.Bytes128
    )
    {
        int rank = dimensions.Length;
        ulong* extents = stackalloc ulong[MaxRank];
        ulong* steps = stackalloc ulong[MaxRank];
        uint* boxExtents = stackalloc uint[MaxRank];
        uint* elementSteps = stackalloc uint[MaxRank];
        for (int i = 0; i < rank; i++)
        {
            extents[i] = (ulong)dimensions[i];
            boxExtents[i] = (uint)box[i];
            elementSteps[i] = 1;
            if (i > 0)
            {
                steps[i - 1] = (ulong)(strides[i - 1] * dtype.Size());
            }
        }

        int type = dtype switch
        {
            DType.Float16 => Float16,
            DType.BFloat16 => BFloat16,
            _ => UInt8,
        };
        int swizzle = (box[0] * dtype.Size()) switch
        {
            128 => 3,
            64 => 2,
            32 => 1,
            _ => 0,
        };

        // The driver wants the map itself at a multiple of 64 bytes; the kernel's argument is, the stack need not be.
        byte* memory = stackalloc byte[sizeof(TensorMap) + 63];
        TensorMap* map = (TensorMap*)(((nint)memory + 63) & ~63);
        context.MakeCurrent();
        Check(
            cuTensorMapEncodeTiled(
                map,
                type,
                (uint)rank,
                (void*)address,
                extents,
                steps,
                boxExtents,
                elementSteps,
                0,
                swizzle,
                (int)promotion,
                0
            ),
            nameof(cuTensorMapEncodeTiled),
            context
        );
        return *map;
    }
}
