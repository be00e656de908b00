using FlashInfer.Attention;

namespace FlashInfer;

/// <summary>
/// Writes the arguments of a variant of attention for kernels and the CPU device: each call is a member of the CUDA text's
/// <c>struct Arguments</c>, in order.
/// </summary>
public readonly ref struct VariantWriter
{
    private readonly VariantMemory _memory;

    internal VariantWriter(VariantMemory memory)
    {
        _memory = memory;
    }

    /// <summary>A member of type <c>flashinfer::i32</c>.</summary>
    /// <param name="value">Its value.</param>
    public void Write(int value) => _memory.Add(value);

    /// <summary>A member of type <c>flashinfer::u32</c>.</summary>
    /// <param name="value">Its value.</param>
    public void Write(uint value) => _memory.Add(value);

    /// <summary>A member of type <c>float</c>.</summary>
    /// <param name="value">Its value.</param>
    public void Write(float value) => _memory.Add(value);

    /// <summary>A member of type <c>flashinfer::i32</c> that is 1 or 0.</summary>
    /// <param name="value">Its value.</param>
    public void Write(bool value) => _memory.Add(value ? 1 : 0);

    /// <summary>A member of type <c>flashinfer::Span</c>.</summary>
    /// <typeparam name="T">int, uint, float, bool or byte.</typeparam>
    /// <param name="elements">Its elements, which are copied.</param>
    public void Write<T>(ReadOnlySpan<T> elements)
        where T : unmanaged => _memory.AddSpan(elements);

    /// <summary>As <see cref="Write{T}"/>, for elements that the caller sets before it writes more.</summary>
    internal Span<T> Reserve<T>(int length)
        where T : unmanaged => _memory.AddSpan<T>(length);

    /// <summary>Begins the arguments of the next of several variants that are one.</summary>
    internal void Align() => _memory.Align();
}
