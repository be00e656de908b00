using FlashInfer.Observability;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace FlashInfer.Compilation;

/// <summary>How a <see cref="KernelCompiler"/> finds NVRTC, where it keeps what it compiled, and whom it tells.</summary>
public sealed class KernelCompilerOptions
{
    /// <summary>
    /// The folder of compiled kernels. When null: the environment variable <c>FLASHINFER_CACHE_DIR</c>, else <c>flashinfer-net</c> in the
    /// user's cache folder (<c>XDG_CACHE_HOME</c> or <c>~/.cache</c>; <c>%LOCALAPPDATA%</c> on Windows). Any number of processes may share it.
    /// </summary>
    public string? CacheDirectory { get; init; }

    /// <summary>Whether compiled kernels are kept on disk and read from there. True when not given.</summary>
    public bool UseCache { get; init; } = true;

    /// <summary>
    /// The folder of kernels that were compiled ahead of time: files ending in <c>.fikernels</c>, which a build with
    /// <c>FlashInferAheadOfTime</c> or <c>flashinfer aot</c> writes. When null: the program's own folder.
    /// </summary>
    public string? BundleDirectory { get; init; }

    /// <summary>Whether kernels are taken from bundles, before the cache is looked at. True when not given.</summary>
    public bool UseBundles { get; init; } = true;

    /// <summary>
    /// The NVRTC library, or the folder that holds it. When null: the environment variable <c>FLASHINFER_NVRTC</c>, else the usual places
    /// are searched. A process uses one NVRTC; the first that compiles decides.
    /// </summary>
    public string? NvrtcPath { get; init; }

    /// <summary>
    /// Whether kernels carry line numbers for profilers and compute-sanitizer. Costs no speed, but makes a cubin about four times as
    /// large; bundles have none and are not used then. False when not given.
    /// </summary>
    public bool LineInfo { get; init; }

    /// <summary>
    /// Gets a line when a compile begins, when it ends, and for each warning; silent when the kernels come from cache or bundle, and of a
    /// failure, which is an exception. <c>Report = Console.Error.WriteLine</c> is all that a program without a log needs to show why it
    /// waits. Called on the compiling thread; it must not throw.
    /// </summary>
    public Action<string>? Report { get; init; }

    /// <summary>Where the compiler logs what <see cref="Report"/> gets, and in debugging what came from cache and bundle. When null: <see cref="DeviceOptions.LoggerFactory"/>.</summary>
    public ILoggerFactory? LoggerFactory { get; init; }

    /// <summary>The compiler's log.</summary>
    /// <param name="loggers">The factory when the options have none.</param>
    internal ILogger CreateLog(ILoggerFactory? loggers)
    {
        ILogger log = (LoggerFactory ?? loggers)?.CreateLogger<KernelCompiler>() ?? (ILogger)NullLogger.Instance;
        return Report is null ? log : new ReportingLogger(log, Report);
    }
}
