namespace FlashInfer.Tests.Cpu;

/// <summary>Single elements in native memory.</summary>
internal static unsafe class Elements
{
    /// <summary>Rounds a value into memory and returns what it became.</summary>
    public static float Write(DType dtype, nint address, long index, float value)
    {
        if (dtype == DType.Float16)
        {
            ((Half*)address)[index] = (Half)value;
        }
        else
        {
            ((BFloat16*)address)[index] = (BFloat16)value;
        }

        return Read(dtype, address, index);
    }

    public static float Read(DType dtype, nint address, long index) =>
        dtype == DType.Float16 ? (float)((Half*)address)[index] : ((BFloat16*)address)[index];
}
