using Microsoft.Extensions.Logging;

namespace FlashInfer.Observability;

/// <summary>All that this library logs. Numbers of events are never used again.</summary>
internal static partial class Log
{
    [LoggerMessage(1, LogLevel.Information, "compiling unit '{Unit}' for {Architecture} with NVRTC {Nvrtc}")]
    public static partial void CompileStarted(this ILogger log, string unit, string architecture, Version nvrtc);

    [LoggerMessage(2, LogLevel.Information, "compiled unit '{Unit}' for {Architecture} in {Milliseconds:F0} ms")]
    public static partial void Compiled(this ILogger log, string unit, string architecture, double milliseconds);

    [LoggerMessage(3, LogLevel.Debug, "unit '{Unit}' for {Architecture} came from {Path} in {Milliseconds:F1} ms")]
    public static partial void LoadedFromCache(this ILogger log, string unit, string architecture, string path, double milliseconds);

    [LoggerMessage(4, LogLevel.Debug, "unit '{Unit}' for {Architecture} came from {Path} in {Milliseconds:F1} ms")]
    public static partial void LoadedFromBundle(this ILogger log, string unit, string architecture, string path, double milliseconds);

    // The exception that follows is for the caller to log or to handle.
    [LoggerMessage(5, LogLevel.Debug, "unit '{Unit}' for {Architecture} could not be compiled: {Reason}")]
    public static partial void CompileFailed(this ILogger log, string unit, string architecture, string reason);

    [LoggerMessage(6, LogLevel.Warning, "unit '{Unit}' for {Architecture}: {Note}")]
    public static partial void PerformanceNote(this ILogger log, string unit, string architecture, string note);

    [LoggerMessage(
        7,
        LogLevel.Warning,
        "This user has no cache folder, so every process compiles its kernels again. Set FLASHINFER_CACHE_DIR, or CacheDirectory of the options, to a folder that can be written."
    )]
    public static partial void NoCacheFolder(this ILogger log);

    [LoggerMessage(
        8,
        LogLevel.Warning,
        "The kernel cache folder '{Folder}' cannot be written ({Reason}), so every process compiles its kernels again. Set FLASHINFER_CACHE_DIR, or CacheDirectory of the options, to a folder that can be written."
    )]
    public static partial void CacheUnwritable(this ILogger log, string folder, string reason);

    [LoggerMessage(
        9,
        LogLevel.Warning,
        "The kernels compiled ahead of time cannot be used, and are compiled at run time instead: the bundle '{Path}' {Problem}"
    )]
    public static partial void BundleUnusable(this ILogger log, string path, string problem);

    [LoggerMessage(10, LogLevel.Information, "opened {Device}: {Reason}")]
    public static partial void DeviceOpened(this ILogger log, string device, string reason);

    [LoggerMessage(11, LogLevel.Debug, "{Wrapper} planned in {Microseconds:F1} us: {Plan}")]
    public static partial void Planned(this ILogger log, string wrapper, double microseconds, string plan);

    [LoggerMessage(
        13,
        LogLevel.Warning,
        "unit '{Unit}' for {Architecture} is only there as PTX, in {Path}, and NVIDIA's driver has to compile it: slower to load, and without what this GPU does better than sm_80. Build the program again with this architecture in FlashInferArchitectures."
    )]
    public static partial void LoadedPtx(this ILogger log, string unit, string architecture, string path);

    [LoggerMessage(12, LogLevel.Warning, "the memory of a tensor that was handed out by DLPack could not be freed: {Reason}")]
    public static partial void HandoutNotFreed(this ILogger log, string reason);
}
