using FlashInfer;

/// <summary>
/// Device.Open and Device.OpenCuda for as long as the SDK has the CPU backend only. Members of the SDK itself take precedence over these,
/// so that nothing changes in the samples when it brings its own; this file can then go.
/// </summary>
internal static class DeviceOpening
{
    extension(Device)
    {
        public static Device Open(DeviceOptions options) => Device.OpenCpu(options);

        public static Device OpenCuda(int ordinal, DeviceOptions options) =>
            throw new DeviceUnavailableException(
                $"CUDA device {ordinal} cannot be opened: this version of the SDK has the CPU backend only. Run without --gpu (it takes {options.CpuThreads} threads)."
            );
    }
}
