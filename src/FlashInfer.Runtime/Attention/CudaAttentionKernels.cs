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
    private readonly KernelSlot<AppendKernels> _append;
    private readonly KernelSlot<DecodeKernel>[] _wideDecode;
    private readonly KernelSlot<DecodeKernel> _raggedDecode;
    private readonly KernelSlot<StagedPrefillKernel>? _stagedPaged;
    private readonly KernelSlot<StagedPrefillKernel>? _stagedRagged;

    /// <summary>Loads nothing yet.</summary>
    public CudaAttentionKernels(AttentionSpec spec, CudaBackend backend, KernelCompiler compiler)
        : base(spec)
    {
        _spec = spec;
        _backend = backend;
        _compiler = compiler;
        _append = new(() => new AppendKernels(Load<AppendParams>(spec.AppendUnitFor(backend.IsChecked))));
        _raggedDecode = new(() => new CudaDecodeKernel(backend, Load<DecodeParams>(spec.DecodeRaggedUnit), spec.WithoutCache()));
        _stagedPaged = StagedSlot(isPaged: true);
        _stagedRagged = StagedSlot(isPaged: false);
        _wideDecode = [.. CudaUnits.QueryTokens.Select(tokens => new KernelSlot<DecodeKernel>(() => LoadWideDecode(tokens)))];
    }

    /// <inheritdoc/>
    public override bool Append(in AppendParams args, in ListLaunch launch, CudaStream? stream) =>
        _append.Get().Append.Launch(args, launch, stream);

    /// <inheritdoc/>
    public override void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream)
    {
        int blocks = (updates + PageTableThreads - 1) / PageTableThreads;
        CudaFunction update = _append.Get().UpdatePageTable;
        update.Launch(args, new CudaExtent(blocks), new CudaExtent(PageTableThreads), 0, _backend.Resolve(stream));
    }

    /// <inheritdoc/>
    public override DecodeKernel? WideDecode(int queryTokens)
    {
        int at = Place(queryTokens);
        return CudaUnits.HasWideDecode(_spec.Shape, CudaUnits.QueryTokens[at]) ? _wideDecode[at].Get() : null;
    }

    /// <inheritdoc/>
    public override DecodeKernel? RaggedDecode() => CudaUnits.HasRaggedDecode(_spec.Shape) ? _raggedDecode.Get() : null;

    /// <inheritdoc/>
    public override StagedPrefillKernel? StagedPrefill(bool isPaged) =>
        (isPaged ? _stagedPaged : _stagedRagged)?.Get() is { Prefill.IsHopper: true } staged ? staged : null;

    /// <inheritdoc/>
    public override void Dispose()
    {
        base.Dispose();
        _append.Dispose();
        _raggedDecode.Dispose();
        _stagedPaged?.Dispose();
        _stagedRagged?.Dispose();
        foreach (KernelSlot<DecodeKernel> slot in _wideDecode)
        {
            slot.Dispose();
        }
    }

    /// <inheritdoc/>
    protected override bool LoadsInBackground => _compiler.WhyNoKernels(_backend.Architecture) is null;

    /// <inheritdoc/>
    protected override bool Serves(KernelId kernel) => kernel.Serves(_backend.Architecture);

    /// <inheritdoc/>
    protected override void LoadAppend() => _append.Get();

    /// <inheritdoc/>
    protected override void LoadMergeStates() => _backend.MergeStates(_spec.Dtype);

    /// <inheritdoc/>
    protected override DecodeKernel LoadDecode(int queryTokens, bool teamUnits) =>
        new CudaDecodeKernel(_backend, Load<DecodeParams>(_spec.DecodeUnitFor(queryTokens, teamUnits, _backend.IsChecked)), _spec);

    /// <inheritdoc/>
    protected override PrefillKernel LoadPrefill(bool isPaged) =>
        new CudaPrefillKernel(_backend, Load<PrefillParams>(_spec.PrefillUnitFor(isPaged, _backend.IsChecked)), _spec);

    private DecodeKernel LoadWideDecode(int queryTokens)
    {
        TranslationUnit unit = _spec.WideDecodeUnitFor(queryTokens, _backend.IsChecked);
        return CudaUnits.HasWideUnits(_spec.Shape, queryTokens)
            ? new CudaDecodeKernel(_backend, Load<DecodeParams>(unit), _spec)
            : new CudaWideDecodeKernel(_backend, Load<PrefillParams>(unit), _spec);
    }

    private KernelSlot<StagedPrefillKernel>? StagedSlot(bool isPaged) =>
        CudaUnits.HasStagedPrefill(_spec.Shape, isPaged) && _backend.Architecture == CudaUnits.StagedArchitecture
            ? new(() => LoadStagedPrefill(isPaged))
            : null;

    private CudaStagedPrefillKernel LoadStagedPrefill(bool isPaged)
    {
        CudaKernel prefill = Load<PrefillParams>(_spec.PrefillStagedUnitFor(isPaged, _backend.IsChecked));
        CudaPrefillKernel kernel = new(_backend, prefill, _spec);
        string stage = CudaUnits.StageName(_spec.Shape, isPaged, _backend.IsChecked);
        return new CudaStagedPrefillKernel(kernel, kernel.HasStager ? null : prefill.GetKernel<StageParams>(stage));
    }

    private CudaKernel Load<TParams>(TranslationUnit unit)
        where TParams : unmanaged => CudaKernel.Load<TParams>(_backend, _compiler.Compile(unit, _backend.Architecture));

    /// <summary>The two kernels of the unit of staged prefill; without the other where the first has a stager.</summary>
    private sealed class CudaStagedPrefillKernel(CudaPrefillKernel prefill, CudaKernel? stage) : StagedPrefillKernel(prefill)
    {
        public override bool Stage(in StageParams args, in ListLaunch launch, CudaStream? stream) => stage!.Launch(args, launch, stream);

        public override void Dispose() => Prefill.Dispose();
    }

    /// <summary>The two kernels of the append unit.</summary>
    private sealed class AppendKernels(CudaKernel append) : IDisposable
    {
        public CudaKernel Append => append;

        public CudaFunction UpdatePageTable { get; } = append.GetFunction(PageTableKernel);

        public void Dispose() => append.Dispose();
    }
}
