namespace FlashInfer.Cuda;

/// <summary>The one place that knows how a compute capability is written as a target of the compiler.</summary>
internal static class CudaArchitecture
{
    /// <summary>The target for a device: its own sm, with the features of Hopper that only sm_90a has.</summary>
    public static string Name(int major, int minor) => (major, minor) == (9, 0) ? "sm_90a" : $"sm_{major}{minor}";
}
