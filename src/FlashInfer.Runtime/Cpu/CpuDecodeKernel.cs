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
        _job = (vectorBits, spec.Dtype) switch
        {
            (512, DType.Float16) => Job<Simd512, Vector512<float>, HalfElement>(),
            (512, DType.BFloat16) => Job<Simd512, Vector512<float>, BFloat16Element>(),
            (256, DType.Float16) => Job<Simd256, Vector256<float>, HalfElement>(),
            (256, DType.BFloat16) => Job<Simd256, Vector256<float>, BFloat16Element>(),
            (128, DType.Float16) => Job<Simd128, Vector128<float>, HalfElement>(),
            (128, DType.BFloat16) => Job<Simd128, Vector128<float>, BFloat16Element>(),
            _ => throw new ArgumentException(
                $"The CPU device has no kernels for vectors of {vectorBits} bits and elements of type {spec.Dtype}; expected 128, 256 or 512 bits and Float16 or BFloat16.",
                nameof(vectorBits)
            ),
        };
        Name = $"cpu_decode_v{vectorBits} on {pool.Workers} {(pool.Workers == 1 ? "thread" : "threads")}";
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

    private CpuDecodeJob<TSimd, TVector, TElement> Job<TSimd, TVector, TElement>()
        where TSimd : ISimd<TVector>
        where TVector : struct
        where TElement : IElement => new(_spec.Shape, ColumnsPerUnit, _scratch);
}
