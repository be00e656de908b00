namespace FlashInfer;

/// <summary>Between <see cref="DType"/> and the .NET types of elements.</summary>
internal static class DTypes
{
    /// <summary>The element type of a .NET type.</summary>
    /// <exception cref="ArgumentException">The type is not an element type; the message lists those that are.</exception>
    public static DType Of<T>()
        where T : unmanaged
    {
        if (typeof(T) == typeof(Half))
        {
            return DType.Float16;
        }

        if (typeof(T) == typeof(BFloat16))
        {
            return DType.BFloat16;
        }

        if (typeof(T) == typeof(float))
        {
            return DType.Float32;
        }

        if (typeof(T) == typeof(int))
        {
            return DType.Int32;
        }

        if (typeof(T) == typeof(Float8E4M3))
        {
            return DType.Float8E4M3;
        }

        if (typeof(T) == typeof(Float8E5M2))
        {
            return DType.Float8E5M2;
        }

        throw new ArgumentException(
            $"{typeof(T)} is not an element type of tensors; supported: System.Half (Float16), FlashInfer.BFloat16, float (Float32), int (Int32), FlashInfer.Float8E4M3, FlashInfer.Float8E5M2.",
            nameof(T)
        );
    }

    /// <summary>Bytes of one element.</summary>
    public static int Size(this DType dtype) =>
        dtype switch
        {
            DType.Float16 or DType.BFloat16 => 2,
            DType.Float32 or DType.Int32 => 4,
            DType.Float8E4M3 or DType.Float8E5M2 => 1,
            _ => throw new ArgumentOutOfRangeException(
                nameof(dtype),
                dtype,
                $"dtype is {(int)dtype}; expected {nameof(DType.Float16)}, {nameof(DType.BFloat16)}, {nameof(DType.Float32)}, {nameof(DType.Int32)}, {nameof(DType.Float8E4M3)} or {nameof(DType.Float8E5M2)}."
            ),
        };
}
