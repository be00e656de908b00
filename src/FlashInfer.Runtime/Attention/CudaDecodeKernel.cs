using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>A decode kernel on a GPU.</summary>
internal sealed class CudaDecodeKernel(CudaBackend backend, CudaKernel kernel, AttentionSpec spec) : DecodeKernel
{
    /// <inheritdoc/>
    public override string Name => kernel.ToString();

    /// <inheritdoc/>
    public override int Blocks => kernel.Blocks;

    /// <inheritdoc/>
    public override int UnitsPerItem => kernel.Info.UnitsPerItem;

    /// <inheritdoc/>
    public override int ColumnsPerUnit => kernel.Info.ColumnsPerUnit;

    /// <inheritdoc/>
    public override int Teams => kernel.Info.Teams;

    /// <inheritdoc/>
    public override int ShortTokens => Teams == 1 ? DecodePlanner.TeamUnitTokens : 0;

    /// <inheritdoc/>
    /// <remarks>Below this a block has nothing to read but its own start: 64 tokens keep half of its warps busy once.</remarks>
    public override int MinChunk => 64;

    /// <inheritdoc/>
    public override double PartCost =>
        DecodePlanner.PartCost * DecodePlanner.PartCostBytes / (2 * UnitHeads * spec.HeadDim * spec.KvDtype.Size());

    /// <inheritdoc/>
    public override double MergeCost => DecodePlanner.MergeCost * ColumnsPerUnit / UnitHeads / spec.KvDtype.Size();

    /// <inheritdoc/>
    public override int MaxClusters(int blocks) => kernel.MaxClusters(blocks);

    /// <inheritdoc/>
    public override TensorMap EncodeKvMap(PagedKvCache cache) =>
        kernel.Info.Features.HasFlag(KernelFeatures.TensorMap) ? KvTensorMap.ForDecode(backend.Context, cache, UnitsPerItem) : default;

    /// <inheritdoc/>
    public override bool Run(in DecodeParams args, in ListLaunch launch, CudaStream? stream) => kernel.Launch(args, launch, stream);

    private int UnitHeads => KvTensorMap.UnitHeads(spec, UnitsPerItem);

    /// <inheritdoc/>
    public override void Dispose() => kernel.Dispose();
}
