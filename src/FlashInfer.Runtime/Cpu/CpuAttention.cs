using System.Runtime.Intrinsics;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.Cpu;

/// <summary>What decode and prefill have in common: the scratch memory and the job of one configuration. A call returns when its work is done.</summary>
internal sealed unsafe class CpuAttention : IDisposable
{
    private readonly AttentionSpec _spec;
    private readonly CpuWorkerPool _pool;
    private readonly CpuScratch _scratch;
    private readonly CpuJob _job;
    private readonly int _vectorBits;
    private bool _disposed;

    /// <summary>Makes the job and its scratch memory.</summary>
    /// <param name="spec">The configuration.</param>
    /// <param name="pool">The threads; not owned.</param>
    /// <param name="vectorBits">Width of the vectors: 128, 256 or 512.</param>
    /// <param name="queryTokens">The most query tokens of an item.</param>
    public CpuAttention(AttentionSpec spec, CpuWorkerPool pool, int vectorBits, int queryTokens)
    {
        _spec = spec;
        _pool = pool;
        _scratch = new CpuScratch(pool.Workers, spec.GroupSize * queryTokens, spec.HeadDim, spec.ValueDim);
        // Values are summed 4 vectors at a time: a head of 96 elements takes narrower ones.
        _vectorBits = vectorBits == 512 && spec.ValueDim % (4 * Simd512.Count) != 0 ? 256 : vectorBits;
        _job = _vectorBits switch
        {
            512 => Job<Simd512, Vector512<float>>(),
            256 => Job<Simd256, Vector256<float>>(),
            128 => Job<Simd128, Vector128<float>>(),
            _ => throw new ArgumentException(
                $"The CPU device has no kernels for vectors of {vectorBits} bits; expected 128, 256 or 512.",
                nameof(vectorBits)
            ),
        };
    }

    /// <summary>Units that run at once.</summary>
    public int Workers => _pool.Workers;

    /// <summary>Columns, pairs of query token and head, that a unit has room for.</summary>
    public int Columns => _scratch.Columns;

    /// <summary>The kernel, for people to read.</summary>
    /// <param name="phase">Decode or prefill.</param>
    public string Name(string phase) => $"cpu_{phase}_v{_vectorBits} on {Workers} {(Workers == 1 ? "thread" : "threads")}";

    /// <summary>Does all units of the list.</summary>
    /// <param name="args">Arguments as of prefill; its queue and tensor maps are not used.</param>
    /// <param name="unitsPerItem">Units that an item expands to: KV heads, from its <see cref="WorkItem.Head"/> on.</param>
    /// <param name="stream">Null: the CPU has none.</param>
    public void Run(in PrefillParams args, int unitsPerItem, CudaStream? stream)
    {
        CpuBackend.RefuseStream(stream);
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (args.Fault != 0 && args.Pages != 0 && !CpuPageCheck.Passes(args, _spec.PageSize))
        {
            return;
        }

        CpuAttentionArgs copy = new() { Params = args, UnitsPerItem = unitsPerItem };
        _pool.Run(_job, (nint)(&copy), checked(((ListHeader*)args.Plan)->Count * unitsPerItem));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _scratch.Dispose();
        }
    }

    private CpuJob Job<TSimd, TVector>()
        where TSimd : ISimd<TVector>
        where TVector : struct =>
        _spec.Dtype == DType.Float16 ? Job<TSimd, TVector, HalfElement>() : Job<TSimd, TVector, BFloat16Element>();

    private CpuJob Job<TSimd, TVector, TElement>()
        where TSimd : ISimd<TVector>
        where TVector : struct
        where TElement : IQueryElement =>
        _spec.KvDtype switch
        {
            DType.Float8E4M3 => new CpuAttentionJob<TSimd, TVector, TElement, Float8Element<E4M3Format>>(_spec, _scratch),
            DType.Float8E5M2 => new CpuAttentionJob<TSimd, TVector, TElement, Float8Element<E5M2Format>>(_spec, _scratch),
            _ => new CpuAttentionJob<TSimd, TVector, TElement, TElement>(_spec, _scratch),
        };
}
