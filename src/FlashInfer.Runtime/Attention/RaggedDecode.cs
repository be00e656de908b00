using FlashInfer.Cuda;
using FlashInfer.Observability;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>Attention of one query token of one sequence over ragged keys and values, by decode's kernel. What it is given has one sequence.</summary>
internal sealed class RaggedDecode : IRaggedAttention, IExplainsPlan
{
    private readonly DecodePath _path;
    private readonly PlanList _list;
    private readonly int[] _length = new int[1];
    private readonly int[] _seen = new int[1];
    private readonly int[] _begin = new int[1];
    private DecodePlan _plan;
    private int _rows;
    private bool _overlaps;
    private bool _isPlanned;

    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration.</param>
    /// <param name="kernel">Its kernel; not owned.</param>
    /// <param name="determinism">On what the bits of results may depend.</param>
    public RaggedDecode(Device device, AttentionSpec spec, DecodeKernel kernel, Determinism determinism)
    {
        determinism.Check();
        Device = device;
        Spec = spec;
        _path = new DecodePath(device, spec, kernel, int.MaxValue, maxSequences: 1, determinism);
        _path.Limits = _path.Limits with { TeamUnits = false };
        try
        {
            _list = new PlanList(device, DecodePlanner.MaxItems(1, _path.Limits), spec.Variant);
        }
        catch
        {
            _path.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public Device Device { get; }

    /// <inheritdoc/>
    public AttentionSpec Spec { get; }

    /// <inheritdoc/>
    public int MaxQueryTokens => 1;

    /// <inheritdoc/>
    public long WorkspaceBytes => _path.Workspace.Bytes;

    /// <inheritdoc/>
    public bool IsCaptured { get; private set; }

    private DecodeBatch Batch => new(_seen.AsSpan(0, _rows), [0], begins: _begin.AsSpan(0, _rows));

    /// <inheritdoc/>
    public void Plan<TArguments>(
        ReadOnlySpan<int> qoIndptr,
        ReadOnlySpan<int> kvIndptr,
        VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal,
        CudaStream? stream
    )
        where TArguments : allows ref struct
    {
        long start = Telemetry.StartPlan(Device.Log);
        float scaleLog2 = PrefillCore.Scale(Spec, smScale);
        _isPlanned = false;
        int tokens = kvIndptr[^1];
        int rows = qoIndptr[^1];
        _length[0] = tokens;
        _list.Take(arguments, new BatchShape(Spec, [rows], _length));
        _begin[0] = rows == 0 ? 0 : _list.Bounds.Begin(0, 0, rows, tokens, tokens, _path.Limits.BlockTokens);
        _seen[0] = tokens - _begin[0];
        _rows = rows;
        _plan = DecodePlanner.Plan(Batch, _path.Limits, _list.Begin());

        // All keys and values may be the work of the kernel before.
        ListHeader header = new()
        {
            ScaleLog2 = scaleLog2,
            Heads = _path.Limits.UnitsPerItem,
            FreshTokens = tokens,
        };
        _list.Commit(_plan.Items, header, new PlannedSequences(default, _length, default, [0]), stream);
        _overlaps = false;
        _isPlanned = true;
        Telemetry.EndPlan(start, nameof(SingleDecode), this, Device.Log);
    }

    /// <inheritdoc/>
    public void Run(TensorView query, TensorView key, TensorView value, TensorView output, TensorView lse, CudaStream? stream)
    {
        const string Owner = "wrapper";
        DecodeParams args = _path.Arguments(query, output, lse, _rows, _list, Owner);
        KernelTensor.Check(key, nameof(key), Device, Owner, Spec.Dtype, _length[0], Spec.KvHeads, Spec.HeadDim);
        KernelTensor.Check(value, nameof(value), Device, Owner, Spec.Dtype, _length[0], Spec.KvHeads, Spec.HeadDim);
        args.Key = key.Address;
        args.Value = value.Address;
        args.TokenStride = key.Stride(0);
        args.HeadStride = key.Stride(1);
        args.KeyPage = value.Stride(0);
        args.ValuePage = value.Stride(1);
        ListLaunch launch = new(_plan.Items, _list.Capacity, _plan.Cluster, _overlaps) { Rows = _rows, KeyRows = _length[0] };
        if (_path.Kernel.Run(args, launch, stream))
        {
            _list.Capture();
            IsCaptured = true;
        }

        _overlaps = true;
    }

    /// <inheritdoc/>
    public string Explain() => _isPlanned ? _path.Info(_plan, _path.Kernel, Batch, sequences: 1, _rows).ToString() : "no plan";

    public void Dispose()
    {
        _list.Dispose();
        _path.Dispose();
    }
}
