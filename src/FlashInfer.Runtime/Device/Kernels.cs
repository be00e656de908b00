using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>How a kernel over an uploaded list is launched.</summary>
/// <param name="Items">Items in the list.</param>
/// <param name="Capacity">Items that it may have when a graph that this launch is recorded into is replayed.</param>
/// <param name="Cluster">Blocks of a cluster, which share each unit of work; 1 without clusters.</param>
/// <param name="Overlaps">
/// Whether the kernel may start while the one before it in the stream still runs: not the first time after the list or the page table
/// changed, since it reads both before it waits.
/// </param>
internal readonly record struct ListLaunch(int Items, int Capacity, int Cluster, bool Overlaps)
{
    /// <summary>Prefill and wide decode: rows of query and output.</summary>
    public int Rows { get; init; }

    /// <summary>Wide decode: the workspace's <see cref="SplitWorkspace.Queue"/>.</summary>
    public nint Queue { get; init; }

    /// <summary>Prefill over ragged keys and values: their rows.</summary>
    public int KeyRows { get; init; }
}

/// <summary>
/// The decode kernel of one configuration for sequences of up to so many query tokens. A list item expands to <see cref="UnitsPerItem"/>
/// units of work: KV heads times tiles of columns, where column j of a KV head is query token j / groupSize and head j % groupSize of the
/// group.
/// </summary>
internal abstract class DecodeKernel : IDisposable
{
    /// <summary>The kernel, for people to read.</summary>
    public abstract string Name { get; }

    /// <summary>Blocks that run at once.</summary>
    public abstract int Blocks { get; }

    /// <summary>Units of work that one list item expands to.</summary>
    public abstract int UnitsPerItem { get; }

    /// <summary>Columns that a unit serves at most.</summary>
    public abstract int ColumnsPerUnit { get; }

    /// <summary>Teams (warps) of a block, which take units of their own in the kernel made for that.</summary>
    public virtual int Teams => 1;

    /// <summary>Wide decode: sequences of up to so many tokens are left to the kernel with teams.</summary>
    public virtual int ShortTokens => 0;

    /// <summary>Parts of a sequence begin at multiples of it.</summary>
    public virtual int BlockTokens => DecodePlanner.TileTokens;

    /// <summary>The shortest part worth cutting a sequence into, in tokens; a multiple of <see cref="BlockTokens"/>.</summary>
    public abstract int MinChunk { get; }

    /// <summary>As <see cref="DecodePlanLimits.PartCost"/>.</summary>
    public virtual double PartCost => DecodePlanner.PartCost;

    /// <summary>As <see cref="DecodePlanLimits.MergeCost"/>.</summary>
    public virtual double MergeCost => 0;

    /// <summary>Clusters of this many blocks that run at once; 0 when the kernel can't share work so.</summary>
    public virtual int MaxClusters(int blocks) => 0;

    /// <summary>What the copy engine has to know of a cache, where it is used.</summary>
    public virtual TensorMap EncodeKvMap(PagedKvCache cache) => default;

    /// <summary>Queues the work and returns; arguments have been checked.</summary>
    /// <param name="args">Arguments; the list's header holds the count.</param>
    /// <param name="launch">The list and how it may be launched.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public abstract bool Run(in DecodeParams args, in ListLaunch launch, CudaStream? stream);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>
/// The prefill kernel of one configuration, over its paged cache or over ragged keys and values. It takes items of up to
/// <see cref="TileTokens"/> query tokens; an item expands to as many head tiles as the list's header says, where a head tile is
/// <see cref="Pack"/> neighbouring query heads of one KV head.
/// </summary>
internal abstract class PrefillKernel : IDisposable
{
    /// <summary>The kernel, for people to read.</summary>
    public abstract string Name { get; }

    /// <summary>Blocks that run at once.</summary>
    public abstract int Blocks { get; }

    /// <summary>Query heads that share a tile.</summary>
    public abstract int Pack { get; }

    /// <summary>Head tiles of all query heads.</summary>
    public abstract int HeadTiles { get; }

    /// <summary>Query tokens of an item at most.</summary>
    public abstract int TileTokens { get; }

    /// <summary>Rows of a tile: what a partial state has room for.</summary>
    public abstract int TileRows { get; }

    /// <summary>Tokens of keys and values that a step takes: items begin at multiples of it.</summary>
    public abstract int BlockTokens { get; }

    /// <summary>Whether it is Hopper's own, made of warpgroup products and the copy engine.</summary>
    public virtual bool IsHopper => false;

    /// <summary>Whether it stages the rows that it attends to (prefill_stager.cuh), where else another kernel does so ahead of it.</summary>
    public virtual bool HasStager => false;

    /// <summary>What the copy engine has to know of a cache, where it is used.</summary>
    public virtual TensorMap EncodeKvMap(PagedKvCache cache) => default;

    /// <summary>Queues the work and returns; arguments have been checked, and all but the tensor maps are set, of which only those of a cache are.</summary>
    /// <param name="args">Arguments; the list's header holds count and heads.</param>
    /// <param name="launch">The list and how it may be launched; its items are units here, head tiles included.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public abstract bool Run(ref PrefillParams args, in ListLaunch launch, CudaStream? stream);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>
/// Prefill over keys and values that were staged: prepared once for all tiles, as ragged rows of the query's type whose keys have turned.
/// Two kernels, one behind the other; or one that has a stager.
/// </summary>
/// <param name="prefill">What attends to the rows as ragged prefill does, but that only queries turn, and scales of the cache count.</param>
internal abstract class StagedPrefillKernel(PrefillKernel prefill) : IDisposable
{
    /// <summary>What a wrapper stages with, or null when it does not; gets its kernels ready.</summary>
    /// <param name="kernels">The configuration's kernels.</param>
    /// <param name="kinds">What the wrapper needs.</param>
    /// <param name="determinism">Batch-invariant plans do not stage: which of two kernels a sequence gets would depend on the others.</param>
    /// <param name="maxTokens">Tokens to be staged at most; 0 for none.</param>
    /// <param name="given">What a test has in place of the device's own.</param>
    public static StagedPrefillKernel? Choose(
        AttentionKernels kernels,
        KernelKinds kinds,
        Determinism determinism,
        int maxTokens,
        StagedPrefillKernel? given
    )
    {
        if (maxTokens == 0 || determinism == Determinism.BatchInvariant)
        {
            return null;
        }

        kernels.Load(kinds);
        return given ?? kernels.StagedPrefill(kinds.HasFlag(KernelKinds.PrefillPaged));
    }

    /// <summary>What attends to the staged rows.</summary>
    public PrefillKernel Prefill => prefill;

    /// <summary>Queues the staging and returns, as <see cref="DecodeKernel.Run"/>; not where <see cref="Prefill"/> has a stager.</summary>
    public abstract bool Stage(in StageParams args, in ListLaunch launch, CudaStream? stream);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>Merges states of attention of one element type, whatever their heads and head dimension.</summary>
internal abstract class MergeKernel : IDisposable
{
    /// <summary>Queues the work and returns; arguments have been checked.</summary>
    public abstract void Run(in MergeStatesParams args, CudaStream? stream);

    /// <inheritdoc/>
    public abstract void Dispose();
}
