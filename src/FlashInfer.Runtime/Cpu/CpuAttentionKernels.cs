using System.Runtime.Intrinsics;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.Cpu;

/// <summary>The kernels of one configuration on the CPU. A call returns when its work is done.</summary>
internal sealed unsafe class CpuAttentionKernels : AttentionKernels
{
    private readonly AttentionSpec _spec;
    private readonly CpuWorkerPool _pool;
    private readonly CpuScratch _scratch;
    private readonly CpuJob _decode;
    private readonly CpuAppendJob _append;
    private bool _disposed;

    /// <summary>Makes the kernels.</summary>
    /// <param name="spec">The configuration.</param>
    /// <param name="pool">The threads; not owned.</param>
    /// <param name="vectorBits">Width of the vectors: 128, 256 or 512.</param>
    public CpuAttentionKernels(AttentionSpec spec, CpuWorkerPool pool, int vectorBits)
    {
        _spec = spec;
        _pool = pool;
        _scratch = new CpuScratch(pool.Workers, spec.GroupSize, spec.HeadDim);
        int bits = vectorBits;
        if (bits == 512 && spec.HeadDim % (4 * Simd512.Count) != 0)
        {
            // Values are summed 4 vectors at a time: a head of 96 elements takes narrower ones.
            bits = 256;
        }

        _decode = bits switch
        {
            512 => MakeDecode<Simd512, Vector512<float>>(),
            256 => MakeDecode<Simd256, Vector256<float>>(),
            128 => MakeDecode<Simd128, Vector128<float>>(),
            _ => throw new ArgumentException(
                $"The CPU device has no kernels for vectors of {vectorBits} bits; expected 128, 256 or 512.",
                nameof(vectorBits)
            ),
        };
        _append = new CpuAppendJob(spec.Shape);
        DecodeKernel = $"cpu_decode_v{bits} on {pool.Workers} {(pool.Workers == 1 ? "thread" : "threads")}";
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
    public override string DecodeKernel { get; }

    /// <inheritdoc/>
    public override int DecodeUnitsPerItem => _spec.KvHeads;

    /// <inheritdoc/>
    public override int DecodeMinChunk => 256;

    /// <inheritdoc/>
    public override void Decode(in DecodeParams args, in ListLaunch launch, CudaStream? stream)
    {
        Check(stream);
        if (args.Fault != 0 && !CpuPageCheck.Passes(args, _spec.PageSize))
        {
            return;
        }

        DecodeParams copy = args;
        _pool.Run(_decode, (nint)(&copy), checked(((ListHeader*)args.Plan)->Count * _spec.KvHeads));
    }

    /// <inheritdoc/>
    public override void Append(in AppendParams args, in ListLaunch launch, CudaStream? stream)
    {
        Check(stream);
        if (args.Fault != 0 && !CpuPageCheck.Passes(args, _spec.PageSize))
        {
            return;
        }

        AppendParams copy = args;
        int count = ((ListHeader*)args.Plan)->Count;
        if (_append.IsWorthThreads(count))
        {
            _pool.Run(_append, (nint)(&copy), count);
            return;
        }

        for (int item = 0; item < count; item++)
        {
            _append.Execute((nint)(&copy), item, 0);
        }
    }

    /// <inheritdoc/>
    public override void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream)
    {
        Check(stream);
        ListHeader* header = (ListHeader*)args.Updates;
        foreach (ref readonly PageTableUpdate update in new ReadOnlySpan<PageTableUpdate>(header + 1, header->Count))
        {
            ((int*)args.Pages)[update.Index] = update.Page;
        }
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

    private CpuJob MakeDecode<TSimd, TVector>()
        where TSimd : ISimd<TVector>
        where TVector : struct =>
        _spec.Dtype == DType.Float16 ? MakeDecode<TSimd, TVector, HalfElement>() : MakeDecode<TSimd, TVector, BFloat16Element>();

    private CpuJob MakeDecode<TSimd, TVector, TElement>()
        where TSimd : ISimd<TVector>
        where TVector : struct
        where TElement : IQueryElement =>
        _spec.KvDtype switch
        {
            DType.Float8E4M3 => new CpuDecodeJob<TSimd, TVector, TElement, Float8Element<E4M3Format>>(_spec.Shape, _scratch),
            DType.Float8E5M2 => new CpuDecodeJob<TSimd, TVector, TElement, Float8Element<E5M2Format>>(_spec.Shape, _scratch),
            _ => new CpuDecodeJob<TSimd, TVector, TElement, TElement>(_spec.Shape, _scratch),
        };

    private void Check(CudaStream? stream)
    {
        CpuBackend.RefuseStream(stream);
        ObjectDisposedException.ThrowIf(_disposed, this);
    }
}
