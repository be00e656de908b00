using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>
/// Attention of one query token, a sequence's last, over keys and values that lie in two tensors: no cache and no plan. A long sequence is
/// cut among all multiprocessors and merged. Generated configurations derive a typed one from it.
/// </summary>
/// <remarks>
/// The kernel is decode's, without pages; where a group has so many query heads that batch decode has one of prefill's for them, and where
/// keys and values differ in size, it is that of <see cref="SinglePrefill"/>. Plans, graphs and callers as there.
/// </remarks>
public class SingleDecode : IDisposable
{
    private const int TokenRank = 3;
    private const int LseRank = 2;

    private readonly SingleSequence _sequence;

    /// <summary>Makes the workspace and gets the kernel ready.</summary>
    /// <param name="device">The device that it runs on.</param>
    /// <param name="spec">The attention configuration; its page size, KV layout and KV element type do not matter.</param>
    /// <param name="determinism">On what the bits of results may depend.</param>
    /// <exception cref="FlashInferException">The kernel can't be compiled or loaded, or the memory is not there.</exception>
    public SingleDecode(Device device, AttentionSpec spec, Determinism determinism = Determinism.Reproducible)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(spec);
        spec.RequirePrefill(nameof(spec));
        IRaggedAttention batch = device.Kernels(spec).RaggedDecode() is { } kernel
            ? new RaggedDecode(device, spec, kernel, determinism)
            : new BatchPrefillWithRaggedKvCache(device, spec, maxSequences: 1, maxQueryTokens: 1, determinism, maxStagedTokens: 0);
        _sequence = new SingleSequence(typeof(SingleDecode), batch);
    }

    /// <summary>The device that it runs on.</summary>
    public Device Device => _sequence.Batch.Device;

    /// <summary>The attention configuration.</summary>
    public AttentionSpec Spec => _sequence.Batch.Spec;

    /// <summary>Device memory of the workspace.</summary>
    public long WorkspaceBytes => _sequence.Batch.WorkspaceBytes;

    /// <summary>Attends with the sequence's last token, which sees all of it.</summary>
    /// <param name="query">[heads, headDim] or [1, heads, headDim].</param>
    /// <param name="key">[kvLen, kvHeads, headDim] of <see cref="AttentionSpec.Dtype"/>; heads first by its strides.</param>
    /// <param name="value">[kvLen, kvHeads, valueDim], as <paramref name="key"/>.</param>
    /// <param name="output">[heads, valueDim] or [1, heads, valueDim]; every element is written.</param>
    /// <param name="lse">float [heads] or [1, heads], contiguous: receives the base-2 LSE; none when default.</param>
    /// <param name="smScale">What logits are multiplied by before the softmax, above 0; 1 / sqrt(headDim) when null.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">A captured graph holds the plan of a call of another length.</exception>
    public void Run(
        TensorView query,
        TensorView key,
        TensorView value,
        TensorView output,
        TensorView lse = default,
        float? smScale = null,
        CudaStream? stream = null
    ) => _sequence.Run(Tensors(query, key, value, output, lse), smScale, causal: true, stream);

    /// <summary>As the overload without <paramref name="arguments"/>, for a configuration whose variant of attention takes some; plans every time.</summary>
    /// <typeparam name="TArguments">As of the variant.</typeparam>
    /// <param name="query">As there.</param>
    /// <param name="key">As there.</param>
    /// <param name="value">As there.</param>
    /// <param name="arguments">The arguments of the variant, which are copied.</param>
    /// <param name="output">As there.</param>
    /// <param name="lse">As there.</param>
    /// <param name="smScale">As there.</param>
    /// <param name="stream">As there.</param>
    public void Run<TArguments>(
        TensorView query,
        TensorView key,
        TensorView value,
        VariantArguments<TArguments> arguments,
        TensorView output,
        TensorView lse = default,
        float? smScale = null,
        CudaStream? stream = null
    )
        where TArguments : allows ref struct =>
        _sequence.Run(Tensors(query, key, value, output, lse), arguments, smScale, causal: true, stream);

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

    private static SingleTensors Tensors(TensorView query, TensorView key, TensorView value, TensorView output, TensorView lse) =>
        new(query.Batched(TokenRank), key, value, output.Batched(TokenRank), lse.Batched(LseRank));
}
