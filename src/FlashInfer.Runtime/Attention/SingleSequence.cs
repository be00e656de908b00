using FlashInfer.Cuda;
using FlashInfer.KvCache;

namespace FlashInfer.Attention;

/// <summary>
/// What <see cref="SinglePrefill"/> and <see cref="SingleDecode"/> share: attention of a batch of one, planned when a call differs from the
/// one before it in more than its tensors' addresses.
/// </summary>
internal sealed class SingleSequence : IDisposable
{
    // Of Run, whose caller gave the tensor.
    private static readonly string s_query = "query";

    private readonly Type _type;
    private readonly UseGuard _guard;
    private readonly IRaggedAttention _batch;
    private Step? _planned;
    private bool _disposed;

    /// <param name="type">Whose calls these are.</param>
    /// <param name="batch">The batch of one; owned from here on.</param>
    public SingleSequence(Type type, IRaggedAttention batch)
    {
        _type = type;
        _guard = new UseGuard(type.Name);
        _batch = batch;
    }

    /// <summary>The batch of one.</summary>
    public IRaggedAttention Batch => _batch;

    /// <summary>As <see cref="SinglePrefill.Run(TensorView, TensorView, TensorView, TensorView, TensorView, float?, bool, CudaStream?)"/>.</summary>
    public void Run(in SingleTensors tensors, float? smScale, bool causal, CudaStream? stream)
    {
        using UseGuard.Use use = Enter();
        Step step = Check(tensors, smScale, causal);
        if (step != _planned)
        {
            Forget();
            _batch.Plan<NoArguments>([0, step.QueryTokens], [0, step.Tokens], default, smScale, causal, stream);
            _planned = step;
        }

        _batch.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse, stream);
    }

    /// <summary>The same with arguments of a variant of attention, which are copied: so it plans every time.</summary>
    public void Run<TArguments>(
        in SingleTensors tensors,
        scoped in VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal,
        CudaStream? stream
    )
        where TArguments : allows ref struct
    {
        using UseGuard.Use use = Enter();
        Step step = Check(tensors, smScale, causal);
        Forget();
        _batch.Plan([0, step.QueryTokens], [0, step.Tokens], arguments, smScale, causal, stream);
        _batch.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse, stream);
    }

    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _batch.Dispose();
        }
    }

    private UseGuard.Use Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, _type);
        _batch.Device.ThrowIfDisposed();
        return _guard.Enter();
    }

    private Step Check(in SingleTensors tensors, float? smScale, bool causal)
    {
        AttentionSpec spec = _batch.Spec;
        tensors.Query.Expect(s_query, spec.Dtype, -1, spec.Heads, spec.HeadDim);
        tensors.Key.Expect("key", spec.Dtype, -1, spec.KvHeads, spec.HeadDim);
        int queryTokens = tensors.Query.Shape[0];
        if (queryTokens > _batch.MaxQueryTokens)
        {
            throw new ArgumentException(
                _type == typeof(SingleDecode)
                    ? $"query has {queryTokens} tokens; {_type.Name} takes 1. SinglePrefill takes any number."
                    : $"query has {queryTokens} tokens; expected at most {_batch.MaxQueryTokens}. The constructor of {_type.Name} takes a larger maxQueryTokens.",
                s_query
            );
        }

        return new Step(queryTokens, tensors.Key.Shape[0], smScale, causal);
    }

    /// <summary>Before another plan takes the place of the last one.</summary>
    private void Forget()
    {
        if (_batch.IsCaptured)
        {
            throw new InvalidOperationException(
                $"A captured graph holds the plan of an earlier call of this {_type.Name}, which this call would replace by another: its lengths, smScale, causal or arguments are not the same. Use a {_type.Name} of its own for each graph, or the batch wrapper, whose plans graphs follow."
            );
        }

        _planned = null;
    }

    private readonly record struct Step(int QueryTokens, int Tokens, float? SmScale, bool Causal);
}

/// <summary>The tensors of a call.</summary>
/// <param name="query">[qoLen, heads, headDim].</param>
/// <param name="key">[kvLen, kvHeads, headDim].</param>
/// <param name="value">[kvLen, kvHeads, valueDim].</param>
/// <param name="output">[qoLen, heads, valueDim].</param>
/// <param name="lse">[qoLen, heads], or none.</param>
internal readonly ref struct SingleTensors(TensorView query, TensorView key, TensorView value, TensorView output, TensorView lse)
{
    public readonly TensorView Query = query;
    public readonly TensorView Key = key;
    public readonly TensorView Value = value;
    public readonly TensorView Output = output;
    public readonly TensorView Lse = lse;
}
