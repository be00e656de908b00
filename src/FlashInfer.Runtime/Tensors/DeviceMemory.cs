namespace FlashInfer;

/// <summary>
/// One allocation, or memory that another library lent. Its owner disposes it, and views of it throw from then on; it is given back once
/// nothing that was handed out refers to it either. If its device is disposed first, an allocation goes with the device.
/// </summary>
internal sealed class DeviceMemory : IDisposable
{
    private readonly Device _device;
    private readonly Action? _giveBack;
    private int _disposed;
    private int _references = 1;

    public DeviceMemory(Device device, long bytes)
    {
        _device = device;
        Bytes = bytes;
        Address = device.Backend.Allocate(Math.Max(1, bytes));
    }

    /// <summary>Memory of another library.</summary>
    /// <param name="device">The device that it lies on.</param>
    /// <param name="address">Where.</param>
    /// <param name="bytes">How much.</param>
    /// <param name="giveBack">Gives it back.</param>
    public DeviceMemory(Device device, nint address, long bytes, Action giveBack)
    {
        _device = device;
        _giveBack = giveBack;
        Bytes = bytes;
        Address = address;
    }

    public nint Address { get; }

    public long Bytes { get; }

    public void ThrowIfFreed()
    {
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _disposed) != 0, typeof(DeviceTensor));
        _device.ThrowIfDisposed();
    }

    /// <summary>Keeps the memory when its owner disposes it; for each there has to be a <see cref="Release"/>.</summary>
    public void Retain() => Interlocked.Increment(ref _references);

    /// <summary>Gives the memory back if this was the last reference.</summary>
    public void Release()
    {
        if (Interlocked.Decrement(ref _references) > 0)
        {
            return;
        }

        try
        {
            GiveBack();
        }
        catch
        {
            // Refused, during a capture of the stream: it can be tried again.
            Interlocked.Increment(ref _references);
            throw;
        }
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
        {
            try
            {
                Release();
            }
            catch
            {
                Volatile.Write(ref _disposed, 0);
                throw;
            }
        }
    }

    private void GiveBack()
    {
        if (_giveBack is not null)
        {
            // Its owner may use it for something else at once.
            if (!_device.IsDisposed)
            {
                _device.Synchronize();
            }

            _giveBack();
        }
        else if (!_device.IsDisposed)
        {
            _device.Backend.Free(Address);
        }
    }
}
