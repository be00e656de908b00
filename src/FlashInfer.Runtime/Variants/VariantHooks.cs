namespace FlashInfer;

/// <summary>What a variant of attention does.</summary>
[Flags]
public enum VariantHooks
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>It replaces logits; see <see cref="LogitsTransformAttribute"/>.</summary>
    Transform = 1,

    /// <summary>It hides keys; see <see cref="LogitsMaskAttribute"/>.</summary>
    Mask = 2,

    /// <summary>It bounds the keys from below; see <see cref="FirstKeyAttribute"/>.</summary>
    FirstKey = 4,

    /// <summary>It adds a logit without a value to each head's softmax; see <see cref="AttentionSinkAttribute"/>.</summary>
    Sink = 8,

    /// <summary>It replaces elements of the query; see <see cref="QueryTransformAttribute"/>.</summary>
    QueryTransform = 16,

    /// <summary>It replaces elements of the output; see <see cref="OutputTransformAttribute"/>.</summary>
    OutputTransform = 32,
}
