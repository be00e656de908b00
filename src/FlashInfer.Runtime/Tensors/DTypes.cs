namespace FlashInfer;

internal static class DTypes
{
    public static DType Of<T>()
        where T : unmanaged =>
        default(T) switch
        {
            Half => DType.Float16,
            BFloat16 => DType.BFloat16,
            float => DType.Float32,
            int => DType.Int32,
            _ => throw new ArgumentException($"{typeof(T)} is no element type."),
        };

    public static int Size(this DType dtype) => dtype is DType.Float16 or DType.BFloat16 ? 2 : 4;
}
