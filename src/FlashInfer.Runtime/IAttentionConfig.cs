namespace FlashInfer;

/// <summary>
/// What the runtime knows of a generated configuration. The generator implements it explicitly, so that the configuration class itself
/// stays clean; <see cref="AttentionSpec"/> carries the values and the CUDA units.
/// </summary>
public interface IAttentionConfig
{
    /// <summary>The configuration.</summary>
    static abstract AttentionSpec Spec { get; }
}
