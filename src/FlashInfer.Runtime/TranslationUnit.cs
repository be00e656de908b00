using System.Text;

namespace FlashInfer;

/// <summary>A CUDA translation unit: what NVRTC compiles to one cubin. Its headers are the ones embedded in this assembly.</summary>
public sealed class TranslationUnit
{
    /// <summary>Makes a unit from its UTF-8 text.</summary>
    /// <param name="name">The name of the unit and of its kernel, a C identifier such as <c>fi_decode_bf16_h32_kv8_d128_p16</c>.</param>
    /// <param name="source">CUDA C++ text in UTF-8; copied.</param>
    public TranslationUnit(string name, ReadOnlySpan<byte> source)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(name);
        Name = name;
        Source = source.ToArray();
    }

    /// <summary>The name of the unit, of its kernel, and the prefix of its file in the kernel cache.</summary>
    public string Name { get; }

    /// <summary>CUDA C++ text in UTF-8.</summary>
    public ReadOnlyMemory<byte> Source { get; }

    /// <summary>The CUDA text.</summary>
    public override string ToString() => Encoding.UTF8.GetString(Source.Span);
}
