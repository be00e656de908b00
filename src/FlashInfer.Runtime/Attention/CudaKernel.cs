using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>A loaded kernel, its module, and what its cubin says of it: launches are sized by that.</summary>
internal sealed class CudaKernel : IDisposable
{
    private const int MaxClusterBlocks = 8;

    private readonly CudaBackend _backend;
    private readonly CudaModule _module;
    private readonly CudaFunction _function;
    private readonly int[] _clusters = new int[MaxClusterBlocks + 1];
    private readonly bool _overlaps;

    private CudaKernel(CudaBackend backend, CudaModule module, string name, int paramsBytes)
    {
        _backend = backend;
        _module = module;
        _overlaps = backend.Context.ComputeCapabilityMajor >= 9;
        KernelInfo info = default;
        module.ReadGlobal(name + "_info", MemoryMarshal.AsBytes(new Span<KernelInfo>(ref info)));
        if (info.AbiVersion != CudaUnits.AbiVersion || info.ParamsBytes != paramsBytes)
        {
            throw new FlashInferException(
                $"Kernel '{name}' was compiled for contract version {info.AbiVersion} with arguments of {info.ParamsBytes} bytes, but this FlashInfer.Runtime has version {CudaUnits.AbiVersion} and {paramsBytes} bytes; clear the kernel cache or rebuild the program against the package that it runs with."
            );
        }

        Info = info;
        _function = module.GetFunction(name);
        _function.SetMaxDynamicSharedMemory(info.SharedBytes);
        for (int blocks = 2; blocks <= MaxClusterBlocks && info.Features.HasFlag(KernelFeatures.Clusters); blocks *= 2)
        {
            _clusters[blocks] = _function.GetMaxActiveClusters(blocks, info.Threads, info.SharedBytes);
        }
    }

    /// <summary>What the cubin says.</summary>
    public KernelInfo Info { get; }

    /// <summary>Blocks that run at once.</summary>
    public int Blocks => _backend.Context.MultiprocessorCount * Info.BlocksPerSm;

    /// <summary>Loads a kernel that takes these parameters.</summary>
    public static CudaKernel Load<TParams>(CudaBackend backend, CompiledKernel compiled)
        where TParams : unmanaged
    {
        CudaModule module = compiled.IsPtx
            ? CudaModule.LoadPtx(backend.Context, compiled.Cubin.Span)
            : CudaModule.Load(backend.Context, compiled.Cubin.Span);
        try
        {
            return new CudaKernel(backend, module, compiled.Unit, Unsafe.SizeOf<TParams>());
        }
        catch
        {
            module.Dispose();
            throw;
        }
    }

    /// <summary>Another kernel of the same module, which stays this one's to dispose.</summary>
    public CudaKernel GetKernel<TParams>(string name)
        where TParams : unmanaged => new(_backend, _module, name, Unsafe.SizeOf<TParams>());

    /// <summary>A kernel of the same module that says nothing of itself.</summary>
    public CudaFunction GetFunction(string name) => _module.GetFunction(name);

    /// <summary>Clusters of this many blocks that run at once.</summary>
    public int MaxClusters(int blocks) => _clusters[blocks];

    /// <summary>As many blocks as run at once, or fewer when there is less to do; a graph must do for every list that it may replay.</summary>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public bool Launch<TParams>(in TParams args, in ListLaunch launch, CudaStream? stream)
        where TParams : unmanaged
    {
        // Asking makes the context current, for the launch as well.
        CudaStream target = _backend.Resolve(stream);
        bool capturing = target.IsCapturing;
        int resident = launch.Cluster > 1 ? _clusters[launch.Cluster] : Blocks;
        long units = (long)(capturing ? launch.Capacity : launch.Items) * Info.UnitsPerItem;
        long wanted = (units + Info.Crews - 1) / Info.Crews;
        _function.LaunchInCurrentContext(
            args,
            new CudaExtent((int)Math.Clamp(wanted, 1, resident) * launch.Cluster),
            new CudaExtent(Info.Threads),
            Info.SharedBytes,
            target,
            launch.Overlaps && _overlaps,
            launch.Cluster
        );
        return capturing;
    }

    /// <inheritdoc/>
    public void Dispose() => _module.Dispose();

    /// <summary>Name, architecture and resources.</summary>
    public override string ToString() =>
        $"{_function.Name} ({_backend.Architecture}, {Info.Threads} threads, {_function.Registers} registers, {Info.SharedBytes / 1024} KB shared)";
}
