namespace FlashInfer.Tests.Samples;

/// <summary>Whether this machine has a CUDA device, found out without the code under test: by the driver's device files.</summary>
internal static class Gpu
{
    public static bool IsPresent => File.Exists("/dev/nvidia0") || File.Exists("/dev/dxg") || OperatingSystem.IsWindows();
}
