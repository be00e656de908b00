using System.Runtime.Intrinsics;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.Cpu;

/// <summary>Batch decode on the CPU: a unit has all columns of a KV head. A call returns when its work is done.</summary>
internal sealed unsafe class CpuDecodeKernel : DecodeKernel
{
    private readonly AttentionSpec _spec;
    private readonly CpuWorkerPool _pool;
    private readonly CpuScratch _scratch;
    private readonly CpuJob _job;
    private bool _disposed;

    /// <summary>Makes the kernel and its scratch memory.</summary>
    /// <param name="spec">The configuration.</param>
    /// <param name="pool">The threads; not owned.</param>
    /// <param name="vectorBits">Width of the vectors: 128, 256 or 512.</param>
    /// <param name="queryTokens">The most query tokens of a sequence.</param>
    public CpuDecodeKernel(AttentionSpec spec, CpuWorkerPool pool, int vectorBits, int queryTokens)
    {
        _spec = spec;
        _pool = pool;
        ColumnsPerUnit = spec.GroupSize * queryTokens;
        _scratch = new CpuScratch(pool.Workers, ColumnsPerUnit, spec.HeadDim);
        int bits = vectorBits;
        if (bits == 512 && spec.HeadDim % (4 * Simd512.Count) != 0)
        {
            // Values are summed 4 vectors at a time: a head of 96 elements takes narrower ones.
            bits = 256;
        }

        _job = bits switch
        {
            512 => Job<Simd512, Vector512<float>>(),
            256 => Job<Simd256, Vector256<float>>(),
            128 => Job<Simd128, Vector128<float>>(),
            _ => throw new ArgumentException(
                $"The CPU device has no kernels for vectors of {vectorBits} bits; expected 128, 256 or 512.",
                nameof(vectorBits)
            ),
        };
        Name = $"cpu_decode_v{bits} on {pool.Workers} {(pool.Workers == 1 ? "thread" : "threads")}";
    }

    /// <inheritdoc/>
    public override string Name { get; }

    /// <inheritdoc/>
    public override int Blocks => _pool.Workers;

    /// <inheritdoc/>
    public override int UnitsPerItem => _spec.KvHeads;

    /// <inheritdoc/>
    public override int ColumnsPerUnit { get; }

    /// <inheritdoc/>
    public override int MinChunk => 256;

    /// <inheritdoc/>
    public override bool Run(in DecodeParams args, in ListLaunch launch, CudaStream? stream)
    {
        CpuBackend.RefuseStream(stream);
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (args.Fault != 0 && !CpuPageCheck.Passes(args, _spec.PageSize))
        {
            return false;
        }

        DecodeParams copy = args;
        _pool.Run(_job, (nint)(&copy), checked(((ListHeader*)args.Plan)->Count * UnitsPerItem));
        return false;
    }

    /// <inheritdoc/>
    public override void Dispose()
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
            DType.Float8E4M3 => new CpuDecodeJob<TSimd, TVector, TElement, Float8Element<E4M3Format>>(
                _spec.Shape,
                ColumnsPerUnit,
                _scratch
            ),
            DType.Float8E5M2 => new CpuDecodeJob<TSimd, TVector, TElement, Float8Element<E5M2Format>>(
                _spec.Shape,
                ColumnsPerUnit,
                _scratch
            ),
            _ => new CpuDecodeJob<TSimd, TVector, TElement, TElement>(_spec.Shape, ColumnsPerUnit, _scratch),
        };
}
