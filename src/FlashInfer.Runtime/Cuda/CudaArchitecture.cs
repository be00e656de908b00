using FlashInfer.Compilation;

namespace FlashInfer.Cuda;

/// <summary>The one place that knows how a compute capability is written as a target of the compiler.</summary>
internal static class CudaArchitecture
{
    /// <summary>The target for a device: its own sm, with the features of Hopper that only sm_90a has.</summary>
    public static string Name(int major, int minor) => (major, minor) == (9, 0) ? "sm_90a" : $"sm_{major}{minor}";

    /// <summary>Throws unless a device runs cubins for an architecture: one of its major version and no later, with a suffix only its own.</summary>
    /// <param name="architecture">The architecture, such as <c>sm_80</c>.</param>
    /// <param name="major">The device's compute capability.</param>
    /// <param name="minor">Its second number.</param>
    /// <exception cref="ArgumentException">It is malformed, or the device does not run it.</exception>
    public static void CheckRunnable(string architecture, int major, int minor)
    {
        NvrtcOptions.CheckArchitecture(architecture);
        int number = int.Parse(architecture["sm_".Length..].TrimEnd('a', 'f'));
        bool runs = architecture[^1] == 'a' ? number == (major * 10) + minor : number / 10 == major && number % 10 <= minor;
        if (!runs)
        {
            throw new ArgumentException(
                $"The architecture is {architecture}, but a device of compute capability {major}.{minor} runs sm_{major}0 to sm_{major}{minor} and sm_{major}{minor}a; use one of these, or null for {Name(major, minor)}.",
                nameof(architecture)
            );
        }
    }
}
