using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>
/// Owns the memory of one tensor on a device; its element type is known only at run time. Dispose it to give the memory back.
/// <see cref="DeviceTensor{T}"/> is the same with an element type that the compiler knows.
/// </summary>
public sealed class DeviceTensor : IDisposable
{
    private readonly DeviceMemory _memory;

    internal DeviceTensor(Device device, DType dtype, TensorShape shape)
    {
        _memory = new DeviceMemory(device, checked(shape.Elements * dtype.Size()));
        View = new TensorView(device, _memory, _memory.Address, dtype, shape, TensorStrides.Contiguous(shape));
    }

    /// <summary>A tensor in memory that is there.</summary>
    internal DeviceTensor(DeviceMemory memory, TensorView view)
    {
        _memory = memory;
        View = view;
    }

    /// <summary>The whole tensor.</summary>
    public TensorView View { get; }

    /// <summary>The device that the memory belongs to.</summary>
    public Device Device => View.Device;

    /// <summary>The element type.</summary>
    public DType Dtype => View.Dtype;

    /// <summary>The dimensions.</summary>
    public TensorShape Shape => View.Shape;

    /// <summary>The address of the first element: a device pointer on CUDA, a native pointer on the CPU device.</summary>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public nint Address => View.Address;

    /// <summary>The whole tensor.</summary>
    /// <param name="tensor">The tensor.</param>
    public static implicit operator TensorView(DeviceTensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return tensor.View;
    }

    /// <inheritdoc cref="TensorView.CopyFrom(ReadOnlySpan{float}, CudaStream?)"/>
    public void CopyFrom(ReadOnlySpan<float> source, CudaStream? stream = null) => View.CopyFrom(source, stream);

    /// <inheritdoc cref="TensorView.CopyTo(Span{float}, CudaStream?)"/>
    public void CopyTo(Span<float> destination, CudaStream? stream = null) => View.CopyTo(destination, stream);

    /// <inheritdoc cref="TensorView.CopyTo(TensorView, CudaStream?)"/>
    public void CopyTo(TensorView destination, CudaStream? stream = null) => View.CopyTo(destination, stream);

    /// <summary>Frees the memory once the work queued on the device's own stream is done; views of it throw from now on.</summary>
    public void Dispose() => _memory.Dispose();

    /// <summary>Shape, element type and device.</summary>
    public override string ToString() => View.ToString();
}

/// <summary>Owns the memory of one tensor on a device. Dispose it to give the memory back.</summary>
/// <typeparam name="T"><see cref="Half"/>, <see cref="BFloat16"/>, <see cref="float"/>, <see cref="int"/>, <see cref="Float8E4M3"/> or <see cref="Float8E5M2"/>.</typeparam>
public sealed class DeviceTensor<T> : IDisposable
    where T : unmanaged
{
    // Not a base class: its copies from and to floats would be here too, and round where the compiler should object.
    private readonly DeviceTensor _tensor;

    internal DeviceTensor(Device device, TensorShape shape)
    {
        _tensor = new DeviceTensor(device, DTypes.Of<T>(), shape);
        View = _tensor.View.As<T>();
    }

    /// <summary>The whole tensor.</summary>
    public TensorView<T> View { get; }

    /// <summary>The device that the memory belongs to.</summary>
    public Device Device => View.Device;

    /// <summary>The dimensions.</summary>
    public TensorShape Shape => View.Shape;

    /// <summary>The address of the first element: a device pointer on CUDA, a native pointer on the CPU device.</summary>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public nint Address => View.Address;

    /// <summary>The whole tensor.</summary>
    /// <param name="tensor">The tensor.</param>
    public static implicit operator TensorView<T>(DeviceTensor<T> tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return tensor.View;
    }

    /// <summary>The whole tensor without its element type.</summary>
    /// <param name="tensor">The tensor.</param>
    public static implicit operator TensorView(DeviceTensor<T> tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return tensor.View;
    }

    /// <inheritdoc cref="TensorView{T}.CopyFrom(ReadOnlySpan{T}, CudaStream?)"/>
    public void CopyFrom(ReadOnlySpan<T> source, CudaStream? stream = null) => View.CopyFrom(source, stream);

    /// <inheritdoc cref="TensorView{T}.CopyTo(Span{T}, CudaStream?)"/>
    public void CopyTo(Span<T> destination, CudaStream? stream = null) => View.CopyTo(destination, stream);

    /// <inheritdoc cref="TensorView.CopyTo(TensorView, CudaStream?)"/>
    public void CopyTo(TensorView<T> destination, CudaStream? stream = null) => View.CopyTo(destination, stream);

    /// <inheritdoc cref="TensorView{T}.ToArray(CudaStream?)"/>
    public T[] ToArray(CudaStream? stream = null) => View.ToArray(stream);

    /// <summary>Frees the memory once the work queued on the device's own stream is done; views of it throw from now on.</summary>
    public void Dispose() => _tensor.Dispose();

    /// <summary>Shape, element type and device.</summary>
    public override string ToString() => View.ToString();
}
