using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>The kernels of one configuration on a GPU: two modules, and launches sized by what the cubins say of themselves.</summary>
internal sealed class CudaAttentionKernels : AttentionKernels
{
    private const string PageTableKernel = "fi_update_page_table";
    private const int PageTableThreads = 256;
    private const int MaxClusterBlocks = 8;

    private readonly CudaBackend _backend;
    private readonly CudaModule _decodeModule;
    private readonly CudaModule _appendModule;
    private readonly CudaKernel _decode;
    private readonly CudaKernel _append;
    private readonly CudaFunction _updatePageTable;
    private readonly int[] _clusters = new int[MaxClusterBlocks + 1];
    private readonly bool _overlaps;

    /// <summary>Compiles the units (both at once), or takes them from the kernel cache, and loads them.</summary>
    public CudaAttentionKernels(AttentionSpec spec, CudaBackend backend, KernelCompiler compiler)
    {
        _backend = backend;
        string architecture = backend.Architecture;
        TranslationUnit decodeUnit = spec.DecodeUnitFor(backend.IsChecked);
        TranslationUnit appendUnit = spec.AppendUnitFor(backend.IsChecked);
        Task<CompiledKernel> append = Task.Run(() => compiler.Compile(appendUnit, architecture));
        CompiledKernel decode;
        try
        {
            decode = compiler.Compile(decodeUnit, architecture);
        }
        catch
        {
            // Both failed for the same reason, most likely: one exception tells it.
            append.ContinueWith(static t => _ = t.Exception, TaskScheduler.Default);
            throw;
        }

        _decodeModule = CudaModule.Load(backend.Context, decode.Cubin.Span);
        try
        {
            _appendModule = CudaModule.Load(backend.Context, append.GetAwaiter().GetResult().Cubin.Span);
            _decode = CudaKernel.Load<DecodeParams>(_decodeModule, decodeUnit.Name);
            _append = CudaKernel.Load<AppendParams>(_appendModule, appendUnit.Name);
            _updatePageTable = _appendModule.GetFunction(PageTableKernel);
            _overlaps = backend.Context.ComputeCapabilityMajor >= 9;
            for (int blocks = 2; blocks <= MaxClusterBlocks; blocks *= 2)
            {
                _clusters[blocks] = CountClusters(blocks);
            }
        }
        catch
        {
            _appendModule?.Dispose();
            _decodeModule.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override string DecodeKernel =>
        $"{_decode.Function.Name} ({_backend.Architecture}, {_decode.Info.Threads} threads, {_decode.Function.Registers} registers, {_decode.Info.SharedBytes / 1024} KB shared)";

    /// <inheritdoc/>
    public override int DecodeUnitsPerItem => _decode.Info.UnitsPerItem;

    /// <inheritdoc/>
    /// <remarks>Below this a block has nothing to read but its own start: 64 tokens keep half of its warps busy once.</remarks>
    public override int DecodeMinChunk => 64;

    /// <inheritdoc/>
    public override int MaxClusters(int blocks) => _clusters[blocks];

    /// <inheritdoc/>
    public override TensorMap EncodeKvMap(PagedKvCache cache) =>
        _decode.Info.Features.HasFlag(KernelFeatures.TensorMap) ? KvTensorMap.Encode(_backend.Context, cache) : default;

    /// <inheritdoc/>
    public override void Decode(in DecodeParams args, in ListLaunch launch, CudaStream? stream) => Launch(_decode, args, launch, stream);

    /// <inheritdoc/>
    public override void Append(in AppendParams args, in ListLaunch launch, CudaStream? stream) => Launch(_append, args, launch, stream);

    /// <inheritdoc/>
    public override void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream)
    {
        int blocks = (updates + PageTableThreads - 1) / PageTableThreads;
        _updatePageTable.Launch(args, new CudaExtent(blocks), new CudaExtent(PageTableThreads), 0, _backend.Resolve(stream));
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        _decodeModule.Dispose();
        _appendModule.Dispose();
    }

    private int CountClusters(int blocks) =>
        _decode.Info.Features.HasFlag(KernelFeatures.Clusters)
            ? _decode.Function.GetMaxActiveClusters(blocks, _decode.Info.Threads, _decode.Info.SharedBytes)
            : 0;

    /// <summary>As many blocks as run at once, or fewer when there is less to do; a graph must do for every list that it may replay.</summary>
    private void Launch<T>(CudaKernel kernel, in T args, in ListLaunch launch, CudaStream? stream)
        where T : unmanaged
    {
        int resident = launch.Cluster > 1 ? _clusters[launch.Cluster] : _backend.Context.MultiprocessorCount * kernel.Info.BlocksPerSm;
        kernel.Function.Launch(
            args,
            new CudaExtent((int)Math.Clamp((long)launch.Items * kernel.Info.UnitsPerItem, 1, resident) * launch.Cluster),
            new CudaExtent(kernel.Info.Threads),
            kernel.Info.SharedBytes,
            _backend.Resolve(stream),
            launch.Overlaps && _overlaps,
            launch.Cluster
        );
    }

    /// <summary>A loaded kernel and what its cubin says of it.</summary>
    private sealed record CudaKernel(CudaFunction Function, KernelInfo Info)
    {
        public static CudaKernel Load<TParams>(CudaModule module, string name)
            where TParams : unmanaged
        {
            KernelInfo info = default;
            module.ReadGlobal(name + "_info", MemoryMarshal.AsBytes(new Span<KernelInfo>(ref info)));
            if (info.AbiVersion != CudaUnits.AbiVersion || info.ParamsBytes != Unsafe.SizeOf<TParams>())
            {
                throw new FlashInferException(
                    $"Kernel '{name}' was compiled for contract version {info.AbiVersion} with arguments of {info.ParamsBytes} bytes, but this FlashInfer.Runtime has version {CudaUnits.AbiVersion} and {Unsafe.SizeOf<TParams>()} bytes; clear the kernel cache or rebuild the program against the package that it runs with."
                );
            }

            CudaFunction function = module.GetFunction(name);
            function.SetMaxDynamicSharedMemory(info.SharedBytes);
            return new CudaKernel(function, info);
        }
    }
}
