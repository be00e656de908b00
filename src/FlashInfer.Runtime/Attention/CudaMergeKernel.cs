using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>Merges states of one element type on a GPU.</summary>
internal sealed class CudaMergeKernel : MergeKernel
{
    private const int ChunkBytes = 16;

    private readonly CudaKernel _kernel;
    private readonly int _elementBytes;

    /// <param name="backend">The device.</param>
    /// <param name="compiler">Compiles the unit, or finds its cubin.</param>
    /// <param name="dtype">The element type.</param>
    public CudaMergeKernel(CudaBackend backend, KernelCompiler compiler, DType dtype)
    {
        _elementBytes = dtype.Size();
        TranslationUnit unit = AttentionSpec.MergeStatesUnit(dtype);
        _kernel = CudaKernel.Load<MergeStatesParams>(backend, compiler.Compile(unit, backend.Architecture));
    }

    /// <inheritdoc/>
    public override void Run(in MergeStatesParams args, CudaStream? stream)
    {
        int chunks = args.HeadDim * _elementBytes / ChunkBytes;
        int pairs = _kernel.Info.Threads / chunks; // that a block works on side by side
        int blocks = (int)((((long)args.Rows * args.Heads) + pairs - 1) / pairs);
        _kernel.Launch(args, new ListLaunch(blocks, blocks, 1, Overlaps: true), stream);
    }

    /// <inheritdoc/>
    public override void Dispose() => _kernel.Dispose();
}
