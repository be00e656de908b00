namespace FlashInfer.Tests;

/// <summary>What the wrappers over a paged cache have in common, for scenarios that hold for all of them.</summary>
internal interface IPagedWrapper : IDisposable
{
    PlanInfo PlanInfo { get; }

    /// <summary>Plans with the query tokens given, or without, where null.</summary>
    void Plan(Sequence[] sequences, int[]? queryTokens = null, float? smScale = null, bool causal = true);

    /// <summary>The same with arguments of a variant of attention.</summary>
    void Plan<TArguments>(Sequence[] sequences, int[]? queryTokens, VariantArguments<TArguments> arguments, float? smScale, bool causal)
        where TArguments : allows ref struct;

    void Append(int layer, TensorView key, TensorView value);

    void Run(int layer, TensorView query, TensorView output, TensorView lse = default);
}

internal sealed class DecodeWrapper(PagedKvCache cache, int maxSequences, int maxQueryTokens, Determinism determinism)
    : BatchDecodeWithPagedKvCache(cache, maxSequences, maxQueryTokens, determinism),
        IPagedWrapper
{
    public void Plan(Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal)
    {
        if (queryTokens is null)
        {
            Plan(sequences.AsSpan(), smScale);
        }
        else
        {
            Plan(sequences.AsSpan(), queryTokens, smScale, causal);
        }
    }

    public void Plan<TArguments>(
        Sequence[] sequences,
        int[]? queryTokens,
        VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal
    )
        where TArguments : allows ref struct
    {
        if (queryTokens is null)
        {
            Plan(sequences.AsSpan(), arguments, smScale);
        }
        else
        {
            Plan(sequences.AsSpan(), queryTokens.AsSpan(), arguments, smScale, causal);
        }
    }

    public void Append(int layer, TensorView key, TensorView value) => base.Append(layer, key, value);

    public void Run(int layer, TensorView query, TensorView output, TensorView lse) => base.Run(layer, query, output, lse);
}

/// <summary>As the library makes it; on the CPU, which prepares nothing, with <see cref="StagingOnCpu"/>.</summary>
internal sealed class PrefillWrapper(
    PagedKvCache cache,
    int maxSequences,
    int maxQueryTokens,
    Determinism determinism,
    int? maxStagedTokens = null
)
    : BatchPrefillWithPagedKvCache(
        cache,
        maxSequences,
        maxQueryTokens,
        determinism,
        maxStagedTokens ?? 1 << 20,
        StagingOnCpu.For(cache.Device, cache.Spec, isPaged: true)
    ),
        IPagedWrapper
{
    public void Plan(Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal)
    {
        if (queryTokens is null)
        {
            Plan(sequences.AsSpan(), smScale, causal);
        }
        else
        {
            Plan(sequences.AsSpan(), queryTokens, smScale, causal);
        }
    }

    public void Plan<TArguments>(
        Sequence[] sequences,
        int[]? queryTokens,
        VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal
    )
        where TArguments : allows ref struct
    {
        if (queryTokens is null)
        {
            Plan(sequences.AsSpan(), arguments, smScale, causal);
        }
        else
        {
            Plan(sequences.AsSpan(), queryTokens.AsSpan(), arguments, smScale, causal);
        }
    }

    public void Append(int layer, TensorView key, TensorView value) => base.Append(layer, key, value);

    public void Run(int layer, TensorView query, TensorView output, TensorView lse) => base.Run(layer, query, output, lse);
}
