using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>
/// Decode by a prefill kernel: a unit has as many columns as fit a tile, so that keys and values are read once for all heads of a group.
/// Its start takes longer, and so does the way of parts through the workspace.
/// </summary>
internal sealed class CudaWideDecodeKernel : DecodeKernel
{
    // Tokens that a block reads while a row of a partial state is written, read and merged.
    private const double RowCost = 2.5;

    private readonly CudaPrefillKernel _kernel;
    private readonly AttentionSpec _spec;

    /// <param name="backend">The device.</param>
    /// <param name="kernel">The loaded kernel; owned from here on.</param>
    /// <param name="spec">The configuration.</param>
    public CudaWideDecodeKernel(CudaBackend backend, CudaKernel kernel, AttentionSpec spec)
    {
        _kernel = new CudaPrefillKernel(backend, kernel, spec);
        _spec = spec;
    }

    /// <inheritdoc/>
    public override string Name => _kernel.Name;

    /// <inheritdoc/>
    public override int Blocks => _kernel.Blocks;

    /// <inheritdoc/>
    public override int UnitsPerItem => _kernel.HeadTiles;

    /// <inheritdoc/>
    public override int ColumnsPerUnit => _kernel.TileRows;

    /// <inheritdoc/>
    public override int BlockTokens => _kernel.BlockTokens;

    /// <inheritdoc/>
    public override int MinChunk => 2 * BlockTokens;

    /// <inheritdoc/>
    public override double PartCost => DecodePlanner.PartCost + (RowCost * ColumnsPerUnit);

    /// <inheritdoc/>
    public override TensorMap EncodeKvMap(PagedKvCache cache) => _kernel.EncodeKvMap(cache);

    /// <inheritdoc/>
    public override bool Run(in DecodeParams args, in ListLaunch launch, CudaStream? stream)
    {
        int groups = _spec.PageSize / KvTensorMap.GroupTokens;
        bool headsFirst = _spec.KvLayout == KvLayout.Hnd;
        PrefillParams attention = PrefillParams.Of(args);
        attention.Queue = launch.Queue;
        attention.PageGroups = headsFirst ? _spec.KvHeads * groups : groups;
        attention.HeadGroups = headsFirst ? groups : 0;
        return _kernel.Run(ref attention, launch with { Items = Units(launch.Items), Capacity = Units(launch.Capacity) }, stream);
    }

    /// <inheritdoc/>
    public override void Dispose() => _kernel.Dispose();

    private int Units(int items) => (int)Math.Min(int.MaxValue, (long)items * UnitsPerItem);
}
