using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>A prefill kernel on a GPU.</summary>
internal sealed class CudaPrefillKernel : PrefillKernel
{
    private const long Reach = 32L << 30;

    private readonly CudaBackend _backend;
    private readonly CudaKernel _kernel;
    private readonly AttentionSpec _spec;
    private readonly PrefillTensorMaps? _maps;

    /// <param name="backend">The device.</param>
    /// <param name="kernel">The loaded kernel; owned from here on.</param>
    /// <param name="spec">The configuration.</param>
    public CudaPrefillKernel(CudaBackend backend, CudaKernel kernel, AttentionSpec spec)
    {
        _backend = backend;
        _kernel = kernel;
        _spec = spec;
        _maps = kernel.Info.Features.HasFlag(KernelFeatures.TensorMap) ? new PrefillTensorMaps(backend.Context, spec, kernel.Info) : null;
    }

    /// <inheritdoc/>
    public override string Name => _kernel.ToString();

    /// <inheritdoc/>
    public override int Blocks => _kernel.Blocks;

    /// <inheritdoc/>
    public override int Pack => _kernel.Info.Pack;

    /// <inheritdoc/>
    public override int HeadTiles => _spec.Heads / Pack;

    /// <inheritdoc/>
    public override int TileTokens => _kernel.Info.TileTokens;

    /// <inheritdoc/>
    public override int TileRows => _kernel.Info.ColumnsPerUnit;

    /// <inheritdoc/>
    public override int BlockTokens => _kernel.Info.BlockTokens;

    /// <inheritdoc/>
    public override bool IsHopper => _maps is not null;

    /// <inheritdoc/>
    public override bool HasStager => _kernel.Info.Features.HasFlag(KernelFeatures.Stager);

    /// <inheritdoc/>
    public override TensorMap EncodeKvMap(PagedKvCache cache)
    {
        if (_maps is null)
        {
            return default;
        }

        if (_spec.PageSize % KvTensorMap.GroupTokens == 0)
        {
            return KvTensorMap.ForPrefill(_backend.Context, cache, BlockTokens);
        }

        CheckReach(_spec, cache.TotalPages);
        return default;
    }

    /// <inheritdoc/>
    public override bool Run(ref PrefillParams args, in ListLaunch launch, CudaStream? stream)
    {
        _maps?.Set(ref args, launch.Rows, launch.KeyRows);
        return _kernel.Launch(args, launch, stream);
    }

    /// <inheritdoc/>
    public override void Dispose() => _kernel.Dispose();

    /// <summary>Threads that gather tokens count 16 bytes of a layer's keys in 31 bits (prefill_gather.cuh).</summary>
    internal static void CheckReach(AttentionSpec spec, int pages)
    {
        long bytes = (long)pages * spec.PageSize * spec.KvHeads * spec.HeadDim * spec.KvDtype.Size();
        if (bytes > Reach)
        {
            throw new FlashInferException(
                $"Prefill on this GPU reaches {Reach >> 30} GiB of a layer's keys where pageSize is no multiple of {KvTensorMap.GroupTokens}; pageSize is {spec.PageSize}, and the keys of {pages} pages take {bytes} bytes. Make the cache with fewer pages, or the configuration with a pageSize that is a multiple of {KvTensorMap.GroupTokens}."
            );
        }
    }
}
