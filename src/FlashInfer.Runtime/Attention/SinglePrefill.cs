using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>
/// Attention of one sequence with any number of query tokens, over keys and values that lie in two tensors: no cache, no index pointers, no
/// plan. For tests, tools, encoders and experiments; a server has a batch. Generated configurations derive a typed one from it.
/// </summary>
/// <remarks>
/// The kernel is that of <see cref="BatchPrefillWithRaggedKvCache"/>. What a call needs planned is kept: calls of the same lengths, as of
/// all layers of a step, plan nothing and allocate nothing. Such a call can be captured in a CUDA graph; from then on calls of other lengths are
/// refused, since the graph would follow them. An object belongs to one caller at a time.
/// </remarks>
public class SinglePrefill : IDisposable
{
    private readonly SingleSequence _sequence;

    /// <summary>Makes the workspace and gets the kernel ready.</summary>
    /// <param name="device">The device that it runs on.</param>
    /// <param name="spec">The attention configuration; its page size, KV layout and KV element type do not matter.</param>
    /// <param name="maxQueryTokens">The most query tokens of a call, 1 to 4,194,304.</param>
    /// <param name="determinism">On what the bits of results may depend.</param>
    /// <param name="maxStagedTokens">As of <see cref="BatchPrefillWithRaggedKvCache"/>.</param>
    /// <exception cref="FlashInferException">The kernel can't be compiled or loaded, or the memory is not there.</exception>
    public SinglePrefill(
        Device device,
        AttentionSpec spec,
        int maxQueryTokens = PrefillCore.DefaultQueryTokens,
        Determinism determinism = Determinism.Reproducible,
        int maxStagedTokens = StagedPrefill.DefaultTokens
    )
    {
        BatchPrefillWithRaggedKvCache batch = new(device, spec, maxSequences: 1, maxQueryTokens, determinism, maxStagedTokens);
        _sequence = new SingleSequence(typeof(SinglePrefill), batch);
    }

    /// <summary>The device that it runs on.</summary>
    public Device Device => _sequence.Batch.Device;

    /// <summary>The attention configuration.</summary>
    public AttentionSpec Spec => _sequence.Batch.Spec;

    /// <summary>The most query tokens of a call.</summary>
    public int MaxQueryTokens => _sequence.Batch.MaxQueryTokens;

    /// <summary>As of <see cref="BatchPrefillWithRaggedKvCache"/>: device memory of the workspace, that for staged keys and values included.</summary>
    public long WorkspaceBytes => _sequence.Batch.WorkspaceBytes;

    /// <summary>Attends with the query tokens, which are the sequence's last.</summary>
    /// <param name="query">[qoLen, heads, headDim].</param>
    /// <param name="key">[kvLen, kvHeads, headDim] of <see cref="AttentionSpec.Dtype"/>; heads first by its strides.</param>
    /// <param name="value">[kvLen, kvHeads, valueDim], as <paramref name="key"/>.</param>
    /// <param name="output">[qoLen, heads, valueDim]; every element is written.</param>
    /// <param name="lse">float [qoLen, heads], contiguous: receives the base-2 LSE; none when default.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0; 1 / sqrt(headDim) when null.</param>
    /// <param name="causal">Whether a query token sees the tokens up to its own only, else all. One that sees none gives output 0 and LSE -infinity.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">A captured graph holds the plan of a call of other lengths.</exception>
    public void Run(
        TensorView query,
        TensorView key,
        TensorView value,
        TensorView output,
        TensorView lse = default,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    ) => _sequence.Run(new SingleTensors(query, key, value, output, lse), smScale, causal, stream);

    /// <summary>As the overload without <paramref name="arguments"/>, for a configuration whose variant of attention takes some; plans every time.</summary>
    /// <typeparam name="TArguments">As of the variant.</typeparam>
    /// <param name="query">As there.</param>
    /// <param name="key">As there.</param>
    /// <param name="value">As there.</param>
    /// <param name="arguments">The arguments of the variant, which are copied.</param>
    /// <param name="output">As there.</param>
    /// <param name="lse">As there.</param>
    /// <param name="smScale">As there.</param>
    /// <param name="causal">As there.</param>
    /// <param name="stream">As there.</param>
    public void Run<TArguments>(
        TensorView query,
        TensorView key,
        TensorView value,
        VariantArguments<TArguments> arguments,
        TensorView output,
        TensorView lse = default,
        float? smScale = null,
        bool causal = true,
        CudaStream? stream = null
    )
        where TArguments : allows ref struct =>
        _sequence.Run(new SingleTensors(query, key, value, output, lse), arguments, smScale, causal, stream);

    /// <summary>What the last call planned, in words.</summary>
    public string Explain() => _sequence.Batch.Explain();

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
        if (disposing)
        {
            _sequence.Dispose();
        }
    }
}
