using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>
/// A window on device memory: address, element type, shape, strides and device. It owns nothing and can be stored. A view of memory that
/// this library allocated notices when that memory has been freed.
/// </summary>
public readonly struct TensorView
{
    private readonly DeviceMemory? _memory;
    private readonly nint _address;
    private readonly TensorStrides _strides;

    internal TensorView(Device device, DeviceMemory? memory, nint address, DType dtype, TensorShape shape, TensorStrides strides)
    {
        Device = device;
        _memory = memory;
        _address = address;
        Dtype = dtype;
        Shape = shape;
        _strides = strides;
    }

    /// <summary>Whether this is <c>default</c>: no tensor at all.</summary>
    public bool IsEmpty => Device is null;

    /// <summary>The device that the memory belongs to.</summary>
    public Device Device { get; }

    /// <summary>The element type.</summary>
    public DType Dtype { get; }

    /// <summary>The dimensions.</summary>
    public TensorShape Shape { get; }

    /// <summary>The address of the first element: a device pointer on CUDA, a native pointer on the CPU device.</summary>
    /// <exception cref="ObjectDisposedException">The tensor that owns the memory was disposed.</exception>
    public nint Address
    {
        get
        {
            _memory?.ThrowIfFreed();
            return _address;
        }
    }

    /// <summary>Whether the elements lie without gaps, the last dimension fastest.</summary>
    public bool IsContiguous
    {
        get
        {
            TensorStrides dense = TensorStrides.Contiguous(Shape);
            for (int i = 0; i < Shape.Rank; i++)
            {
                if (Shape[i] > 1 && _strides[i] != dense[i])
                {
                    return false;
                }
            }

            return true;
        }
    }

    /// <summary>Elements between two neighbours along one dimension.</summary>
    /// <param name="dimension">0 is the outermost.</param>
    public long Stride(int dimension)
    {
        _ = Shape[dimension];
        return _strides[dimension];
    }

    /// <summary>Rows <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> of the outermost dimension: the same memory.</summary>
    /// <param name="start">The first row.</param>
    /// <param name="count">The number of rows.</param>
    public TensorView Rows(int start, int count)
    {
        if (IsEmpty)
        {
            throw new InvalidOperationException("This view is no tensor (default); it has no rows.");
        }

        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        if ((long)start + count > Shape[0])
        {
            throw new ArgumentOutOfRangeException(
                nameof(count),
                count,
                $"Rows {start} to {(long)start + count} were asked for; {this} has {Shape[0]}."
            );
        }

        Span<int> dimensions = stackalloc int[Shape.Rank];
        dimensions[0] = count;
        for (int i = 1; i < dimensions.Length; i++)
        {
            dimensions[i] = Shape[i];
        }

        nint address = _address + checked((nint)(start * _strides[0] * Dtype.Size()));
        return new(Device, _memory, address, Dtype, new TensorShape(dimensions), _strides);
    }

    /// <summary>The view with its element type fixed.</summary>
    /// <typeparam name="T">The element type that the view must have.</typeparam>
    /// <exception cref="ArgumentException">The view holds another element type.</exception>
    public TensorView<T> As<T>()
        where T : unmanaged => new(this);

    /// <summary>
    /// Copies host values into a tensor of a floating-point type, in stream order; the source may be reused on return. They are rounded to
    /// the nearest value of the element type, ties to even; what is beyond its range becomes infinite (the largest finite value with
    /// Float8E4M3 and Float8E5M2), and NaN stays NaN.
    /// </summary>
    /// <param name="source">As many values as the tensor has elements, last dimension fastest.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The elements are no floating-point numbers, or have gaps between them.</exception>
    public void CopyFrom(ReadOnlySpan<float> source, CudaStream? stream = null)
    {
        CheckHost(source.Length);
        switch (Dtype)
        {
            case DType.Float16:
                HostConversion.CopyIn<Half>(this, source, TensorPrimitives.ConvertToHalf, stream);
                break;
            case DType.BFloat16:
                HostConversion.CopyIn<BFloat16>(this, source, BFloat16.Convert, stream);
                break;
            case DType.Float8E4M3:
                HostConversion.CopyIn<Float8E4M3>(this, source, Float8E4M3.Convert, stream);
                break;
            case DType.Float8E5M2:
                HostConversion.CopyIn<Float8E5M2>(this, source, Float8E5M2.Convert, stream);
                break;
            case DType.Float32:
                Device.Backend.CopyIn(Address, MemoryMarshal.AsBytes(source), stream);
                break;
            default:
                throw NoFloats();
        }
    }

    /// <summary>
    /// Copies a tensor of a floating-point type to the host, in stream order, and waits for it. All of its values are
    /// <see cref="float"/>s: nothing is rounded.
    /// </summary>
    /// <param name="destination">Room for as many values as the tensor has elements.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The elements are no floating-point numbers, or have gaps between them.</exception>
    public void CopyTo(Span<float> destination, CudaStream? stream = null)
    {
        CheckHost(destination.Length);
        switch (Dtype)
        {
            case DType.Float16:
                HostConversion.CopyOut<Half>(this, destination, TensorPrimitives.ConvertToSingle, stream);
                break;
            case DType.BFloat16:
                HostConversion.CopyOut<BFloat16>(this, destination, BFloat16.Convert, stream);
                break;
            case DType.Float8E4M3:
                HostConversion.CopyOut<Float8E4M3>(this, destination, Float8E4M3.Convert, stream);
                break;
            case DType.Float8E5M2:
                HostConversion.CopyOut<Float8E5M2>(this, destination, Float8E5M2.Convert, stream);
                break;
            case DType.Float32:
                Device.Backend.CopyOut(MemoryMarshal.AsBytes(destination), Address, stream);
                break;
            default:
                throw NoFloats();
        }
    }

    /// <summary>Copies the tensor into another one of the same device, in stream order, without the host; a graph may hold it.</summary>
    /// <param name="destination">A tensor of the same element type and shape, in other memory.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="ArgumentException">The destination is another device's, of another type or shape, or overlaps this tensor.</exception>
    /// <exception cref="InvalidOperationException">One of the two has gaps between its elements.</exception>
    public void CopyTo(TensorView destination, CudaStream? stream = null)
    {
        CheckDense();
        if (destination.IsEmpty || destination.Dtype != Dtype || destination.Shape != Shape)
        {
            throw new ArgumentException(
                $"The destination is {(destination.IsEmpty ? "no tensor" : $"{destination.Dtype}{destination.Shape}")}; expected {Dtype}{Shape}, as the source is.",
                nameof(destination)
            );
        }

        KernelTensor.CheckDevice(destination, nameof(destination), Device, "source");
        destination.CheckDense();
        long bytes = Shape.Elements * Dtype.Size();
        if (Math.Abs(destination.Address - Address) < bytes)
        {
            throw new ArgumentException(
                $"The destination begins {destination.Address - Address} bytes behind the source, of {bytes} bytes; expected memory that they do not share.",
                nameof(destination)
            );
        }

        Device.Backend.Copy(destination.Address, Address, bytes, stream);
    }

    /// <summary>
    /// Hands the tensor to another library by DLPack, without a copy. Memory that this library allocated stays until the other one is done
    /// with it, also when its tensor is disposed meanwhile; the device has to outlive both.
    /// </summary>
    /// <param name="consumerStream">
    /// The stream that the other library will use, which is made to wait for what is queued on <paramref name="stream"/>, as in the array API
    /// standard: a <c>cudaStream_t</c>; 1, or null, for the legacy default stream; 2 for the thread's default stream; -1 for no waiting.
    /// On the CPU device null or -1.
    /// </param>
    /// <param name="isVersioned">Whether to make a <c>DLManagedTensorVersioned</c>, of DLPack 1, or a <c>DLManagedTensor</c>, for libraries from before DLPack 1.0.</param>
    /// <param name="stream">The stream that writes the tensor; the device's own when null.</param>
    /// <returns>A pointer to the structure, whose deleter is to be called once, on any thread.</returns>
    public nint ToDLPack(nint? consumerStream = null, bool isVersioned = true, CudaStream? stream = null) =>
        DLPack.Export(this, _memory, consumerStream, isVersioned, stream);

    /// <summary>Shape, element type and device.</summary>
    public override string ToString() => IsEmpty ? "no tensor" : $"{Dtype}{Shape} on {Device.Name}";

    /// <summary>Throws unless the view has this shape; -1 stands for any extent.</summary>
    internal TensorView Expect(string what, DType dtype, params ReadOnlySpan<int> shape)
    {
        if (IsEmpty)
        {
            throw new ArgumentException($"{what} is no tensor; expected {Describe(dtype, shape)}.", what);
        }

        bool same = Dtype == dtype && Shape.Rank == shape.Length;
        for (int i = 0; same && i < shape.Length; i++)
        {
            same = shape[i] < 0 || Shape[i] == shape[i];
        }

        return same ? this : throw new ArgumentException($"{what} is {Dtype}{Shape}; expected {Describe(dtype, shape)}.", what);
    }

    /// <summary>Throws unless a host span of this many elements can be copied from or to the view at once.</summary>
    internal void CheckHost(int length)
    {
        CheckDense();
        if (length != Shape.Elements)
        {
            throw new ArgumentException($"The host span has {length} elements; {this} has {Shape.Elements}.");
        }
    }

    /// <summary>The view with a dimension of one in front; itself where it has <paramref name="rank"/> dimensions already, or is no tensor.</summary>
    internal TensorView Batched(int rank)
    {
        if (IsEmpty || Shape.Rank != rank - 1)
        {
            return this;
        }

        Span<int> dimensions = stackalloc int[rank];
        dimensions[0] = 1;
        TensorStrides strides = default;
        strides[0] = Math.Max(1, Shape[0]) * _strides[0];
        for (int i = 1; i < rank; i++)
        {
            dimensions[i] = Shape[i - 1];
            strides[i] = _strides[i - 1];
        }

        return new(Device, _memory, _address, Dtype, new TensorShape(dimensions), strides);
    }

    private void CheckDense()
    {
        if (IsEmpty)
        {
            throw new InvalidOperationException("This view is no tensor (default); there is nothing to copy.");
        }

        if (!IsContiguous)
        {
            throw new InvalidOperationException($"{this} has gaps between its elements; only a contiguous tensor can be copied at once.");
        }
    }

    private InvalidOperationException NoFloats() => new($"{this} holds no floating-point numbers; copy its values by way of As<int>().");

    private static string Describe(DType dtype, ReadOnlySpan<int> shape)
    {
        string[] names = new string[shape.Length];
        for (int i = 0; i < shape.Length; i++)
        {
            names[i] = shape[i] < 0 ? "any" : shape[i].ToString();
        }

        return $"{dtype}[{string.Join(", ", names)}]";
    }
}

