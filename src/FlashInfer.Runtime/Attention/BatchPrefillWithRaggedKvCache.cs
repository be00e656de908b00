using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;
using FlashInfer.Planning;

namespace FlashInfer;

/// <summary>
/// Batch prefill over ragged keys and values: those of all sequences in one tensor, one sequence behind the other, without pages or a
/// cache. For prompts whose keys and values were just computed, for encoders, and for training-like passes. Generated configurations
/// derive a typed wrapper from it.
/// </summary>
/// <remarks>
/// Which rows belong to which sequence is said by index pointers, as in a CSR matrix: sequence i has rows <c>indptr[i]</c> to
/// <c>indptr[i + 1] - 1</c>. Its query tokens are its last tokens: with causal attention the very last one sees all keys of the sequence,
/// the one before it all but one. A wrapper belongs to one caller at a time. <c>Run</c> can be captured in a CUDA graph; a replay after a
/// new <c>Plan</c> reads the new plan.
/// </remarks>
public class BatchPrefillWithRaggedKvCache : IRaggedAttention, IExplainsPlan
{
    private readonly UseGuard _guard = new(nameof(BatchPrefillWithRaggedKvCache));
    private readonly PrefillCore _core;
    private readonly StagedPrefill? _staged;
    private readonly int[] _queryTokens;
    private readonly int[] _lengths;
    private readonly int[] _starts;
    private readonly int[] _firstRows;
    private int _planned = -1;
    private int _rows;
    private int _tokens;
    private bool _causal;
    private bool _disposed;

    /// <summary>Makes a wrapper and its workspace.</summary>
    /// <param name="device">The device that it runs on.</param>
    /// <param name="spec">The attention configuration; its page size, KV layout and KV element type do not matter.</param>
    /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
    /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304: rows of query and output.</param>
    /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
    /// <param name="maxStagedTokens">
    /// Rows of keys, from the first on, that may be staged, which <see cref="WorkspaceBytes"/> then has room for: 0 for none. Only where
    /// <see cref="PlanInfo.StagedTokens"/> can be above 0: on Hopper with RoPE, unless plans are batch-invariant. The room is taken when it is
    /// first needed.
    /// </param>
    /// <exception cref="FlashInferException">The kernels can't be compiled or loaded, or the memory is not there.</exception>
    public BatchPrefillWithRaggedKvCache(
        Device device,
        AttentionSpec spec,
        int maxSequences = 1024,
        int maxQueryTokens = PrefillCore.DefaultQueryTokens,
        Determinism determinism = Determinism.Reproducible,
        int maxStagedTokens = StagedPrefill.DefaultTokens
    )
        : this(device, spec, maxSequences, maxQueryTokens, determinism, maxStagedTokens, staged: null) { }

    /// <summary>As the public one, with a kernel in place of the device's own: tests have one for the CPU.</summary>
    internal BatchPrefillWithRaggedKvCache(
        Device device,
        AttentionSpec spec,
        int maxSequences,
        int maxQueryTokens,
        Determinism determinism,
        int maxStagedTokens,
        StagedPrefillKernel? staged
    )
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(spec);
        spec.RequirePrefill(nameof(spec));
        PrefillCore.CheckLimits(maxSequences, maxQueryTokens, determinism);
        Device = device;
        Spec = spec;
        MaxSequences = maxSequences;
        MaxQueryTokens = maxQueryTokens;
        ArgumentOutOfRangeException.ThrowIfNegative(maxStagedTokens);
        AttentionKernels kernels = device.Kernels(spec);
        staged = StagedPrefillKernel.Choose(kernels, KernelKinds.PrefillRagged, determinism, maxStagedTokens, staged);
        PrefillKernel kernel = kernels.Prefill(isPaged: false);
        _core = new PrefillCore(device, spec, kernel, cacheTokens: 0, maxSequences, maxQueryTokens, determinism, borrower: staged?.Prefill);
        if (staged is not null)
        {
            try
            {
                _staged = new StagedPrefill(device, spec, staged, _core, isPaged: false, maxSequences, maxQueryTokens, maxStagedTokens);
            }
            catch
            {
                _core.Dispose();
                throw;
            }
        }

