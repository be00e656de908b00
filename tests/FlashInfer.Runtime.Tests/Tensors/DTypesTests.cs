namespace FlashInfer.Tests.Tensors;

public class DTypesTests
{
    [Fact]
    public unsafe void Element_types_have_a_dtype_of_their_size()
    {
        Assert.Equal(DType.Float16, DTypes.Of<Half>());
        Assert.Equal(DType.BFloat16, DTypes.Of<BFloat16>());
        Assert.Equal(DType.Float32, DTypes.Of<float>());
        Assert.Equal(DType.Int32, DTypes.Of<int>());
        Assert.Equal(DType.Float8E4M3, DTypes.Of<Float8E4M3>());
        Assert.Equal(DType.Float8E5M2, DTypes.Of<Float8E5M2>());
        Assert.Equal(sizeof(Half), DType.Float16.Size());
        Assert.Equal(sizeof(BFloat16), DType.BFloat16.Size());
        Assert.Equal(sizeof(float), DType.Float32.Size());
        Assert.Equal(sizeof(int), DType.Int32.Size());
        Assert.Equal(sizeof(Float8E4M3), DType.Float8E4M3.Size());
        Assert.Equal(sizeof(Float8E5M2), DType.Float8E5M2.Size());
    }

    [Fact]
    public void Other_types_are_refused_with_the_list_of_those_supported()
    {
        ArgumentException exception = Assert.Throws<ArgumentException>(() => DTypes.Of<double>());
        Assert.Contains("System.Double", exception.Message, StringComparison.Ordinal);
        Assert.Contains("BFloat16", exception.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => ((DType)99).Size());
    }
}
