using System.Globalization;
using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch decode: one query token for each sequence, over its pages. <c>Plan</c> once a step, for all layers; then for each layer
/// <c>Append</c> (when the step brings new tokens) and <c>Run</c>. Generated configurations derive a typed wrapper from it.
/// </summary>
/// <remarks>
/// <para>
/// The query sits at the sequence's last token: it sees all tokens, those of an open forward included. A wrapper belongs to one caller at
/// a time. <c>Append</c> and <c>Run</c> can be captured in a CUDA graph; a replay after a new <c>Plan</c> reads the new plan.
/// </para>
/// <para>
/// Keys and values come into the cache in one of two ways. The wrapper's <c>Append</c> is the one for a step: <c>BeginForward</c>,
/// <c>Plan</c>, then <c>Append</c> and <c>Run</c> for each layer, then <c>EndForward</c>. It writes the tokens of the planned sequences'
/// open forwards in the plan's order, sends nothing to the device but the launch, and can be captured. The cache's <c>Append</c> needs no
/// plan and names its sequences: use it for tokens that no query of this wrapper asks about, such as a prompt whose keys and values are
/// there already, or for a part of the batch.
/// </para>
/// </remarks>
public class BatchDecodeWithPagedKvCache : IDisposable
{
    private const float Log2E = 1.44269504f;

    private readonly UseGuard _guard = new(nameof(BatchDecodeWithPagedKvCache));
    private readonly DecodeKernel _kernel;
    private readonly AppendList _appends;
    private readonly UploadList<DecodeItem> _list;
    private readonly DeviceMemory _partialOutput;
    private readonly DeviceMemory _partialState;
    private readonly DeviceMemory _counters;
    private readonly TensorMap _kvMap;
    private readonly Sequence[] _sequences;
    private readonly int[] _revisions;
    private readonly int[] _lengths;
    private readonly int[] _pageOffsets;
    private DecodePlanLimits _limits;
    private DecodePlan _plan;
    private int _rows = -1;
    private bool _overlaps;
    private int _cacheRevision;
    private int _cacheCommits;
    private bool _disposed;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    public BatchDecodeWithPagedKvCache(PagedKvCache cache, int maxSequences = 1024)
    {
        ArgumentNullException.ThrowIfNull(cache);
        cache.ThrowIfDisposed();
        ArgumentOutOfRangeException.ThrowIfLessThan(maxSequences, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxSequences, 65_536);
        Cache = cache;
        MaxSequences = maxSequences;
        _kernel = cache.Kernels.Decode(queryTokens: 1);
        int slots = DecodePlanner.SlotsFor(_kernel.Blocks, _kernel.UnitsPerItem);
        _limits = new DecodePlanLimits(_kernel.Blocks, _kernel.UnitsPerItem, _kernel.MinChunk, slots)
        {
            ClustersOf8 = _kernel.MaxClusters(8),
            ClustersOf2 = _kernel.MaxClusters(2),
        };
        _kvMap = _kernel.EncodeKvMap(cache);
        _appends = new AppendList(cache.Device);
        _list = new UploadList<DecodeItem>(cache.Device.Backend, DecodePlanner.MaxItems(maxSequences, _limits));
        long units = (long)slots * _kernel.UnitsPerItem;
        long columns = units * _kernel.ColumnsPerUnit;
        _partialOutput = new DeviceMemory(cache.Device, columns * cache.Spec.HeadDim * sizeof(float));
        _partialState = new DeviceMemory(cache.Device, columns * 2 * sizeof(float));
        _counters = new DeviceMemory(cache.Device, units * sizeof(uint));
        cache.Device.Backend.Fill(_counters.Address, 0, _counters.Bytes, null);
        // The first launch may go to any stream, which knows nothing of the fill on the device's own.
        cache.Device.Synchronize();
        _sequences = new Sequence[maxSequences];
        _revisions = new int[maxSequences];
        _lengths = new int[maxSequences];
        _pageOffsets = new int[maxSequences];
    }

    /// <summary>The cache that holds the sequences.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>Sequences of the largest batch.</summary>
    public int MaxSequences { get; }

    /// <summary>Device memory of the wrapper's workspace, known before any plan and never exceeded by one.</summary>
    public long WorkspaceBytes => _partialOutput.Bytes + _partialState.Bytes + _counters.Bytes;

    /// <summary>What the last plan looks like.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public PlanInfo PlanInfo
    {
        get
        {
            RequirePlan();
            // Planned once more, aside: the items themselves have gone to the device.
            DecodeItem[] items = new DecodeItem[DecodePlanner.MaxItems(_rows, _limits)];
            DecodePlan again = DecodePlanner.Plan(_lengths.AsSpan(0, _rows), _pageOffsets.AsSpan(0, _rows), _limits, items);
            long units = (long)_plan.Items * _limits.UnitsPerItem;
            return new PlanInfo(
                _kernel.Name,
                _rows,
                _plan.TotalTokens,
                _plan.Items,
                units,
                (int)Math.Min(units * _plan.Cluster, _limits.Blocks),
                _plan.Cluster,
                _plan.ChunkTokens,
                _plan.SplitSequences,
                DecodePlanner.Imbalance(items.AsSpan(0, again.Items), again, _limits)
            );
        }
    }

