using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>
/// Prefill over keys and values that are staged: prepared once, as tiles want to have them, where else each tile that walks them would have to. From a
/// paged cache both are staged, of ragged ones only the keys; by a kernel ahead of prefill, or where that is but copying by prefill's own stager.
/// </summary>
internal sealed class StagedPrefill : IDisposable
{
    /// <summary>What constructors take when the caller does not say.</summary>
    public const int DefaultTokens = 32_768;

    private readonly AttentionSpec _spec;
    private readonly StagedPrefillKernel _kernel;
    private readonly Device _device;
    private readonly StagingLimits _limits;
    private readonly bool[] _isStaged;
    private readonly long[] _order;
    private readonly PrefillPart _staged;
    private readonly PrefillPart _rest;
    private readonly int[] _starts;
    private readonly PrefillCore _core;
    private readonly UploadList<StageItem> _list;
    private DeviceMemory? _keys;
    private readonly DeviceMemory? _queue;
    private DeviceMemory? _values;
    private StagingChoice _choice;
    private bool _splits;

    // -1 before there is a list.
    private int _items = -1;
    private bool _overlaps;

    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration.</param>
    /// <param name="kernel">The two kernels.</param>
    /// <param name="prepares">What prefill does with sequences that are not staged, made with this one's kernel as borrower.</param>
    /// <param name="isPaged">Whether keys and values come from a paged cache, else they are ragged.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="maxQueryTokens">Query tokens of the largest batch.</param>
    /// <param name="maxTokens">Tokens that there is room for.</param>
    public StagedPrefill(
        Device device,
        AttentionSpec spec,
        StagedPrefillKernel kernel,
        PrefillCore prepares,
        bool isPaged,
        int maxSequences,
        int maxQueryTokens,
        int maxTokens
    )
    {
        _device = device;
        _spec = spec;
        _kernel = kernel;
        bool isOnTheWay = kernel.Prefill.HasStager;
        int leastWalks = PrefillStaging.LeastWalks(spec.Shape, isPaged, prepares.Kernel.IsHopper, isOnTheWay);
        _limits = new StagingLimits(isPaged, maxTokens, leastWalks, RestWaits: !isPaged || !spec.Shape.IsQuantised, isOnTheWay);
        _isStaged = new bool[maxSequences];
        _order = new long[maxSequences];
        _staged = new PrefillPart(maxSequences);
        _rest = new PrefillPart(maxSequences);
        _starts = new int[maxSequences];
        try
        {
            _core = new PrefillCore(
                device,
                spec,
                kernel.Prefill,
                cacheTokens: 0,
                maxSequences,
                maxQueryTokens,
                Determinism.Reproducible,
                prepares
            );
            _list = new UploadList<StageItem>(device.Backend, PrefillStaging.MaxItems(maxSequences, maxTokens));
            if (HasStager)
            {
                _queue = new DeviceMemory(device, QueueBytes);
                device.Backend.Fill(_queue.Address, 0, _queue.Bytes, null);
                device.Synchronize(); // as SplitWorkspace
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The list of the prefill kernel.</summary>
    public PlanList List => _core.List;

    /// <summary>Device memory of staged keys and values, which is taken when it is first needed, and of a stager's queue.</summary>
    public long Bytes => (_limits.IsPaged ? 2 * RowBytes : RowBytes) + (HasStager ? QueueBytes : 0);

    /// <summary>What of the rows is taken.</summary>
    public long TakenBytes => (_keys?.Bytes ?? 0) + (_values?.Bytes ?? 0);

    /// <summary>Whether prefill stages by itself: <see cref="Stage"/> is not to be called then.</summary>
    public bool HasStager => _limits.IsOnTheWay;

    /// <summary>Whether the last plan stages anything.</summary>
    public bool Stages => _choice.Tokens > 0;

    /// <summary>Of <see cref="PrefillParams.Queue"/> with a stager: a word for each 64 rows behind four others.</summary>
    private long QueueBytes => sizeof(uint) * (4L + (_limits.MaxTokens / PrefillStaging.ItemTokens) + 1);

    /// <summary>Bytes of all rows of keys.</summary>
    private long RowBytes => (long)_limits.MaxTokens * _spec.KvHeads * _spec.HeadDim * _spec.Dtype.Size();

    /// <summary>Plans what gains by it and sends the lists to the device.</summary>
    /// <param name="batch">The sequences; they start where their pages do, or where their ragged rows do.</param>
    /// <param name="scaleLog2">The factor of the logits.</param>
    /// <param name="stages">Whether to stage whatever has room, or nothing; null leaves it to the planner.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>The other sequences.</returns>
    public PrefillBatch Plan(PrefillBatch batch, float scaleLog2, bool? stages, CudaStream? stream)
    {
        _choice = PrefillStaging.Choose(batch, _core.Limits, _limits, stages, _isStaged, _order);
        _splits = Stages && _choice.Sequences < batch.Lengths.Length;
        if (_splits)
        {
            _staged.Take(batch, _isStaged, taken: true);
            _rest.Take(batch, _isStaged, taken: false);
        }

        if (Stages)
        {
            TakeRows();
            _items = PrefillStaging.List(Chosen(batch), _core.Limits, _limits.IsPaged, _starts, _list.Begin(), _order);
            _list.Commit(_items, stream, new ListHeader { FreshTokens = (int)_choice.Tokens });
            _core.Plan(Staged(batch), scaleLog2, stream);
            _overlaps = false;
        }
        else
        {
            Clear(stream);
        }

        return Others(batch);
    }

    /// <summary>Of what was planned, the sequences that are not staged.</summary>
    public PrefillBatch Others(PrefillBatch batch) =>
        _splits ? _rest.Of(batch)
        : Stages ? default
        : batch;

    /// <summary>What the last plan, one that stages, looks like; <paramref name="batch"/> as it was planned.</summary>
    public PlanInfo Info(in PrefillBatch batch, int sequences, int rows) =>
        _core.Info(Staged(batch), sequences, rows) with
        {
            StagedSequences = _choice.Sequences,
            StagedTokens = _choice.Tokens,
        };

    /// <summary>The arguments of prefill over what is staged, but for checks, a cache's scales, and ragged values.</summary>
    /// <param name="unstaged">Those of the core that prepares by itself, whose workspace it is, too.</param>
    public PrefillParams Arguments(in PrefillParams unstaged)
    {
        // A graph may be captured before any plan has staged.
        TakeRows();
        if (HasStager)
        {
            return unstaged with
            {
                Plan = List.Address,
                Variant = List.VariantAddress,
                Queue = _queue!.Address,
                StagedKey = _keys!.Address,
                StagedValue = _values!.Address,
                Staged = _list.Address,
            };
        }

        return unstaged with
        {
            Plan = List.Address,
            Variant = List.VariantAddress,
            Key = _keys!.Address,
            Value = _values?.Address ?? 0,
            KeyTokenStride = _spec.KvHeads * _spec.HeadDim,
            ValueTokenStride = _spec.KvHeads * _spec.HeadDim,
            KeyHeadStride = _spec.HeadDim,
            ValueHeadStride = _spec.HeadDim,
        };
    }

    /// <summary>Launches the kernel that stages, after <see cref="Arguments"/>.</summary>
    /// <param name="args">Where keys and values come from.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public bool Stage(ref StageParams args, CudaStream? stream)
    {
        args.StagedKey = _keys!.Address;
        args.StagedValue = _values?.Address ?? 0;
        args.Plan = _list.Address;
        args.Variant = List.VariantAddress;
        bool captured = _kernel.Stage(args, new ListLaunch(_items, _list.Capacity, 1, _overlaps), stream);
        _overlaps = true;
        return captured;
    }

    /// <summary>Launches prefill over what was staged.</summary>
    /// <param name="args">All arguments.</param>
    /// <param name="rows">Rows of query and output.</param>
    /// <param name="valueRows">Rows of ragged values; those of keys end where there is no more room for them.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public bool Run(ref PrefillParams args, int rows, int valueRows, CudaStream? stream) =>
        _core.Run(ref args, rows, _limits.IsPaged ? _limits.MaxTokens : Math.Min(valueRows, _limits.MaxTokens), stream);

    /// <summary>The place in the batch of the sequence that a row staged from pages belongs to; -1 for none's.</summary>
    /// <param name="row">The row.</param>
    /// <param name="batch">As it was planned.</param>
    public int PlaceAt(int row, in PrefillBatch batch)
    {
        PrefillBatch staged = Staged(batch);
        for (int i = 0; i < staged.Lengths.Length; i++)
        {
            if (row < staged.Starts[i] + staged.Lengths[i])
            {
                return staged.Place(i);
            }
        }

        return -1;
    }

    public void Dispose()
    {
        _queue?.Dispose();
        _values?.Dispose();
        _keys?.Dispose();
        _list?.Dispose();
        _core?.Dispose();
    }

    private void Clear(CudaStream? stream)
    {
        _core.Clear(stream);
        if (_items != 0)
        {
            _items = 0;
            _list.Commit(0, stream);
            _overlaps = false;
        }
    }

    /// <summary>The sequences that are staged.</summary>
    private PrefillBatch Chosen(PrefillBatch batch) => _splits ? _staged.Of(batch) : batch;

    /// <summary>The same, whose keys and values start in the rows of the workspace.</summary>
    private PrefillBatch Staged(PrefillBatch batch)
    {
        PrefillBatch chosen = Chosen(batch);
        return chosen.At(_starts.AsSpan(0, chosen.Lengths.Length));
    }

    /// <summary>Takes the memory of the rows when it is first needed: most wrappers of decode rows and short prompts never stage.</summary>
    private void TakeRows()
    {
        _keys ??= new DeviceMemory(_device, RowBytes);
        if (_limits.IsPaged)
        {
            _values ??= new DeviceMemory(_device, RowBytes);
        }
    }
}
