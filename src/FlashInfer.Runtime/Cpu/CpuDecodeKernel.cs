using FlashInfer.Attention;
using FlashInfer.Cuda;

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
        PrefillParams attention = new()
        {
            Query = args.Query,
            Key = args.Key,
            Value = args.Value,
            Output = args.Output,
            Lse = args.Lse,
            Pages = args.Pages,
            Plan = args.Plan,
            PartialOutput = args.PartialOutput,
            PartialState = args.PartialState,
            Counters = args.Counters,
            QueryRowStride = args.QueryRowStride,
            QueryHeadStride = args.QueryHeadStride,
            OutputRowStride = args.OutputRowStride,
            OutputHeadStride = args.OutputHeadStride,
            KeyTokenStride = args.TokenStride,
            KeyHeadStride = args.HeadStride,
            KeyPageStride = args.PageStride,
            ValueTokenStride = args.TokenStride,
            ValueHeadStride = args.HeadStride,
            ValuePageStride = args.PageStride,
            KeyScales = args.KeyScales,
            ValueScales = args.ValueScales,
            Fault = args.Fault,
            PageCount = args.PageCount,
            Variant = args.Variant,
        };
        _attention.Run(attention, UnitsPerItem, stream);
        return false;
    }

    /// <inheritdoc/>
    public override void Dispose() => _attention.Dispose();
}