    /// <summary>Plans a step: from here on <c>Append</c> and <c>Run</c> mean these sequences as they are now, in this order.</summary>
    /// <param name="sequences">Sequences of the cache; empty ones give output 0 and LSE -infinity. One without an open forward may stand in the batch more than once.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax; 1 / sqrt(headDim) when null.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(ReadOnlySpan<Sequence> sequences, float? smScale = null, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        using UseGuard.Use cacheUse = Cache.Enter();
        Cache.Device.CheckStream(stream);
        int forwardTokens = CheckSequences(sequences);
        float scale = smScale ?? (1f / MathF.Sqrt(Cache.Spec.HeadDim));
        if (!float.IsFinite(scale))
        {
            throw new ArgumentOutOfRangeException(nameof(smScale), scale, "smScale must be a finite number, such as 1 / sqrt(headDim).");
        }

        // From here on nothing can be wrong with the input. A failure of the device leaves the wrapper without a plan.
        _rows = -1;
        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            _sequences[i] = sequence;
            _revisions[i] = sequence.Revision;
            _lengths[i] = sequence.KvLength;
            _pageOffsets[i] = sequence.PageOffset;
        }

        Span<DecodeItem> items = _list.Begin();
        _plan = DecodePlanner.Plan(_lengths.AsSpan(0, sequences.Length), _pageOffsets.AsSpan(0, sequences.Length), _limits, items);
        _list.Commit(_plan.Items, stream, scale * Log2E);
        _overlaps = false;
        _appends.Fill(sequences, forwardTokens, stream);
        Cache.Table.Flush(Cache.Kernels, stream);
        _cacheRevision = Cache.Revision;
        _cacheCommits = Cache.Commits;
        _rows = sequences.Length;
    }

    /// <summary>
    /// Writes the keys and values of the planned sequences' open forwards into one layer; the cache's own <c>Append</c> does it without a
    /// plan, for sequences that it is given.
    /// </summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="key">[tokens, kvHeads, headDim]: the new tokens of the first planned sequence, then of the second, ...</param>
    /// <param name="value">As <paramref name="key"/>.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">None of the planned sequences has a forward open, or one was ended since.</exception>
    /// <exception cref="StalePlanException">There is no plan, or its sequences changed.</exception>
    public void Append(int layer, TensorView key, TensorView value, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        Cache.CheckLayer(layer);
        RequireFreshPlan();
        if (_appends.Tokens == 0)
        {
            throw new InvalidOperationException(
                "None of the planned sequences had a forward open; call BeginForward before Plan to append."
            );
        }

        RequireOpenForwards();
        AppendParams args = Cache.AppendArguments(layer, _appends.Tokens, key, value, stream);
        _appends.Run(args, Cache.Kernels, stream);
    }

    /// <summary>Attends with one query token for each planned sequence.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="query">[sequences, heads, headDim], in the order of the plan.</param>
    /// <param name="output">[sequences, heads, headDim]; every element is written.</param>
    /// <param name="lse">float [sequences, heads], contiguous: receives the base-2 LSE; none when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="StalePlanException">There is no plan, or its sequences changed.</exception>
    public void Run(int layer, TensorView query, TensorView output, TensorView lse = default, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        Cache.CheckLayer(layer);
        RequireFreshPlan();
        Cache.Device.CheckStream(stream);
        AttentionSpec spec = Cache.Spec;
        KernelTensor.Check(query, nameof(query), Cache, spec.Dtype, _rows, spec.Heads);
        KernelTensor.Check(output, nameof(output), Cache, spec.Dtype, _rows, spec.Heads);
        KernelTensor.CheckWritten(output, nameof(output));
        if (!lse.IsEmpty)
        {
            CheckLse(lse);
        }

        DecodeParams args = new()
        {
            Query = query.Address,
            Key = Cache.KeyAddress(layer),
            Value = Cache.ValueAddress(layer),
            Output = output.Address,
            Lse = lse.IsEmpty ? 0 : lse.Address,
            Pages = Cache.Table.Address,
            Plan = _list.Address,
            PartialOutput = _partialOutput.Address,
            PartialState = _partialState.Address,
            Counters = _counters.Address,
            QueryRowStride = query.Stride(0),
            QueryHeadStride = query.Stride(1),
            OutputRowStride = output.Stride(0),
            OutputHeadStride = output.Stride(1),
            PageStride = Cache.PageElements,
            TokenStride = Cache.TokenElements,
            HeadStride = Cache.HeadElements,
            KeyPage = 2L * layer * Cache.TotalPages,
            ValuePage = ((2L * layer) + 1) * Cache.TotalPages,
            KvMap = _kvMap,
        };
        bool capturing = Cache.Device.Backend.IsCapturing(stream);
        if (capturing)
        {
            // The graph keeps the cluster size of its launches: every later plan has to be made for it.
            _limits = _limits with
            {
                Cluster = _plan.Cluster,
            };
        }

        _kernel.Run(args, new ListLaunch(capturing ? _list.Capacity : _plan.Items, _plan.Cluster, _overlaps), stream);
        _overlaps = true;
    }

    /// <summary>The plan in words: kernel, work items, chunk, imbalance.</summary>
    public string Explain() => _rows < 0 ? "no plan" : PlanInfo.ToString();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the workspace.</summary>
    /// <param name="disposing">Whether <see cref="Dispose()"/> was called.</param>
    protected virtual void Dispose(bool disposing)
    {
        if (_disposed || !disposing)
        {
            return;
        }

        _disposed = true;
        _appends.Dispose();
        _list.Dispose();
        _partialOutput.Dispose();
        _partialState.Dispose();
        _counters.Dispose();
    }

    private UseGuard.Use Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Cache.ThrowIfDisposed();
        return _guard.Enter();
    }

    private int CheckSequences(ReadOnlySpan<Sequence> sequences)
    {
        if (sequences.Length == 0 || sequences.Length > MaxSequences)
        {
            throw new ArgumentException(
                $"{sequences.Length} sequences were given; expected 1 to {MaxSequences}. The wrapper's constructor takes a larger maxSequences.",
                nameof(sequences)
            );
        }

        return Cache.CheckPlanned(sequences);
    }

    private void CheckLse(TensorView lse)
    {
        lse.Expect(nameof(lse), DType.Float32, _rows, Cache.Spec.Heads);
        if (lse.Device != Cache.Device)
        {
            throw new ArgumentException(
                $"lse lies on {lse.Device}, the cache on {Cache.Device}; allocate it on the cache's device.",
                nameof(lse)
            );
        }

        if (!lse.IsContiguous)
        {
            throw new ArgumentException($"lse has gaps between its elements; expected a contiguous {lse.Shape}.", nameof(lse));
        }
    }

    private void RequirePlan()
    {
        if (_rows < 0)
        {
            throw new StalePlanException("There is no plan; call Plan with the step's sequences first.");
        }
    }

    /// <summary>A fresh plan may have been made before EndForward: committed tokens are read but no longer written.</summary>
    private void RequireOpenForwards()
    {
        if (_cacheCommits == Cache.Commits)
        {
            return;
        }

        int open = 0;
        for (int i = 0; i < _rows; i++)
        {
            open += _sequences[i].ForwardTokens;
        }

        if (open != _appends.Tokens)
        {
            throw new InvalidOperationException(
                $"The plan has {_appends.Tokens} new tokens but forwards with {_appends.Tokens - open} of them were ended since; append every layer before EndForward."
            );
        }

        _cacheCommits = Cache.Commits;
    }

    private void RequireFreshPlan()
    {
        RequirePlan();
        if (_cacheRevision == Cache.Revision)
        {
            return;
        }

        for (int i = 0; i < _rows; i++)
        {
            if (_sequences[i].Revision != _revisions[i])
            {
                throw new StalePlanException(
                    $"The plan is stale: {_sequences[i]} has begun or abandoned a forward, or was freed, since it was planned. Call Plan again."
                );
            }
        }

        // Other sequences changed, none of ours: the look at each need not be repeated.
        _cacheRevision = Cache.Revision;
    }
}

