using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>The way from nothing to an initialised driver, each step with its own sentence when it fails.</summary>
internal static unsafe class CudaInitialization
{
    /// <summary>The oldest driver, in cuDriverGetVersion's form: CUDA 12.0, for launch attributes and stream-ordered memory as used here.</summary>
    public const int MinimumDriver = 12000;

    /// <summary>Loads and initialises the driver. Cheap to repeat; a failure is not remembered.</summary>
    /// <returns>The driver's version in cuDriverGetVersion's form.</returns>
    /// <exception cref="DeviceUnavailableException">No driver, too old, or it sees no device.</exception>
    public static int Ensure()
    {
        if (!NativeLibraries.TryLoadDriver(out IReadOnlyList<NativeSearchStep> trace))
        {
            throw NotLoaded(trace);
        }

        try
        {
            int version = 0;
            Require(cuDriverGetVersion(&version), nameof(cuDriverGetVersion));
            if (TooOld(version) is string message)
            {
                throw new DeviceUnavailableException(message);
            }

            Require(cuInit(0), nameof(cuInit));
            return version;
        }
        catch (EntryPointNotFoundException e)
        {
            throw new DeviceUnavailableException(
                $"The library loaded as the CUDA driver is not one, or is older than CUDA {Dotted(MinimumDriver)}: {e.Message}",
                e
            );
        }
    }

    /// <summary>Throws unless a call that opens a device succeeded.</summary>
    public static void Require(int result, string call)
    {
        if (result != CudaResult.Success)
        {
            CudaDriverException failure = Failure(result, call);
            throw new DeviceUnavailableException($"No CUDA device can be used. {failure.Message}", failure);
        }
    }

    /// <summary>The message for a driver that is too old, or null when it will do.</summary>
    public static string? TooOld(int version) =>
        version >= MinimumDriver
            ? null
            : $"The NVIDIA driver supports CUDA {Dotted(version)}; CUDA {Dotted(MinimumDriver)} or newer is needed. Update the driver (525 or newer on Linux, 527 on Windows).";

    /// <summary>What to throw for a driver that cannot be loaded.</summary>
    /// <param name="tried">What was tried, with the outcome of each.</param>
    public static DeviceUnavailableException NotLoaded(IReadOnlyList<NativeSearchStep> tried) =>
        new(
            "The NVIDIA driver's CUDA library cannot be loaded. Install the driver, or, in a container, start the container with GPUs.",
            tried
        );

    /// <summary>A version as people write it: 12040 is 12.4.</summary>
    public static string Dotted(int version) => $"{version / 1000}.{version % 1000 / 10}";
}
