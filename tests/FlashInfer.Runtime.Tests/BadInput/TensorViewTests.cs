namespace FlashInfer.Tests.BadInput;

/// <summary>Views and shapes that make no sense.</summary>
public sealed class TensorViewTests : IDisposable
{
    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
    private readonly DeviceTensor<float> _tensor;

    public TensorViewTests() => _tensor = _device.Allocate<float>(4, 3);

    public void Dispose() => _device.Dispose();

    [Fact]
    public void A_default_view_is_no_tensor()
    {
        TensorView<float> view = default;
        Assert.Equal("no tensor", view.ToString());
        Assert.True(default(TensorView).IsEmpty);
        Refused.Operation("This view is no tensor (default); there is nothing to copy.", () => view.CopyFrom([1]));
        Refused.Operation("This view is no tensor (default); there is nothing to copy.", () => view.CopyTo([]));
        Refused.Operation("This view is no tensor (default); it has no rows.", () => view.Rows(0, 0));
        Refused.Argument("input", "input is no tensor; expected Float32[any, 3].", () => view.Expect("input", -1, 3));
    }

    [Fact]
    public void A_view_has_one_element_type()
    {
        TensorView view = _tensor.View;
        Refused.Argument("view", "The view holds Float32; expected Float16.", () => view.As<Half>());
        Refused.Argument("T", "System.Double is not an element type of tensors; supported: System.Half (Float16)", () => view.As<double>());
        Refused.Argument("T", "System.Int64 is not an element type", () => _device.Allocate<long>(3));
    }

    [Theory]
    [InlineData(11)]
    [InlineData(13)]
    [InlineData(0)]
    public void Copies_have_the_tensors_length(int length)
    {
        string message = $"The host span has {length} elements; Float32[4, 3] on {_device.Name} has 12.";
        Assert.Equal(message, Assert.Throws<ArgumentException>(() => _tensor.View.CopyFrom(new float[length])).Message);
        Assert.Equal(message, Assert.Throws<ArgumentException>(() => _tensor.View.CopyTo(new float[length])).Message);
    }

    [Fact]
    public void Only_contiguous_tensors_are_copied_at_once()
    {
        TensorView<float> view = _device.View<float>(_tensor.View.Address, [4, 2], [3, 1]);
        Refused.Operation("has gaps between its elements; only a contiguous tensor can be copied at once.", () => view.ToArray());
    }

    [Theory]
    [InlineData(-1, 1, "start")]
    [InlineData(0, -1, "count")]
    [InlineData(5, 0, "count")]
    [InlineData(3, 2, "count")]
    [InlineData(4, int.MaxValue, "count")]
    [InlineData(int.MaxValue, int.MaxValue, "count")]
    public void Rows_lie_inside_the_tensor(int start, int count, string parameter)
    {
        string message = start < 0 || count < 0 ? "'-1'" : $"Rows {start} to {(long)start + count} were asked for; Float32[4, 3] on";
        Refused.Range(parameter, message, () => _tensor.View.Rows(start, count));
    }

    [Fact]
    public void Rows_are_the_tensors_own_memory()
    {
        _tensor.View.CopyFrom([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);

        Assert.Equal([3f, 4, 5, 6, 7, 8], _tensor.View.Rows(1, 2).ToArray());
        Assert.Empty(_tensor.View.Rows(4, 0).ToArray());
    }

    [Fact]
    public void A_view_of_somebody_elses_memory_has_an_address_and_one_stride_a_dimension()
    {
        Refused.Argument("address", "The address is null but [2, 3] has elements", () => _device.View<float>(0, [2, 3]));
        Refused.Argument(
            "address",
            "The address is 0x1002; elements of Float32 lie at multiples of 4 bytes",
            () => _device.View<float>(0x1002, [2, 3])
        );
        Refused.Argument(
            "strides",
            "1 strides were given for the 2 dimensions of [2, 3]; expected one for each",
            () => _device.View<float>(0x1000, [2, 3], [3])
        );
        Refused.Range("strides", "'-3'", () => _device.View<float>(0x1000, [2, 3], [-3, 1]));
        Assert.Equal(0, _device.View<float>(0, [0, 3]).Shape.Elements);
    }

    [Fact]
    public void A_shape_has_one_to_five_dimensions_none_negative()
    {
        Refused.Argument("dimensions", "A shape has 1 to 5 dimensions, not 0.", () => _device.Allocate<float>());
        Refused.Argument("dimensions", "A shape has 1 to 5 dimensions, not 6.", () => _device.Allocate<float>(1, 1, 1, 1, 1, 1));
        Refused.Range("dimensions", "'-2'", () => _device.Allocate<float>(4, -2));
        Refused.Range("dimension", "'2'", () => _ = _tensor.Shape[2]);
        Refused.Range("dimension", "'-1'", () => _ = _tensor.View.Stride(-1));
    }

    [Theory]
    [InlineData(int.MaxValue, int.MaxValue, 1)]
    [InlineData(int.MaxValue, int.MaxValue, int.MaxValue)]
    [InlineData(int.MaxValue, int.MaxValue, 0)]
    public void A_shape_whose_elements_cannot_be_counted_is_refused(int a, int b, int c) =>
        Refused.Range("dimensions", "The shape has more than 1152921504606846975 elements", () => _ = new TensorShape(a, b, c, 2, 2));

    [Fact]
    public void Expect_names_the_tensor_and_both_shapes() =>
        Refused.Argument("logits", "logits is Float32[4, 3]; expected Float32[any, 4].", () => _tensor.View.Expect("logits", -1, 4));
}
