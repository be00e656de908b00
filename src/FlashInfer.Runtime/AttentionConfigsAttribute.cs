using System.ComponentModel;

namespace FlashInfer;

/// <summary>
/// The configurations of an assembly, for those who compile its kernels ahead of time. Written by the source generator.
/// </summary>
/// <remarks>
/// Names and not types: a configuration may be private, and one that a program does not use can be trimmed from it.
/// </remarks>
/// <param name="types">Full names as the runtime spells them, such as <c>Models.Zoo+LlamaAttention</c>; each implements <see cref="IAttentionConfig"/>.</param>
[EditorBrowsable(EditorBrowsableState.Never)]
[AttributeUsage(AttributeTargets.Assembly)]
public sealed class AttentionConfigsAttribute(params string[] types) : Attribute
{
    /// <summary>The names.</summary>
    public IReadOnlyList<string> Types { get; } = types;
}
