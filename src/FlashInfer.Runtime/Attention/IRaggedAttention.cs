using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>Attention over ragged keys and values by a plan, whatever kernel does it.</summary>
internal interface IRaggedAttention : IDisposable
{
    /// <summary>The device that it runs on.</summary>
    Device Device { get; }

    /// <summary>The attention configuration.</summary>
    AttentionSpec Spec { get; }

    /// <summary>Query tokens of the largest batch.</summary>
    int MaxQueryTokens { get; }

    /// <summary>Device memory of the workspace.</summary>
    long WorkspaceBytes { get; }

    /// <summary>Whether a graph holds the plan: the next one changes what it does.</summary>
    bool IsCaptured { get; }

    /// <summary>As <see cref="BatchPrefillWithRaggedKvCache.Plan{TArguments}"/>; <see cref="NoArguments"/> stand for none.</summary>
    void Plan<TArguments>(
        ReadOnlySpan<int> qoIndptr,
        ReadOnlySpan<int> kvIndptr,
        VariantArguments<TArguments> arguments,
        float? smScale,
        bool causal,
        CudaStream? stream
    )
        where TArguments : allows ref struct;

    /// <summary>As <see cref="BatchPrefillWithRaggedKvCache.Run"/>.</summary>
    void Run(TensorView query, TensorView key, TensorView value, TensorView output, TensorView lse, CudaStream? stream);

    /// <summary>The plan in words.</summary>
    string Explain();
}
