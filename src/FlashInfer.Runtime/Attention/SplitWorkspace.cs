namespace FlashInfer.Attention;

/// <summary>Where the parts of split attention leave their states for the last of them to merge, with counters that are zero between launches.</summary>
internal sealed class SplitWorkspace : IDisposable
{
    // Ahead of the counters, so that they stay aligned.
    private const int QueueBytes = 16;

    private readonly DeviceMemory _output;
    private readonly DeviceMemory _state;
    private readonly DeviceMemory _counters;

    /// <param name="device">The device.</param>
    /// <param name="units">States of a unit of work: slots times units of an item.</param>
    /// <param name="rows">Rows of all units.</param>
    /// <param name="headDim">Elements of a row.</param>
    public SplitWorkspace(Device device, long units, long rows, int headDim)
    {
        _output = new DeviceMemory(device, rows * headDim * sizeof(float));
        try
        {
            _state = new DeviceMemory(device, rows * 2 * sizeof(float));
            _counters = new DeviceMemory(device, QueueBytes + (units * sizeof(uint)));
            device.Backend.Fill(_counters.Address, 0, _counters.Bytes, null);
            // The first launch may go to any stream, which knows nothing of the fill on the device's own.
            device.Synchronize();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>float [units, rows, headDim].</summary>
    public nint Output => _output.Address;

    /// <summary>float2 [units, rows].</summary>
    public nint State => _state.Address;

    /// <summary>uint32 [units].</summary>
    public nint Counters => Queue + QueueBytes;

    /// <summary>uint32 [2].</summary>
    public nint Queue => _counters.Address;

    /// <summary>Device memory of all of it.</summary>
    public long Bytes => _output.Bytes + _state.Bytes + _counters.Bytes;

    public void Dispose()
    {
        _output.Dispose();
        _state?.Dispose();
        _counters?.Dispose();
    }
}