/// <summary>A <see cref="TensorView"/> whose element type the compiler knows.</summary>
/// <typeparam name="T"><see cref="Half"/>, <see cref="BFloat16"/>, <see cref="float"/>, <see cref="int"/>, <see cref="Float8E4M3"/> or <see cref="Float8E5M2"/>.</typeparam>
public readonly partial struct TensorView<T>
    where T : unmanaged
{
    private readonly TensorView _view;

    /// <summary>Fixes the element type of a view.</summary>
    /// <param name="view">A view of that element type.</param>
    /// <exception cref="ArgumentException">The view holds another element type.</exception>
    public TensorView(TensorView view)
    {
        DType wanted = DTypes.Of<T>();
        if (!view.IsEmpty && view.Dtype != wanted)
        {
            throw new ArgumentException($"The view holds {view.Dtype}; expected {wanted}.", nameof(view));
        }

        _view = view;
    }

    /// <summary>The device that the memory belongs to.</summary>
    public Device Device => _view.Device;

    /// <summary>The dimensions.</summary>
    public TensorShape Shape => _view.Shape;

    /// <summary>The address of the first element.</summary>
    public nint Address => _view.Address;

    /// <summary>Drops the element type.</summary>
    /// <param name="view">The view.</param>
    public static implicit operator TensorView(TensorView<T> view) => view._view;

    /// <summary>The view without its element type.</summary>
    public TensorView ToTensorView() => _view;

    /// <summary>Elements between two neighbours along one dimension.</summary>
    /// <param name="dimension">0 is the outermost.</param>
    public long Stride(int dimension) => _view.Stride(dimension);

    /// <inheritdoc cref="TensorView.ToDLPack"/>
    public nint ToDLPack(nint? consumerStream = null, bool isVersioned = true, CudaStream? stream = null) =>
        _view.ToDLPack(consumerStream, isVersioned, stream);

    /// <summary>Copies host values into the tensor, in stream order; the source may be reused on return.</summary>
    /// <param name="source">As many values as the tensor has elements, last dimension fastest.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void CopyFrom(ReadOnlySpan<T> source, CudaStream? stream = null)
    {
        _view.CheckHost(source.Length);
        Device.Backend.CopyIn(Address, MemoryMarshal.AsBytes(source), stream);
    }

    /// <summary>Copies the tensor to the host, in stream order, and waits for it.</summary>
    /// <param name="destination">Room for as many values as the tensor has elements.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void CopyTo(Span<T> destination, CudaStream? stream = null)
    {
        _view.CheckHost(destination.Length);
        Device.Backend.CopyOut(MemoryMarshal.AsBytes(destination), Address, stream);
    }

    /// <inheritdoc cref="TensorView.CopyTo(TensorView, CudaStream?)"/>
    public void CopyTo(TensorView<T> destination, CudaStream? stream = null) => _view.CopyTo(destination, stream);

    /// <summary>The tensor's values in a new array; waits for the work queued before.</summary>
    /// <param name="stream">A stream; the device's own when null.</param>
    public T[] ToArray(CudaStream? stream = null)
    {
        T[] values = new T[Shape.Elements];
        CopyTo(values, stream);
        return values;
    }

    /// <summary>Rows <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> of the outermost dimension.</summary>
    /// <param name="start">The first row.</param>
    /// <param name="count">The number of rows.</param>
    public TensorView<T> Rows(int start, int count) => new(_view.Rows(start, count));

    /// <summary>Throws unless the view has this shape.</summary>
    /// <param name="what">What the tensor is, for the message.</param>
    /// <param name="shape">The expected dimensions; -1 stands for any extent.</param>
    /// <returns>The view itself.</returns>
    /// <exception cref="ArgumentException">The shape differs.</exception>
    public TensorView<T> Expect(string what, params ReadOnlySpan<int> shape)
    {
        _view.Expect(what, DTypes.Of<T>(), shape);
        return this;
    }

    /// <summary>Shape, element type and device.</summary>
    public override string ToString() => _view.ToString();
}
