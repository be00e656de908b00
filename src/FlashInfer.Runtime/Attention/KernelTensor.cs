namespace FlashInfer.Attention;

/// <summary>What every tensor must meet before a kernel sees its address.</summary>
internal static class KernelTensor
{
    private const int Alignment = 16;

    /// <summary>Throws unless a tensor is [rows, heads, headDim] of the cache's device, with rows that 16-byte accesses can reach.</summary>
    public static void Check(in TensorView tensor, string name, PagedKvCache cache, DType dtype, int rows, int heads)
    {
        tensor.Expect(name, dtype, rows, heads, cache.Spec.HeadDim);
        if (tensor.Device != cache.Device)
        {
            throw new ArgumentException(
                $"{name} lies on {tensor.Device}, the cache on {cache.Device}; allocate it on the cache's device.",
                name
            );
        }

        long elements = Alignment / dtype.Size();
        if (
            tensor.Stride(2) != 1
            || tensor.Stride(1) % elements != 0
            || tensor.Stride(0) % elements != 0
            || tensor.Address % Alignment != 0
        )
        {
            throw new ArgumentException(
                $"{name} has address 0x{tensor.Address:x} and strides [{tensor.Stride(0)}, {tensor.Stride(1)}, {tensor.Stride(2)}]; kernels need the head dimension contiguous, and rows and heads aligned to {Alignment} bytes.",
                name
            );
        }
    }

    /// <summary>Throws when two rows or heads of a tensor that a kernel writes share memory: which value stayed would be chance.</summary>
    public static void CheckWritten(in TensorView tensor, string name)
    {
        (long Stride, int Count) inner = (tensor.Stride(1), tensor.Shape[1]);
        (long Stride, int Count) outer = (tensor.Stride(0), tensor.Shape[0]);
        if (inner.Stride > outer.Stride)
        {
            (inner, outer) = (outer, inner);
        }

        long extent = tensor.Shape[2];
        bool apart = inner.Count <= 1 || inner.Stride >= extent;
        extent += (Math.Max(1, inner.Count) - 1) * inner.Stride;
        if (!apart || (outer.Count > 1 && outer.Stride < extent))
        {
            throw new ArgumentException(
                $"{name} is {tensor.Shape} with strides [{tensor.Stride(0)}, {tensor.Stride(1)}, {tensor.Stride(2)}], so that rows or heads overlap; expected memory of its own for each.",
                name
            );
        }
    }
}
