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
    /// failure, which is an exception. <c>Report = Console.Error.WriteLine</c> is all that a program needs to show why it waits. Called
    /// on the compiling thread; it must not throw. <see cref="OnEvent"/> and <see cref="OnWarning"/> say more, and may be set as well.
    /// </summary>
    public Action<string>? Report { get; init; }

    /// <summary>Told when a compile begins, ends, fails or is answered by cache or bundle; on the compiling thread. It must not throw.</summary>
    public Action<KernelCompilationEvent>? OnEvent { get; init; }

    /// <summary>Told of what the user should know but which stops nothing; on the compiling thread. It must not throw.</summary>
    public Action<string>? OnWarning { get; init; }

    internal void Tell(KernelCompilationEvent step)
    {
        OnEvent?.Invoke(step);
        if (step.Stage is KernelCompilationStage.Started or KernelCompilationStage.Compiled)
        {
            Report?.Invoke(step.Message);
        }
    }

    internal void Warn(string message)
    {
        OnWarning?.Invoke(message);
        Report?.Invoke(message);
    }
}
