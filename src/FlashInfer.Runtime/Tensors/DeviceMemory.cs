namespace FlashInfer;

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
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _freed) != 0, typeof(DeviceTensor));
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
