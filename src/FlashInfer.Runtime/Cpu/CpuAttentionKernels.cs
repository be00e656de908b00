using System.Runtime.Intrinsics;
using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Observability;

namespace FlashInfer.Cpu;

/// <summary>The kernels of one configuration on the CPU. A call returns when its work is done.</summary>
internal sealed unsafe class CpuAttentionKernels : AttentionKernels
{
    private readonly AttentionSpec _spec;
    private readonly CpuWorkerPool _pool;
    private readonly int _vectorBits;
    private readonly CpuAppendJob _append;
    private bool _disposed;

    /// <summary>Makes the kernels.</summary>
    /// <param name="spec">The configuration.</param>
    /// <param name="pool">The threads; not owned.</param>
    /// <param name="vectorBits">Width of the vectors: 128, 256 or 512.</param>
    public CpuAttentionKernels(AttentionSpec spec, CpuWorkerPool pool, int vectorBits)
        : base(spec)
    {
        _spec = spec;
        _pool = pool;
        _vectorBits = vectorBits;
        _append = new CpuAppendJob(spec.Shape);
    }

    /// <summary>The widest vectors that the compiled code has registers for.</summary>
    /// <remarks>
    /// Under the JIT compiler that is what this processor has. NativeAOT compiles for the oldest processor that the program is to run
    /// on, by default one with 128 bits: the program's IlcInstructionSet property decides. Asking the processor instead, by
    /// <c>Avx2.IsSupported</c>, would choose vectors that the compiler has split into calls, slower than the narrow ones.
    /// </remarks>
    public static int BestVectorBits =>
        Vector512.IsHardwareAccelerated ? 512
        : Vector256.IsHardwareAccelerated ? 256
        : 128;

    /// <inheritdoc/>
    public override bool Append(in AppendParams args, in ListLaunch launch, CudaStream? stream)
    {
        Check(stream);
        if (args.Fault != 0 && !CpuPageCheck.Passes(args, _spec.PageSize))
        {
            return false;
        }

        Telemetry.Launched("cpu_append");
        AppendParams copy = args;
        int count = ((ListHeader*)args.Plan)->Count;
        if (_append.IsWorthThreads(count))
        {
            _pool.Run(_append, (nint)(&copy), count);
            return false;
        }

        for (int item = 0; item < count; item++)
        {
            _append.Execute((nint)(&copy), item, 0);
        }

        return false;
    }

    /// <inheritdoc/>
    public override void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream)
    {
        Check(stream);
        Telemetry.Launched("cpu_update_page_table");
        ListHeader* header = (ListHeader*)args.Updates;
        foreach (ref readonly PageTableUpdate update in new ReadOnlySpan<PageTableUpdate>(header + 1, header->Count))
        {
            ((int*)args.Pages)[update.Index] = update.Page;
        }
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        base.Dispose();
        _disposed = true;
    }

    /// <inheritdoc/>
    protected override bool LoadsInBackground => false;

    /// <inheritdoc/>
    protected override bool Serves(KernelId kernel) => kernel.Architecture is null;

    /// <inheritdoc/>
    protected override void LoadAppend() { }

    /// <inheritdoc/>
    protected override void LoadMergeStates() { }

    /// <inheritdoc/>
    protected override DecodeKernel LoadDecode(int queryTokens, bool teamUnits) =>
        new CpuDecodeKernel(_spec, _pool, _vectorBits, queryTokens);

    /// <inheritdoc/>
    protected override PrefillKernel LoadPrefill(bool isPaged) =>
        new CpuPrefillKernel(isPaged ? _spec : _spec.WithoutCache(), _pool, _vectorBits);

    private void Check(CudaStream? stream)
    {
        CpuBackend.RefuseStream(stream);
        ObjectDisposedException.ThrowIf(_disposed, this);
    }
}
