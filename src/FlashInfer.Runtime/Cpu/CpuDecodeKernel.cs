using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Observability;

namespace FlashInfer.Cpu;

/// <summary>Batch decode on the CPU: a unit has all columns of a KV head.</summary>
/// <param name="spec">The configuration.</param>
/// <param name="pool">The threads; not owned.</param>
/// <param name="vectorBits">Width of the vectors: 128, 256 or 512.</param>
/// <param name="queryTokens">The most query tokens of a sequence.</param>
internal sealed class CpuDecodeKernel(AttentionSpec spec, CpuWorkerPool pool, int vectorBits, int queryTokens) : DecodeKernel
{
    private readonly CpuAttention _attention = new(spec, pool, vectorBits, queryTokens);

    /// <inheritdoc/>
    public override string Name => _attention.Name("decode");

    /// <inheritdoc/>
    public override int Blocks => _attention.Workers;

    /// <inheritdoc/>
    public override int UnitsPerItem => spec.KvHeads;

    /// <inheritdoc/>
    public override int ColumnsPerUnit => _attention.Columns;

    /// <inheritdoc/>
    public override int MinChunk => 256;

    /// <inheritdoc/>
    public override bool Run(in DecodeParams args, in ListLaunch launch, CudaStream? stream)
    {
        PrefillParams attention = PrefillParams.Of(args);
        _attention.Run(attention, UnitsPerItem, stream);
        Telemetry.Launched("cpu_decode");
        return false;
    }

    /// <inheritdoc/>
    public override void Dispose() => _attention.Dispose();
}
