namespace FlashInfer.Compilation;

/// <summary>A step in the making of a kernel.</summary>
public enum KernelCompilationStage
{
    /// <summary>NVRTC begins.</summary>
    Started,

    /// <summary>NVRTC is done.</summary>
    Compiled,

    /// <summary>The kernel came from the cache on disk.</summary>
    LoadedFromCache,

    /// <summary>The kernel came from a bundle beside the program.</summary>
    LoadedFromBundle,

    /// <summary>NVRTC is missing or refused the unit; the exception follows.</summary>
    Failed,
}

/// <summary>Progress of a <see cref="KernelCompiler"/>.</summary>
/// <param name="Unit">The unit's name.</param>
/// <param name="Architecture">The architecture, such as <c>sm_90a</c>.</param>
/// <param name="Stage">What happened.</param>
/// <param name="Elapsed">Time since the unit was asked for.</param>
/// <param name="Message">The same in words.</param>
public sealed record KernelCompilationEvent(
    string Unit,
    string Architecture,
    KernelCompilationStage Stage,
    TimeSpan Elapsed,
    string Message
);