/// <summary>What a plan looks like.</summary>
/// <param name="Kernel">The kernel that runs.</param>
/// <param name="Sequences">Sequences of the batch.</param>
/// <param name="Tokens">Tokens of all sequences.</param>
/// <param name="Items">Chunks that the sequences were cut into.</param>
/// <param name="Units">Pieces of work on the device: items times KV heads times group tiles.</param>
/// <param name="Blocks">Blocks that share them.</param>
/// <param name="Cluster">Blocks that take each unit together; 1 when every block works alone.</param>
/// <param name="ChunkTokens">No item is longer than this.</param>
/// <param name="SplitSequences">Sequences cut into more than one item, whose parts are merged.</param>
/// <param name="Imbalance">Tokens of the busiest block over the mean, 1 at best.</param>
public readonly record struct PlanInfo(
    string Kernel,
    int Sequences,
    long Tokens,
    int Items,
    long Units,
    int Blocks,
    int Cluster,
    int ChunkTokens,
    int SplitSequences,
    double Imbalance
)
{
    /// <summary>The plan in words.</summary>
    public override string ToString()
    {
        string split = SplitSequences == 0 ? "none" : Count(SplitSequences, "sequence");
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{Kernel}: {Count(Sequences, "sequence")} with {Count(Tokens, "token")} in {Count(Items, "item")} of up to {Count(ChunkTokens, "token")} ({split} split), {Count(Units, "unit")} on {Count(Blocks, "block")}{(Cluster > 1 ? $" in clusters of {Cluster}" : "")}, busiest block at {Imbalance:F2} of the mean"
        );
    }

    private static string Count(long number, string what) =>
        string.Create(CultureInfo.InvariantCulture, $"{number} {what}{(number == 1 ? "" : "s")}");
}
