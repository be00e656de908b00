namespace FlashInfer.Tests.Cpu;

/// <summary>Single elements in native memory.</summary>
internal static unsafe class Elements
{
    /// <summary>Rounds a value into memory and returns what it became.</summary>
    public static float Write(DType dtype, nint address, long index, float value)
    {
        switch (dtype)
        {
            case DType.Float16:
                ((Half*)address)[index] = (Half)value;
                break;
            case DType.BFloat16:
                ((BFloat16*)address)[index] = (BFloat16)value;
                break;
            case DType.Float8E4M3:
                ((Float8E4M3*)address)[index] = (Float8E4M3)value;
                break;
            default:
                ((Float8E5M2*)address)[index] = (Float8E5M2)value;
                break;
        }

        return Read(dtype, address, index);
    }

    public static float Read(DType dtype, nint address, long index) =>
        dtype switch
        {
            DType.Float16 => (float)((Half*)address)[index],
            DType.BFloat16 => ((BFloat16*)address)[index],
            DType.Float8E4M3 => ((Float8E4M3*)address)[index],
            _ => ((Float8E5M2*)address)[index],
        };
}
