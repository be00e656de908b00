namespace FlashInfer.Compilation;

/// <summary>A translation unit compiled for one architecture.</summary>
public sealed class CompiledKernel
{
    internal CompiledKernel(
        string unit,
        string architecture,
        byte[] cubin,
        string log,
        string compiler,
        KernelOrigin origin,
        TimeSpan elapsed
    )
    {
        Unit = unit;
        Architecture = architecture;
        Cubin = cubin;
        Log = log;
        Compiler = compiler;
        Origin = origin;
        Elapsed = elapsed;
    }

    /// <summary>The unit's name.</summary>
    public string Unit { get; }

    /// <summary>The architecture, such as <c>sm_90a</c>; of PTX a virtual one, such as <c>compute_80</c>.</summary>
    public string Architecture { get; }

    /// <summary>The cubin: an ELF file for exactly this architecture. Where a bundle had nothing else: PTX, as text.</summary>
    public ReadOnlyMemory<byte> Cubin { get; }

    /// <summary>Whether it is PTX, which the driver has yet to compile.</summary>
    internal bool IsPtx => Architecture == KernelBundle.PtxArchitecture;

    /// <summary>NVRTC's log with warnings and the report of ptxas; kept in caches and bundles too.</summary>
    public string Log { get; }

    /// <summary>The compiler that made it, such as <c>NVRTC 12.4</c>.</summary>
    public string Compiler { get; }

    /// <summary>Whether it was compiled now or came from the cache or a bundle.</summary>
    public KernelOrigin Origin { get; }

    /// <summary>How long compiling or reading took.</summary>
    public TimeSpan Elapsed { get; }

    /// <summary>What each entry point uses, in the order of the log.</summary>
    public IReadOnlyList<KernelResources> Resources => field ??= PtxasReport.Parse(Log);
}
