using FlashInfer.Tests.BadInput;

namespace FlashInfer.Tests.Tensors;

public sealed class DeviceTensorTests : IDisposable
{
    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });

    public void Dispose() => _device.Dispose();

    [Fact]
    public void A_typed_tensor_is_copied_without_its_view()
    {
        using DeviceTensor<Half> tensor = _device.Allocate<Half>(2, 3);
        Half[] values = [(Half)1, (Half)2, (Half)3, (Half)4, (Half)5, (Half)6];
        tensor.CopyFrom(values);
        Half[] copy = new Half[6];
        tensor.CopyTo(copy);

        Assert.Equal(values, copy);
        Assert.Equal(values, tensor.ToArray());
        Assert.Equal(tensor.View.Address, tensor.Address);
        Assert.Same(_device, tensor.Device);
    }

    [Fact]
    public void Tensors_become_views_where_views_are_wanted()
    {
        using DeviceTensor<int> typed = _device.Allocate<int>(4);
        using DeviceTensor untyped = _device.Allocate(DType.Int32, 4);
        TensorView<int> view = typed;
        TensorView[] views = [typed, view, untyped];

        Assert.All(views, v => Assert.Equal((DType.Int32, new TensorShape(4)), (v.Dtype, v.Shape)));
        Assert.Equal([typed.Address, typed.Address, untyped.Address], views.Select(static v => v.Address));
        Assert.Throws<ArgumentNullException>(static () => (TensorView)(DeviceTensor<int>)null!);
        Assert.Throws<ArgumentNullException>(static () => (TensorView<int>)(DeviceTensor<int>)null!);
        Assert.Throws<ArgumentNullException>(static () => (TensorView)(DeviceTensor)null!);
    }

    [Fact]
    public void Memory_is_looked_at_with_an_element_type_known_at_run_time()
    {
        using DeviceTensor<Half> tensor = _device.Allocate<Half>(2, 3);
        tensor.CopyFrom([(Half)1, (Half)2, (Half)3, (Half)4, (Half)5, (Half)6]);

        TensorView view = _device.View(tensor.Address, DType.Float16, [3, 2]);
        float[] values = new float[6];
        view.CopyTo(values);

        Assert.Equal([1, 2, 3, 4, 5, 6], values);
        Assert.Equal((DType.Float16, new TensorShape(3, 2), tensor.Address), (view.Dtype, view.Shape, view.Address));
        Assert.Equal(1, _device.View(tensor.Address, DType.Float16, [3, 2], [1, 3]).Stride(0));
        Assert.Throws<ArgumentOutOfRangeException>("dtype", () => _device.View(tensor.Address, (DType)99, [3, 2]));
        Assert.Throws<ArgumentException>("address", () => _device.View(tensor.Address + 1, DType.Float16, [3, 2]));
    }

    [Fact]
    public void Rows_are_a_view_of_the_same_memory()
    {
        using DeviceTensor tensor = _device.Allocate(DType.BFloat16, 4, 2, 3);
        tensor.CopyFrom([.. Enumerable.Range(0, 24).Select(static i => (float)i)]);

        TensorView rows = tensor.View.Rows(1, 2);
        float[] values = new float[12];
        rows.CopyTo(values);

        Assert.Equal(new TensorShape(2, 2, 3), rows.Shape);
        Assert.Equal(Enumerable.Range(6, 12).Select(static i => (float)i), values);
        Assert.Equal(rows.Address, tensor.View.As<BFloat16>().Rows(1, 2).Address);
        Assert.Equal(0, tensor.View.Rows(4, 0).Shape[0]);
        Assert.Throws<InvalidOperationException>(static () => default(TensorView).Rows(0, 0));
        Assert.Throws<ArgumentOutOfRangeException>("start", () => tensor.View.Rows(-1, 1));
        Assert.Throws<ArgumentOutOfRangeException>("count", () => tensor.View.Rows(0, -1));
        ArgumentException e = Assert.Throws<ArgumentOutOfRangeException>("count", () => tensor.View.Rows(3, 2));
        Assert.Contains("Rows 3 to 5 were asked for; BFloat16[4, 2, 3]", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(DType.Float16)]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float32)]
    [InlineData(DType.Float8E4M3)]
    [InlineData(DType.Float8E5M2)]
    public void Floats_are_rounded_to_the_element_type_and_back_exactly(DType dtype)
    {
        // More than one piece, and lengths that no vector divides.
        const int Count = (1 << 20) + 77;
        Random random = new(5);
        float[] values = [.. Enumerable.Range(0, Count - 6).Select(_ => (random.NextSingle() - 0.5f) * 4)];
        values = [.. values, float.NaN, float.PositiveInfinity, 3.4e38f, -1e30f, 1e-30f, -0f];
        using DeviceTensor tensor = _device.Allocate(dtype, Count);

        tensor.CopyFrom(values);
        float[] copy = new float[Count];
        tensor.CopyTo(copy);

        Func<float, float> rounded = dtype switch
        {
            DType.Float16 => static value => (float)(Half)value,
            DType.BFloat16 => static value => (BFloat16)value,
            DType.Float8E4M3 => static value => (Float8E4M3)value,
            DType.Float8E5M2 => static value => (Float8E5M2)value,
            _ => static value => value,
        };
        Assert.Equal(values.Select(rounded), copy);
        if (dtype == DType.Float16)
        {
            Assert.Equal(copy, tensor.View.As<Half>().ToArray().Select(static value => (float)value));
        }
    }

    [Fact]
    public void Ties_go_to_even()
    {
        using DeviceTensor tensor = _device.Allocate(DType.Float16, 2);
        float[] copy = new float[2];

        // A half has 11 bits of mantissa: these lie in the middle between two.
        tensor.CopyFrom([2049, 2051]);
        tensor.CopyTo(copy);

        Assert.Equal([2048, 2052], copy);
    }

    [Fact]
    public void Integers_are_no_floats()
    {
        using DeviceTensor tensor = _device.Allocate(DType.Int32, 2);

        InvalidOperationException e = Assert.Throws<InvalidOperationException>(() => tensor.CopyFrom([1, 2]));

        Assert.Contains("Int32[2]", e.Message, StringComparison.Ordinal);
        Assert.Contains("As<int>()", e.Message, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => tensor.CopyTo(new float[2]));
    }

    [Fact]
    public void Bad_arguments_are_named()
    {
        using DeviceTensor tensor = _device.Allocate(DType.BFloat16, 2, 3);

        ArgumentException e = Assert.Throws<ArgumentException>(() => tensor.CopyFrom(new float[5]));
        Assert.Contains("5 elements", e.Message, StringComparison.Ordinal);
        Assert.Contains("BFloat16[2, 3]", e.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => tensor.CopyTo(new float[7]));
        Assert.Throws<InvalidOperationException>(() => default(TensorView).CopyFrom([1]));
        Assert.Throws<ArgumentOutOfRangeException>("dtype", () => _device.Allocate((DType)9, 1));
        Assert.Throws<ArgumentException>(() => _device.Allocate(DType.Float16));
    }

    [Fact]
    public void A_tensor_is_copied_into_another()
    {
        using DeviceTensor<int> source = _device.Allocate<int>(4, 3);
        using DeviceTensor<int> destination = _device.Allocate<int>(2, 3);
        source.CopyFrom([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        destination.CopyFrom([-1, -1, -1, -1, -1, -1]);

        source.View.Rows(2, 1).CopyTo(destination.View.Rows(1, 1));
        Assert.Equal([-1, -1, -1, 6, 7, 8], destination.ToArray());
        source.View.Rows(0, 2).CopyTo(destination);
        Assert.Equal([0, 1, 2, 3, 4, 5], destination.ToArray());

        // Without its element type; and within one tensor.
        using DeviceTensor untyped = _device.Allocate(DType.Int32, 2, 3);
        destination.View.ToTensorView().CopyTo(untyped);
        destination.CopyFrom([7, 7, 7, 7, 7, 7]);
        untyped.CopyTo(destination);
        Assert.Equal([0, 1, 2, 3, 4, 5], destination.ToArray());
        source.View.Rows(2, 2).CopyTo(source.View.Rows(0, 2));
        Assert.Equal([6, 7, 8, 9, 10, 11, 6, 7, 8, 9, 10, 11], source.ToArray());
    }

    [Fact]
    public void A_destination_that_does_not_fit_is_named()
    {
        using Device other = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using DeviceTensor elsewhere = other.Allocate(DType.Float16, 2, 3);
        using DeviceTensor floats = _device.Allocate(DType.Float32, 2, 3);
        using DeviceTensor tensor = _device.Allocate(DType.Float16, 4, 3);
        using DeviceTensor destination = _device.Allocate(DType.Float16, 2, 3);
        TensorView source = tensor.View.Rows(1, 2);
        TensorView gaps = _device.View(tensor.Address, DType.Float16, [2, 3], [6, 1]);

        Refused.Argument("destination", "is Float16[4, 3]; expected Float16[2, 3], as the source is", () => source.CopyTo(tensor));
        Refused.Argument("destination", "is Float32[2, 3]; expected Float16[2, 3]", () => source.CopyTo(floats));
        Refused.Argument("destination", "is no tensor; expected Float16[2, 3]", () => source.CopyTo(default(TensorView)));
        Refused.Argument("destination", "(opened twice); allocate it on the source's device", () => source.CopyTo(elsewhere));
        Refused.Argument("destination", "begins 6 bytes behind the source, of 12 bytes", () => source.CopyTo(tensor.View.Rows(2, 2)));
        Refused.Argument("destination", "begins 0 bytes behind", () => source.CopyTo(source));
        Refused.Operation("has gaps between its elements", () => gaps.CopyTo(destination));
        Refused.Operation("has gaps between its elements", () => source.CopyTo(gaps));
        Refused.Operation("is no tensor (default)", () => default(TensorView).CopyTo(destination));
    }

    [Fact]
    public void An_empty_tensor_is_copied()
    {
        using DeviceTensor tensor = _device.Allocate(DType.Float16, 0, 3);
        using DeviceTensor another = _device.Allocate(DType.Float16, 0, 3);
        tensor.CopyFrom([]);
        tensor.CopyTo([]);
        tensor.CopyTo(another);
        Assert.Equal("[0, 3]", tensor.Shape.ToString());
    }

    [Fact]
    public void After_disposal_views_throw()
    {
        DeviceTensor tensor = _device.Allocate(DType.Float16, 2);
        TensorView view = tensor;
        tensor.Dispose();
        tensor.Dispose();

        Assert.Throws<ObjectDisposedException>(() => tensor.Address);
        Assert.Throws<ObjectDisposedException>(() => view.CopyFrom([1, 2]));
        Assert.Throws<ObjectDisposedException>(() => view.CopyTo(new float[2]));
        using DeviceTensor another = _device.Allocate(DType.Float16, 2);
        Assert.Throws<ObjectDisposedException>(() => view.CopyTo(another));
        Assert.Throws<ObjectDisposedException>(() => another.CopyTo(view));
    }
}
