namespace FlashInfer;

/// <summary>Owns the memory of one tensor on a device. Dispose it to give the memory back.</summary>
/// <typeparam name="T"><see cref="Half"/>, <see cref="BFloat16"/>, <see cref="float"/> or <see cref="int"/>.</typeparam>
public sealed class DeviceTensor<T> : IDisposable
    where T : unmanaged
{
    private readonly DeviceMemory _memory;

    internal DeviceTensor(Device device, TensorShape shape)
    {
        DType dtype = DTypes.Of<T>();
        _memory = new DeviceMemory(device, checked(shape.Elements * dtype.Size()));
        View = new TensorView(device, _memory, _memory.Address, dtype, shape, TensorStrides.Contiguous(shape)).As<T>();
    }

    /// <summary>The whole tensor.</summary>
    public TensorView<T> View { get; }

    /// <summary>The dimensions.</summary>
    public TensorShape Shape => View.Shape;

    /// <summary>Frees the memory once the work queued on the device's own stream is done; views of it throw from now on.</summary>
    public void Dispose() => _memory.Dispose();

    /// <summary>Shape, element type and device.</summary>
    public override string ToString() => View.ToString();
}

/// <summary>One allocation, freed once. If its device is disposed first, the memory goes with the device.</summary>
internal sealed class DeviceMemory : IDisposable
{
    private readonly Device _device;
    private int _freed;

    public DeviceMemory(Device device, long bytes)
    {
        _device = device;
        Bytes = bytes;
        Address = device.Backend.Allocate(Math.Max(1, bytes));
    }

    public nint Address { get; }

    public long Bytes { get; }

    public void ThrowIfFreed()
    {
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _freed) != 0, typeof(DeviceTensor<>));
        _device.ThrowIfDisposed();
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _freed, 1) == 0 && !_device.IsDisposed)
        {
            try
            {
                _device.Backend.Free(Address);
            }
            catch
            {
                // Refused, during a capture of the stream: it can be tried again.
                Volatile.Write(ref _freed, 0);
                throw;
            }
        }
    }
}
