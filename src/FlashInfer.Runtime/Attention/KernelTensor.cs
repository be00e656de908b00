namespace FlashInfer.Attention;

/// <summary>What every tensor must meet before a kernel sees its address.</summary>
internal static class KernelTensor
{
    private const int Alignment = 16;

    /// <summary>
    /// Throws unless query and output are [rows, heads, headDim] and [rows, heads, valueDim], and an LSE, where one is wanted, is float [rows,
    /// heads], all of the device; messages name its owner.
    /// </summary>
    public static void CheckStep(
        in TensorView query,
        in TensorView output,
        in TensorView lse,
        int rows,
        AttentionSpec spec,
        Device device,
        string owner
    )
    {
        Check(query, nameof(query), device, owner, spec.Dtype, rows, spec.Heads, spec.HeadDim);
        Check(output, nameof(output), device, owner, spec.Dtype, rows, spec.Heads, spec.ValueDim);
        CheckWritten(output, nameof(output));
        CheckLse(lse, device, owner, rows, spec.Heads);
    }

    /// <summary>Throws unless a tensor is [rows, heads, headDim] of the device, with rows that 16-byte accesses can reach.</summary>
    public static void Check(in TensorView tensor, string name, Device device, string owner, DType dtype, int rows, int heads, int headDim)
    {
        tensor.Expect(name, dtype, rows, heads, headDim);
        CheckDevice(tensor, name, device, owner);
        CheckAligned(tensor, name);
    }

    /// <summary>Throws unless 16-byte accesses can reach everything along the last dimension, and everything else begins at such a place.</summary>
    public static void CheckAligned(in TensorView tensor, string name)
    {
        int last = tensor.Shape.Rank - 1;
        bool isAligned = tensor.Stride(last) == 1 && tensor.Address % Alignment == 0;
        for (int i = 0; i < last; i++)
        {
            isAligned &= tensor.Stride(i) * tensor.Dtype.Size() % Alignment == 0;
        }

        if (!isAligned)
        {
            throw new ArgumentException(
                $"{name} has address 0x{tensor.Address:x} and strides [{Strides(tensor)}]; kernels need the head dimension contiguous, and rows and heads aligned to {Alignment} bytes.",
                name
            );
        }
    }

    private static void CheckLse(in TensorView lse, Device device, string owner, int rows, int heads)
    {
        if (lse.IsEmpty)
        {
            return;
        }

        lse.Expect(nameof(lse), DType.Float32, rows, heads);
        CheckDevice(lse, nameof(lse), device, owner);
        if (!lse.IsContiguous)
        {
            throw new ArgumentException($"lse has gaps between its elements; expected a contiguous {lse.Shape}.", nameof(lse));
        }
    }

    /// <summary>
    /// Throws when two rows or heads of a tensor [rows, heads] or [rows, heads, headDim] that a kernel writes share memory: which value
    /// stayed would be chance.
    /// </summary>
    public static void CheckWritten(in TensorView tensor, string name)
    {
        (long Stride, int Count) inner = (tensor.Stride(1), tensor.Shape[1]);
        (long Stride, int Count) outer = (tensor.Stride(0), tensor.Shape[0]);
        if (inner.Stride > outer.Stride)
        {
            (inner, outer) = (outer, inner);
        }

        long extent = tensor.Shape.Rank == 3 ? tensor.Shape[2] : 1;
        bool apart = inner.Count <= 1 || inner.Stride >= extent;
        extent += (Math.Max(1, inner.Count) - 1) * inner.Stride;
        if (!apart || (outer.Count > 1 && outer.Stride < extent))
        {
            throw new ArgumentException(
                $"{name} is {tensor.Shape} with strides [{Strides(tensor)}], so that rows or heads overlap; expected memory of its own for each.",
                name
            );
        }
    }

    private static string Strides(in TensorView tensor)
    {
        string[] strides = new string[tensor.Shape.Rank];
        for (int i = 0; i < strides.Length; i++)
        {
            strides[i] = $"{tensor.Stride(i)}";
        }

        return string.Join(", ", strides);
    }

    /// <summary>Throws unless a tensor lies on the owner's device.</summary>
    public static void CheckDevice(in TensorView tensor, string name, Device device, string owner)
    {
        if (tensor.Device != device)
        {
            string alike = tensor.Device.ToString() == device.ToString() ? " (opened twice)" : "";
            throw new ArgumentException(
                $"{name} lies on {tensor.Device}, the {owner} on {device}{alike}; allocate it on the {owner}'s device.",
                name
            );
        }
    }
}
