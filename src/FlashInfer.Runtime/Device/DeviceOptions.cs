using FlashInfer.Compilation;

namespace FlashInfer;

/// <summary>How a device is opened.</summary>
public sealed class DeviceOptions
{
    /// <summary>How kernels are compiled and cached, and who hears of it. The CPU device compiles none.</summary>
    public KernelCompilerOptions Compiler { get; init; } = new();

    /// <summary>Threads of the CPU device, 1 or more; all processors when not given.</summary>
    public int CpuThreads { get; init; } = Environment.ProcessorCount;
}
