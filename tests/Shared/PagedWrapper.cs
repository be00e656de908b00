namespace FlashInfer.Tests;

/// <summary>What the wrappers over a paged cache have in common, for scenarios that hold for all of them.</summary>
internal interface IPagedWrapper : IDisposable
{
    PlanInfo PlanInfo { get; }

    /// <summary>Plans with the query tokens and the variant's arguments given, or without, where null.</summary>
    void Plan(Sequence[] sequences, int[]? queryTokens = null, float? smScale = null, bool causal = true, VariantCase? variant = null);

    void Append(int layer, TensorView key, TensorView value);

    void Run(int layer, TensorView query, TensorView output, TensorView lse = default);
}

internal sealed class DecodeWrapper(PagedKvCache cache, int maxSequences, int maxQueryTokens, Determinism determinism)
    : BatchDecodeWithPagedKvCache(cache, maxSequences, maxQueryTokens, determinism),
        IPagedWrapper
{
    public void Plan(Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal, VariantCase? variant)
    {
        switch (queryTokens, variant)
        {
            case (null, null):
                Plan(sequences.AsSpan(), smScale);
                break;
            case (null, _):
                Plan(sequences.AsSpan(), variant.Arguments, smScale);
                break;
            case (_, null):
                Plan(sequences.AsSpan(), queryTokens, smScale, causal);
                break;
            default:
                Plan(sequences.AsSpan(), queryTokens, variant.Arguments, smScale, causal);
                break;
        }
    }

    public void Append(int layer, TensorView key, TensorView value) => base.Append(layer, key, value);

    public void Run(int layer, TensorView query, TensorView output, TensorView lse) => base.Run(layer, query, output, lse);
}

internal sealed class PrefillWrapper(PagedKvCache cache, int maxSequences, int maxQueryTokens, Determinism determinism)
    : BatchPrefillWithPagedKvCache(cache, maxSequences, maxQueryTokens, determinism),
        IPagedWrapper
{
    public void Plan(Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal, VariantCase? variant)
    {
        switch (queryTokens, variant)
        {
            case (null, null):
                Plan(sequences.AsSpan(), smScale, causal);
                break;
            case (null, _):
                Plan(sequences.AsSpan(), variant.Arguments, smScale, causal);
                break;
            case (_, null):
                Plan(sequences.AsSpan(), queryTokens, smScale, causal);
                break;
            default:
                Plan(sequences.AsSpan(), queryTokens, variant.Arguments, smScale, causal);
                break;
        }
    }

    public void Append(int layer, TensorView key, TensorView value) => base.Append(layer, key, value);

    public void Run(int layer, TensorView query, TensorView output, TensorView lse) => base.Run(layer, query, output, lse);
}
