namespace FlashInfer.Compilation;

/// <summary>Where a compiled kernel came from.</summary>
public enum KernelOrigin
{
    /// <summary>NVRTC compiled it now.</summary>
    Compiled,

    /// <summary>The cache on disk.</summary>
    Cache,

    /// <summary>A bundle beside the program, compiled when it was built.</summary>
    Bundle,
}
