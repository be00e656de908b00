namespace FlashInfer.Measurement;

/// <summary>A device made ready to be measured: random data, the time of launches, and what it can do at best.</summary>
internal abstract class Rig : IDisposable
{
    /// <summary>The device.</summary>
    public abstract Device Device { get; }

    /// <summary>Bytes of keys and values that the layers of a decode case go through in turn: far more than the caches of the device hold.</summary>
    public abstract long RotatedBytes { get; }

    /// <summary>The rig of a device.</summary>
    /// <param name="device">The device.</param>
    /// <param name="cpuThreads">Threads that it was opened with, if it is a CPU.</param>
    public static Rig For(Device device, int cpuThreads) =>
        device.Kind == DeviceKind.Cuda ? new Gpu(device) : new CpuRig(device, cpuThreads);

    /// <summary>What the device can do at best.</summary>
    public abstract Ceilings MeasureCeilings();

    /// <summary>Fills a tensor with normal numbers.</summary>
    public abstract void Fill(TensorView view, uint seed);

    /// <summary>Launches over a few sets of buffers in turn, ready to be timed round by round beside others.</summary>
    /// <param name="sets">Sets of buffers.</param>
    /// <param name="launch">Launches over one of them.</param>
    public abstract IRound Rounds(int sets, Action<int> launch);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>Work that is timed in rounds.</summary>
internal interface IRound : IDisposable
{
    /// <summary>One round: microseconds of a launch.</summary>
    double Us();
}
