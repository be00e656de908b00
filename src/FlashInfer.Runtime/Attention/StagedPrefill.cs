using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>
/// Prefill over keys and values that are staged first: a kernel prepares them once, as the other one wants to have them, where else each tile
/// that walks them would have to. From a paged cache both are staged, of ragged ones only the keys.
/// </summary>
internal sealed class StagedPrefill : IDisposable
{
    /// <summary>What constructors take when the caller does not say.</summary>
    public const int DefaultTokens = 32_768;

    private readonly AttentionSpec _spec;
    private readonly StagedPrefillKernel _kernel;
    private readonly bool _isPaged;
    private readonly int _maxTokens;
    private readonly int _leastWalks;
    private readonly int[] _starts;
    private readonly PrefillCore _core;
    private readonly UploadList<StageItem> _list;
    private readonly DeviceMemory _keys;
    private readonly DeviceMemory? _values;

    // -1 before there is a list.
    private int _items = -1;
    private bool _overlaps;

    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration.</param>
    /// <param name="kernel">The two kernels.</param>
    /// <param name="prepares">What prefill does with plans that stage nothing, made with this one's kernel as borrower.</param>
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
        _spec = spec;
        _kernel = kernel;
        _isPaged = isPaged;
        _maxTokens = maxTokens;
        _leastWalks = PrefillStaging.LeastWalks(spec.Shape, isPaged, prepares.Kernel.IsHopper);
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
            _keys = new DeviceMemory(device, (long)maxTokens * spec.KvHeads * spec.HeadDim * spec.Dtype.Size());
            _values = isPaged ? new DeviceMemory(device, _keys.Bytes) : null;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The list of the prefill kernel.</summary>
    public PlanList List => _core.List;

    /// <summary>Device memory of staged keys and values.</summary>
    public long Bytes => _keys.Bytes + (_values?.Bytes ?? 0);

    /// <summary>Tokens that the last plan stages; 0 when it stages nothing.</summary>
    public int Tokens { get; private set; }

    /// <summary>Plans the step and sends all lists to the device: stages if all that is to be staged has room and that pays.</summary>
    /// <param name="staged">What stages, if anything does.</param>
    /// <param name="prepares">What prefill does where nothing is staged.</param>
    /// <param name="batch">The sequences; they start where their pages do, or where their ragged rows do.</param>
    /// <param name="sequences">The same, as a variant of attention knows them.</param>
    /// <param name="scaleLog2">The factor of the logits.</param>
    /// <param name="stages">Whether to stage whatever has room, or nothing; null leaves it to the planner.</param>
    /// <param name="stream">The stream.</param>
    public static void Plan(
        StagedPrefill? staged,
        PrefillCore prepares,
        in PrefillBatch batch,
        in PlannedSequences sequences,
        float scaleLog2,
        bool? stages,
        CudaStream? stream
    )
    {
        if (staged?.TryPlan(batch, sequences, scaleLog2, stages, stream) == true)
        {
            prepares.Clear(stream);
        }
        else
        {
            prepares.Plan(batch, sequences, scaleLog2, stream);
        }
    }

    /// <summary>What the last plan looks like; <paramref name="batch"/> as it was planned.</summary>
    public static PlanInfo Info(StagedPrefill? staged, PrefillCore prepares, in PrefillBatch batch, int sequences, int rows) =>
        staged is { Tokens: > 0 }
            ? staged._core.Info(staged.Staged(batch), sequences, rows) with
            {
                StagedTokens = staged.Tokens,
            }
            : prepares.Info(batch, sequences, rows);

    /// <summary>The arguments of prefill over what is staged, but for checks, a cache's scales, and ragged values.</summary>
    /// <param name="unstaged">Those of the core that prepares by itself, whose workspace it is, too.</param>
    public PrefillParams Arguments(in PrefillParams unstaged) =>
        unstaged with
        {
            Plan = List.Address,
            Variant = List.VariantAddress,
            Key = _keys.Address,
            Value = _values?.Address ?? 0,
            KeyTokenStride = _spec.KvHeads * _spec.HeadDim,
            ValueTokenStride = _spec.KvHeads * _spec.HeadDim,
            KeyHeadStride = _spec.HeadDim,
            ValueHeadStride = _spec.HeadDim,
        };

    /// <summary>Launches the kernel that stages.</summary>
    /// <param name="args">Where keys and values come from.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>Whether the launch was recorded into a graph instead of run.</returns>
    public bool Stage(ref StageParams args, CudaStream? stream)
    {
        args.StagedKey = _keys.Address;
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
    /// <param name="valueRows">Rows of ragged values.</param>
    /// <param name="stream">The stream.</param>
    public void Run(ref PrefillParams args, int rows, int valueRows, CudaStream? stream) =>
        _core.Run(ref args, rows, _isPaged ? _maxTokens : valueRows, stream);

    /// <summary>Of sequences of so many tokens, the one that a row staged from pages belongs to; -1 for none.</summary>
    public int IndexAt(int row, ReadOnlySpan<int> lengths)
    {
        for (int i = 0; i < lengths.Length; i++)
        {
            if (row < _starts[i] + lengths[i])
            {
                return i;
            }
        }

        return -1;
    }

    public void Dispose()
    {
        _values?.Dispose();
        _keys?.Dispose();
        _list?.Dispose();
        _core?.Dispose();
    }

    /// <summary>Plans the step, or sends empty lists.</summary>
    /// <returns>Whether the step is planned.</returns>
    private bool TryPlan(in PrefillBatch batch, in PlannedSequences sequences, float scaleLog2, bool? stages, CudaStream? stream)
    {
        long tokens = PrefillStaging.Tokens(batch, _core.Limits);
        long rows =
            _isPaged ? tokens
            : batch.Starts.IsEmpty ? 0
            : (long)batch.Starts[^1] + batch.Lengths[^1];
        bool fits = tokens > 0 && rows <= _maxTokens;
        if (!fits || !(stages ?? PrefillStaging.Pays(batch, _core.Limits, tokens, _leastWalks)))
        {
            Clear(stream);
            return false;
        }

        _items = PrefillStaging.List(batch, _core.Limits, _isPaged, _starts, _list.Begin());
        _list.Commit(_items, stream);
        _core.Plan(Staged(batch), sequences, scaleLog2, stream);
        Tokens = (int)tokens;
        _overlaps = false;
        return true;
    }

    private PrefillBatch Staged(in PrefillBatch batch) => batch.At(_starts.AsSpan(0, batch.Lengths.Length));

    private void Clear(CudaStream? stream)
    {
        _core.Clear(stream);
        if (_items != 0)
        {
            _items = 0;
            _list.Commit(0, stream);
            _overlaps = false;
        }

        Tokens = 0;
    }
}
