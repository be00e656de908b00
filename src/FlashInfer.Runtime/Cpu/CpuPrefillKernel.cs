using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Observability;

namespace FlashInfer.Cpu;

/// <summary>Prefill on the CPU, paged or ragged as its arguments say: a head tile is the whole group of a KV head.</summary>
/// <param name="spec">The configuration.</param>
/// <param name="pool">The threads; not owned.</param>
/// <param name="vectorBits">Width of the vectors: 128, 256 or 512.</param>
internal sealed unsafe class CpuPrefillKernel(AttentionSpec spec, CpuWorkerPool pool, int vectorBits) : PrefillKernel
{
    /// <summary>Rows of a tile, unless a group alone has more: their query, output and scores stay in the L2 cache beside a block of keys.</summary>
    private const int Rows = 64;

    private readonly CpuAttention _attention = new(spec, pool, vectorBits, Math.Max(1, Rows / spec.GroupSize));

    /// <inheritdoc/>
    public override string Name => _attention.Name("prefill");

    /// <inheritdoc/>
    public override int Blocks => _attention.Workers;

    /// <inheritdoc/>
    public override int Pack => spec.GroupSize;

    /// <inheritdoc/>
    public override int HeadTiles => spec.KvHeads;

    /// <inheritdoc/>
    public override int TileTokens => TileRows / Pack;

    /// <inheritdoc/>
    public override int TileRows => _attention.Columns;

    /// <inheritdoc/>
    public override int BlockTokens => CpuScratch.BlockTokens;

    /// <inheritdoc/>
    public override bool Run(ref PrefillParams args, in ListLaunch launch, CudaStream? stream)
    {
        _attention.Run(args, ((ListHeader*)args.Plan)->Heads, stream);
        Telemetry.Launched("cpu_prefill");
        return false;
    }

    /// <inheritdoc/>
    public override void Dispose() => _attention.Dispose();
}
