using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>The kernels of one configuration on a GPU: a module for each unit.</summary>
internal sealed class CudaAttentionKernels : AttentionKernels
{
    private const string PageTableKernel = "fi_update_page_table";
    private const int PageTableThreads = 256;

    private readonly AttentionSpec _spec;
    private readonly CudaBackend _backend;
    private readonly KernelCompiler _compiler;
    private readonly CudaKernel _append;
    private readonly CudaFunction _updatePageTable;

    /// <summary>Compiles append and decode with one query token (both at once), or takes them from the kernel cache, and loads them.</summary>
    public CudaAttentionKernels(AttentionSpec spec, CudaBackend backend, KernelCompiler compiler)
    {
        _spec = spec;
        _backend = backend;
        _compiler = compiler;
        TranslationUnit unit = spec.AppendUnitFor(backend.IsChecked);
        Task<CompiledKernel> append = Task.Run(() => compiler.Compile(unit, backend.Architecture));
        try
        {
            Decode(queryTokens: 1, teamUnits: false);
        }
        catch
        {
            // Both failed for the same reason, most likely: one exception tells it.
            append.ContinueWith(static t => _ = t.Exception, TaskScheduler.Default);
            throw;
        }

        try
        {
            _append = CudaKernel.Load<AppendParams>(backend, append.GetAwaiter().GetResult());
            _updatePageTable = _append.GetFunction(PageTableKernel);
        }
        catch
        {
            _append?.Dispose();
            base.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override bool Append(in AppendParams args, in ListLaunch launch, CudaStream? stream) => _append.Launch(args, launch, stream);

    /// <inheritdoc/>
    public override void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream)
    {
        int blocks = (updates + PageTableThreads - 1) / PageTableThreads;
        _updatePageTable.Launch(args, new CudaExtent(blocks), new CudaExtent(PageTableThreads), 0, _backend.Resolve(stream));
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        base.Dispose();
        _append.Dispose();
    }

    /// <inheritdoc/>
    protected override DecodeKernel LoadDecode(int queryTokens, bool teamUnits)
    {
        TranslationUnit unit = _spec.DecodeUnitFor(queryTokens, teamUnits, _backend.IsChecked);
        CompiledKernel compiled = _compiler.Compile(unit, _backend.Architecture);
        return new CudaDecodeKernel(_backend, CudaKernel.Load<DecodeParams>(_backend, compiled));
    }

    /// <inheritdoc/>
    protected override PrefillKernel LoadPrefill(bool isPaged) => throw new NotSupportedException();
}
