using System.Runtime.ExceptionServices;
using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Where memory lives and kernels run: one implementation for CUDA, one for the CPU. Everything above it (cache, planner, wrappers) is
/// written once. An address is a device pointer on CUDA and a native pointer on the CPU. A null stream means the device's own.
/// </summary>
internal abstract class Backend : IDisposable
{
    private readonly KernelSlot<MergeKernel> _mergeHalf;
    private readonly KernelSlot<MergeKernel> _mergeBFloat16;
    private readonly KernelSlot<MergeKernel> _mergeSingle;

    protected Backend()
    {
        _mergeHalf = new(() => LoadMergeKernel(DType.Float16));
        _mergeBFloat16 = new(() => LoadMergeKernel(DType.BFloat16));
        _mergeSingle = new(() => LoadMergeKernel(DType.Float32));
    }

    /// <summary>Whether the device is in checked mode.</summary>
    public bool IsChecked { get; init; }

    /// <summary>Allocates memory aligned to 256 bytes, contents undefined.</summary>
    public abstract nint Allocate(long bytes);

    /// <summary>Frees what <see cref="Allocate"/> gave, once the work queued on the device's own stream is done.</summary>
    public abstract void Free(nint address);

    /// <summary>Gives the memory back to the system that was freed and is kept for what is allocated next.</summary>
    public virtual void TrimMemory() { }

    /// <summary>Bytes that are allocated, and bytes kept for what is allocated next; null where none are kept, after disposal, and when the device has failed.</summary>
    public virtual (long Used, long Kept)? Memory => null;

    /// <summary>Copies host memory to the device in stream order. The source may be reused on return.</summary>
    public abstract void CopyIn(nint destination, ReadOnlySpan<byte> source, CudaStream? stream);

    /// <summary>Copies device memory to the host in stream order and waits for it.</summary>
    public abstract void CopyOut(Span<byte> destination, nint source, CudaStream? stream);

    /// <summary>Copies inside the device in stream order.</summary>
    public abstract void Copy(nint destination, nint source, long bytes, CudaStream? stream);

    /// <summary>Sets every byte in stream order.</summary>
    public abstract void Fill(nint destination, byte value, long bytes, CudaStream? stream);

    /// <summary>Waits for everything queued on the device.</summary>
    public abstract void Synchronize();

    /// <summary>Whether work queued on the stream now is recorded into a graph instead of run.</summary>
    public virtual bool IsCapturing(CudaStream? stream) => false;

    /// <summary>Has the graph that is captured from the stream do a check at each launch.</summary>
    public virtual void CheckReplays(IReplayCheck check, CudaStream? stream) { }

    /// <summary>Finds misuse of streams, for one cache of a checked device; null where there are none.</summary>
    public virtual StreamCheck? CreateStreamCheck() => null;

    /// <summary>Makes a list that the host writes and kernels read.</summary>
    public abstract UploadBuffer CreateUploadBuffer(int capacityBytes);

    /// <summary>Compiles or loads the kernels of a configuration. Called once per configuration and device.</summary>
    public abstract AttentionKernels LoadKernels(AttentionSpec spec);

    /// <summary>The kernel that merges states of attention, loaded when it is first asked for.</summary>
    /// <param name="dtype">Of the states' outputs: <see cref="DType.Float16"/>, <see cref="DType.BFloat16"/> or <see cref="DType.Float32"/>.</param>
    public MergeKernel MergeStates(DType dtype) =>
        dtype switch
        {
            DType.Float16 => _mergeHalf.Get(),
            DType.BFloat16 => _mergeBFloat16.Get(),
            _ => _mergeSingle.Get(),
        };

    /// <inheritdoc/>
    public virtual void Dispose()
    {
        _mergeHalf.Dispose();
        _mergeBFloat16.Dispose();
        _mergeSingle.Dispose();
    }

    /// <summary>Compiles or loads the kernel that merges states of attention of an element type.</summary>
    protected abstract MergeKernel LoadMergeKernel(DType dtype);
}

/// <summary>
/// Device memory at a fixed address that the host refills step by step. On CUDA the host writes into a ring of pinned slots, each guarded
/// by an event, so that a slot is never overwritten while its copy is in flight; on the CPU it writes the memory itself.
/// </summary>
internal abstract class UploadBuffer : IDisposable
{
    /// <summary>The fixed device address.</summary>
    public abstract nint Address { get; }

    /// <summary>Bytes at <see cref="Address"/>.</summary>
    public abstract int Capacity { get; }

    /// <summary>Host memory to write, <see cref="Capacity"/> bytes, contents undefined; the same memory until the next <see cref="Commit"/>. Waits only when every slot is in flight.</summary>
    public abstract Span<byte> Begin();

    /// <summary>Makes the first bytes visible at <see cref="Address"/> to everything queued on the stream from now on.</summary>
    public abstract void Commit(int bytes, CudaStream? stream);

    /// <inheritdoc/>
    public abstract void Dispose();
}

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
/// Two kernels, one behind the other.
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

    /// <summary>Queues the staging and returns, as <see cref="DecodeKernel.Run"/>.</summary>
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

/// <summary>
/// The kernels of one configuration on one device, each loaded when it is first asked for, and kept. Calls queue work and return; arguments
/// have been checked.
/// </summary>
internal abstract class AttentionKernels : IDisposable
{
    private readonly AttentionShape _shape;
    private readonly KernelSlot<DecodeKernel>[,] _decode = new KernelSlot<DecodeKernel>[CudaUnits.QueryTokens.Count, 2];
    private readonly KernelSlot<PrefillKernel> _prefillPaged;
    private readonly KernelSlot<PrefillKernel> _prefillRagged;

