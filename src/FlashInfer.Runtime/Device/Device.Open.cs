using System.Runtime.InteropServices;
using FlashInfer.Cpu;

namespace FlashInfer;

public sealed partial class Device
{
    /// <summary>Opens the CPU backend.</summary>
    /// <param name="options">Options; the defaults when null.</param>
    public static Device OpenCpu(DeviceOptions? options = null) => OpenCpu(options ?? new DeviceOptions(), "the CPU was asked for");

    private static Device OpenCpu(DeviceOptions options, string reason)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(options.CpuThreads, 1);
        return new Device(
            new CpuBackend(options.CpuThreads),
            DeviceKind.Cpu,
            $"CPU ({RuntimeInformation.ProcessArchitecture}, {options.CpuThreads} threads)",
            reason
        );
    }
}
