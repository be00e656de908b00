namespace FlashInfer;

/// <summary>The element type of a tensor.</summary>
#if FLASHINFER_RUNTIME
public
#else
internal
#endif
enum DType
{
    /// <summary>IEEE 754 half precision (<c>System.Half</c>), 2 bytes.</summary>
    Float16,

    /// <summary>bfloat16: the upper half of an IEEE 754 single, 2 bytes.</summary>
    BFloat16,

    /// <summary>IEEE 754 single precision, 4 bytes. The type of LSE; attention itself does not take it.</summary>
    Float32,

    /// <summary>32-bit signed integer, 4 bytes. The type of page tables; attention itself does not take it.</summary>
    Int32,

    /// <summary>8-bit float of 4 exponent and 3 mantissa bits, without infinity, up to 448 (<c>Float8E4M3</c>). For keys and values.</summary>
    Float8E4M3,

    /// <summary>8-bit float of 5 exponent and 2 mantissa bits, up to 57,344 (<c>Float8E5M2</c>). For keys and values.</summary>
    Float8E5M2,
}
