using System.Runtime.ExceptionServices;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer;

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

    /// <summary>Loads kernels of some kinds, those that the device has a use for.</summary>
    public void Load(KernelKinds kinds) => Load(KernelId.Of(kinds, _shape).Where(Serves));

    /// <summary>Loads several kernels at the same time.</summary>
    private void Load(IEnumerable<KernelId> kernels)
    {
        Task[] tasks = [.. kernels.Select(kernel => Task.Run(() => Load(kernel)))];
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

    /// <summary>
    /// Begins to load append and returns, so that it is compiled beside the kernels of the wrapper that is made next. Whoever needs it first
    /// waits for it. Throws where it can't be had, as far as that is known without a compile.
    /// </summary>
    public void BeginAppend()
    {
        if (LoadsInBackground)
        {
            // A failure is for who needs the kernel: that load tries again and throws it. Here it is looked at and dropped.
            Task.Run(LoadAppend).ContinueWith(static load => load.Exception, TaskScheduler.Default);
        }
        else
        {
            LoadAppend();
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

    /// <summary>Loads what a wrapper of decode needs for sequences of up to so many query tokens, but for the kernel with teams.</summary>
    public void LoadDecode(int queryTokens) => Load(KernelId.Decode(_shape, CudaUnits.QueryTokens[Place(queryTokens)]));

    /// <summary>Loads what a cascade needs, but for the kernel with teams.</summary>
    public void LoadCascade() =>
        Load([new(KernelFamily.PrefillPaged), .. KernelId.Decode(_shape, queryTokens: 1), new(KernelFamily.MergeStates)]);

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

    /// <summary>Whether loading may take long, and is not known to fail.</summary>
    protected abstract bool LoadsInBackground { get; }

    /// <summary>Whether the device has a use for a kernel.</summary>
    protected abstract bool Serves(KernelId kernel);

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