        _queryTokens = new int[maxSequences];
        _lengths = new int[maxSequences];
        _starts = new int[maxSequences];
        _firstRows = new int[maxSequences];
    }

    /// <summary>The device that it runs on.</summary>
    public Device Device { get; }

    /// <summary>The attention configuration.</summary>
    public AttentionSpec Spec { get; }

    /// <summary>Sequences of the largest batch.</summary>
    public int MaxSequences { get; }

    /// <summary>Query tokens of all sequences of the largest batch.</summary>
    public int MaxQueryTokens { get; }

    /// <summary>On what the bits of a sequence's results may depend.</summary>
    public Determinism Determinism => _core.Limits.Determinism;

    /// <summary>Device memory of the wrapper's workspace, known before any plan and never exceeded by one. Room for staged keys and values is taken when it is first needed.</summary>
    public long WorkspaceBytes => _core.WorkspaceBytes + (_staged?.Bytes ?? 0);

    /// <summary>What the last plan looks like.</summary>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public PlanInfo PlanInfo
    {
        get
        {
            RequirePlan();
            PrefillBatch batch = Batch(_planned);
            if (_staged is not { Stages: true })
            {
                return _core.Info(batch, _planned, _rows);
            }

            PlanInfo info = _staged.Info(batch, _planned, _rows);
            batch = _staged.Others(batch);
            return batch.Lengths.IsEmpty ? info : PlanInfo.Then(info, _core.Info(batch, _planned, _rows));
        }
    }

    bool IRaggedAttention.IsCaptured => _core.IsCaptured;

    /// <summary>What plans are made for; benchmarks change it before the first plan.</summary>
    internal PrefillPlanLimits Limits
    {
        get => _core.Limits;
        set => _core.Limits = value;
    }

    /// <summary>As of <see cref="BatchPrefillWithPagedKvCache"/>.</summary>
    internal bool? Stages { get; set; }

    /// <summary>Plans a step: from here on <c>Run</c> means these sequences.</summary>
    /// <param name="qoIndptr">Where each sequence's rows of query and output start, and where the last one's end: sequences + 1 numbers from 0, none below the one before it.</param>
    /// <param name="kvIndptr">The same for rows of key and value. A sequence may have none, more or fewer than query tokens.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0; 1 / sqrt(headDim) when null.</param>
    /// <param name="causal">Whether a query token sees the tokens up to its own only, else all of the sequence. One that sees none gives output 0 and LSE -infinity.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void Plan(
        ReadOnlySpan<int> qoIndptr,
        ReadOnlySpan<int> kvIndptr,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    )
    {
        using UseGuard.Use use = Enter();
        PlanEntered<NoArguments>(qoIndptr, kvIndptr, default, smScale, causal, stream);
    }

    /// <summary>As the overload without <paramref name="arguments"/>, for a configuration whose variant of attention takes some.</summary>
    /// <typeparam name="TArguments">As of the variant.</typeparam>
    /// <param name="qoIndptr">As there.</param>
    /// <param name="kvIndptr">As there.</param>
    /// <param name="arguments">The arguments of the variant, which are copied.</param>
    /// <param name="smScale">As there.</param>
    /// <param name="causal">As there.</param>
    /// <param name="stream">As there.</param>
    public void Plan<TArguments>(
        ReadOnlySpan<int> qoIndptr,
        ReadOnlySpan<int> kvIndptr,
        VariantArguments<TArguments> arguments,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    )
        where TArguments : allows ref struct
    {
        using UseGuard.Use use = Enter();
        PlanEntered(qoIndptr, kvIndptr, arguments, smScale, causal, stream);
    }

    /// <summary>Attends with the query tokens of the planned sequences.</summary>
    /// <param name="query">[rows, heads, headDim]: a row for each query token, as qoIndptr said.</param>
    /// <param name="key">[tokens, kvHeads, headDim] of <see cref="AttentionSpec.Dtype"/>, as kvIndptr said.</param>
    /// <param name="value">[tokens, kvHeads, valueDim], as <paramref name="key"/>; valueDim is headDim unless the configuration says otherwise.</param>
    /// <param name="output">[rows, heads, valueDim]; every element is written.</param>
    /// <param name="lse">float [rows, heads], contiguous: receives the base-2 LSE; none when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="StalePlanException">There is no plan.</exception>
    public void Run(
        TensorView query,
        TensorView key,
        TensorView value,
        TensorView output,
        TensorView lse = default,
        CudaStream? stream = null
    )
    {
        using UseGuard.Use use = Enter();
        RequirePlan();
        Device.CheckStream(stream);
        PrefillParams args = _core.Arguments(query, output, lse, _rows, "wrapper");
        KernelTensor.Check(key, nameof(key), Device, "wrapper", Spec.Dtype, _tokens, Spec.KvHeads, Spec.HeadDim);
        KernelTensor.Check(value, nameof(value), Device, "wrapper", Spec.Dtype, _tokens, Spec.KvHeads, Spec.ValueDim);

        // A graph must do for every plan that it may replay: it has all kernels.
        bool captures = _staged is not null && Device.Backend.IsCapturing(stream);
        if (captures || _staged is { Stages: true })
        {
            PrefillParams staged = _staged!.Arguments(args);
            SetValues(ref staged, value);
            StageParams stage = new()
            {
                Key = key.Address,
                TokenStride = key.Stride(0),
                HeadStride = key.Stride(1),
            };
            _staged.Stage(ref stage, stream);
            _staged.Run(ref staged, _rows, _tokens, stream);
        }

        if (captures || _staged is null || !_core.IsEmpty)
        {
            args.Key = key.Address;
            args.KeyTokenStride = key.Stride(0);
            args.KeyHeadStride = key.Stride(1);
            SetValues(ref args, value);
            _core.Run(ref args, _rows, _tokens, stream);
        }
    }

    /// <summary>The plan in words: kernel, rows, work items, longest range, imbalance.</summary>
    public string Explain() => _planned < 0 ? "no plan" : PlanInfo.ToString();

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
        if (disposing && !_disposed)
        {
            _disposed = true;
            _staged?.Dispose();
            _core.Dispose();
        }
    }

    private static void SetValues(ref PrefillParams args, in TensorView value)
    {
        args.Value = value.Address;
        args.ValueTokenStride = value.Stride(0);
        args.ValueHeadStride = value.Stride(1);
    }

    private PrefillBatch Batch(int sequences) =>
        new(
            _queryTokens.AsSpan(0, sequences),
            _lengths.AsSpan(0, sequences),
            _starts.AsSpan(0, sequences),
            _firstRows.AsSpan(0, sequences),
            _causal,
            _core.List.Bounds
        );

    private void PlanEntered<TArguments>(
        ReadOnlySpan<int> qoIndptr,
        ReadOnlySpan<int> kvIndptr,
        scoped in VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal,
        CudaStream? stream
    )
        where TArguments : allows ref struct
    {
        long start = Telemetry.StartPlan(Device.Log);
        Device.CheckStream(stream);
        int sequences = qoIndptr.Length - 1;
        if (sequences < 1 || sequences > MaxSequences)
        {
            throw new ArgumentException(
                $"qoIndptr has {qoIndptr.Length} numbers; expected 2 to {MaxSequences + 1L}, one more than there are sequences. The wrapper's constructor takes a larger maxSequences.",
                nameof(qoIndptr)
            );
        }

        if (kvIndptr.Length != qoIndptr.Length)
        {
            throw new ArgumentException($"kvIndptr has {kvIndptr.Length} numbers but qoIndptr {qoIndptr.Length}.", nameof(kvIndptr));
        }

        CheckIndptr(qoIndptr, nameof(qoIndptr));
        CheckIndptr(kvIndptr, nameof(kvIndptr));
        if (qoIndptr[^1] > MaxQueryTokens)
        {
            throw new ArgumentException(
                $"The {sequences} sequences have {qoIndptr[^1]} query tokens; expected at most {MaxQueryTokens}. The wrapper's constructor takes a larger maxQueryTokens, the query tokens of all sequences of a step.",
                nameof(qoIndptr)
            );
        }

        float scaleLog2 = PrefillCore.Scale(Spec, smScale);

        // From here on only the variant's arguments can be wrong, which leaves the wrapper without a plan, as a failure of the device does.
        _planned = -1;
        for (int i = 0; i < sequences; i++)
        {
            _queryTokens[i] = qoIndptr[i + 1] - qoIndptr[i];
            _lengths[i] = kvIndptr[i + 1] - kvIndptr[i];
            _starts[i] = kvIndptr[i];
            _firstRows[i] = qoIndptr[i];
        }

        BatchShape shape = new(Spec, _queryTokens.AsSpan(0, sequences), _lengths.AsSpan(0, sequences));
        _core.List.Take(arguments, shape);
        _staged?.List.Take(arguments, shape);
        _rows = qoIndptr[^1];
        _tokens = kvIndptr[^1];
        _causal = causal && Spec.Variant is not { ReplacesCausality: true };
        PrefillBatch batch = Batch(sequences);
        _core.Plan(_staged is null ? batch : _staged.Plan(batch, scaleLog2, Stages, stream), scaleLog2, stream);
        _planned = sequences;
        Telemetry.EndPlan(start, nameof(BatchPrefillWithRaggedKvCache), this, Device.Log);
    }

    private static void CheckIndptr(ReadOnlySpan<int> indptr, string name)
    {
        if (indptr[0] != 0)
        {
            throw new ArgumentException($"{name} starts at {indptr[0]}; expected 0, the first row.", name);
        }

        for (int i = 1; i < indptr.Length; i++)
        {
            if (indptr[i] < indptr[i - 1])
            {
                throw new ArgumentException(
                    $"{name} goes down from {indptr[i - 1]} to {indptr[i]} at {i}; expected where each sequence's rows start, and at the end where the last one's end.",
                    name
                );
            }
        }
    }

    private UseGuard.Use Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Device.ThrowIfDisposed();
        return _guard.Enter();
    }

    private void RequirePlan()
    {
        if (_planned < 0)
        {
            throw new StalePlanException("There is no plan; call Plan with the step's index pointers first.");
        }
    }
}