    protected AttentionKernels(AttentionSpec spec)
    {
        _shape = spec.Shape;
        for (int at = 0; at < CudaUnits.QueryTokens.Count; at++)
        {
            int queryTokens = CudaUnits.QueryTokens[at];
            _decode[at, 0] = new(() => LoadDecode(queryTokens, teamUnits: false));
            _decode[at, 1] = new(() => LoadDecode(queryTokens, teamUnits: true));
        }

        _prefillPaged = new(() => LoadPrefill(isPaged: true));
        _prefillRagged = new(() => LoadPrefill(isPaged: false));
    }

    /// <summary>Loads several kernels at the same time.</summary>
    public void Load(KernelKinds kinds)
    {
        Task[] tasks = [.. KernelId.Of(kinds, _shape).Select(kernel => Task.Run(() => Load(kernel)))];
        try
        {
            Task.WaitAll(tasks);
        }
        catch (AggregateException e)
        {
            // All failed for the same reason, most likely: one exception tells it.
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }
    }

    private void Load(KernelId kernel)
    {
        switch (kernel.Family)
        {
            case KernelFamily.Append:
                LoadAppend();
                break;
            case KernelFamily.Decode:
                Decode(kernel.QueryTokens, kernel.TeamUnits);
                break;
            case KernelFamily.WideDecode:
                WideDecode(kernel.QueryTokens);
                break;
            case KernelFamily.MergeStates:
                LoadMergeStates();
                break;
            case KernelFamily.DecodeRagged:
                RaggedDecode();
                break;
            case KernelFamily.PrefillPagedStaged:
            case KernelFamily.PrefillRaggedStaged:
                StagedPrefill(kernel.Family == KernelFamily.PrefillPagedStaged);
                break;
            default:
                Prefill(kernel.Family == KernelFamily.PrefillPaged);
                break;
        }
    }

    /// <summary>The prefill kernel.</summary>
    /// <param name="isPaged">Over the paged cache, else over ragged keys and values.</param>
    public PrefillKernel Prefill(bool isPaged) => (isPaged ? _prefillPaged : _prefillRagged).Get();

    /// <summary>Prefill over staged keys and values, or null where the device gains nothing by it.</summary>
    /// <param name="isPaged">Whether they come from the paged cache, else from ragged ones, whose values are taken as they are.</param>
    public virtual StagedPrefillKernel? StagedPrefill(bool isPaged) => null;

    /// <summary>The decode kernel for sequences of up to so many query tokens.</summary>
    /// <param name="queryTokens">1 to 8; kernels exist for a few numbers, of which the smallest that is enough is taken.</param>
    /// <param name="teamUnits">Whether each team (a warp) takes units of its own, for short sequences, instead of a block's warps sharing one.</param>
    public DecodeKernel Decode(int queryTokens, bool teamUnits = false) => _decode[Place(queryTokens), teamUnits ? 1 : 0].Get();

    /// <summary>The decode kernel for many columns, or null where the configuration's own has room for all.</summary>
    /// <param name="queryTokens">As of <see cref="Decode"/>.</param>
    public virtual DecodeKernel? WideDecode(int queryTokens) => null;

    /// <summary>The decode kernel for one query token over ragged keys and values, or null where prefill's does as well.</summary>
    public virtual DecodeKernel? RaggedDecode() => null;

    /// <summary>Writes new keys and values into pages; as <see cref="DecodeKernel.Run"/>.</summary>
    public abstract bool Append(in AppendParams args, in ListLaunch launch, CudaStream? stream);

    /// <summary>Writes changed page ids into the page table.</summary>
    public abstract void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream);

    /// <inheritdoc/>
    public virtual void Dispose()
    {
        foreach (KernelSlot<DecodeKernel> slot in _decode)
        {
            slot.Dispose();
        }

        _prefillPaged.Dispose();
        _prefillRagged.Dispose();
    }

    /// <summary>Loads what <see cref="Append"/> and <see cref="UpdatePageTable"/> run.</summary>
    protected abstract void LoadAppend();

    /// <summary>Loads the device's kernel that merges states of this configuration.</summary>
    protected abstract void LoadMergeStates();

    /// <summary>Loads the decode kernel for up to this many query tokens, one of <see cref="CudaUnits.QueryTokens"/>.</summary>
    protected abstract DecodeKernel LoadDecode(int queryTokens, bool teamUnits);

    /// <summary>Loads a prefill kernel.</summary>
    protected abstract PrefillKernel LoadPrefill(bool isPaged);

    /// <summary>The place in <see cref="CudaUnits.QueryTokens"/> of the smallest number that is enough.</summary>
    protected static int Place(int queryTokens)
    {
        int at = 0;
        while (CudaUnits.QueryTokens[at] < queryTokens)
        {
            at++;
        }

        return at;
    }
}

/// <summary>A kernel that is loaded when it is first asked for. A load that failed is tried again: the cause (no NVRTC, say) may be gone by then.</summary>
internal sealed class KernelSlot<T>(Func<T> load) : IDisposable
    where T : class, IDisposable
{
    private readonly Lock _lock = new();
    private T? _kernel;
    private bool _disposed;

    /// <summary>The kernel; loads it if nobody has.</summary>
    public T Get() => Volatile.Read(ref _kernel) ?? Load();

    public void Dispose()
    {
        lock (_lock)
        {
            _disposed = true;
            _kernel?.Dispose();
            _kernel = null;
        }
    }

    private T Load()
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return _kernel ??= load();
        }
    }
}
