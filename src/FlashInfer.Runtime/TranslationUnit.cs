using System.Text;

namespace FlashInfer;

/// <summary>A CUDA translation unit: what NVRTC compiles to one cubin. Its headers are the ones embedded in this assembly.</summary>
public sealed class TranslationUnit
{
    private readonly string? _architecture;

    /// <summary>Makes a unit from its UTF-8 text.</summary>
    /// <param name="name">The name of the unit and of its kernel, a C identifier such as <c>fi_decode_bf16_h32_kv8_d128_p16</c>.</param>
    /// <param name="source">CUDA C++ text in UTF-8; copied.</param>
    /// <exception cref="ArgumentException">The name is no C identifier, or the text holds a zero byte.</exception>
    public TranslationUnit(string name, ReadOnlySpan<byte> source)
    {
        ArgumentNullException.ThrowIfNull(name);

        // The name becomes a file name, the text a C string: neither may break out of its role.
        if (!IsIdentifier(name))
        {
            throw new ArgumentException(
                $"The unit's name is '{name}'; expected a C identifier such as fi_decode_bf16_h32_kv8_d128_p16.",
                nameof(name)
            );
        }

        int zero = source.IndexOf((byte)0);
        if (zero >= 0)
        {
            throw new ArgumentException(
                $"The text of unit '{name}' has a zero byte at {zero}; expected CUDA C++ in UTF-8.",
                nameof(source)
            );
        }

        Name = name;
        Source = source.ToArray();
    }

    private TranslationUnit(TranslationUnit unit, string architecture)
    {
        Name = unit.Name;
        Source = unit.Source;
        _architecture = architecture;
    }

    /// <summary>The name of the unit, of its kernel, and the prefix of its file in the kernel cache.</summary>
    public string Name { get; }

    /// <summary>CUDA C++ text in UTF-8.</summary>
    public ReadOnlyMemory<byte> Source { get; }

    /// <summary>The CUDA text.</summary>
    public override string ToString() => Encoding.UTF8.GetString(Source.Span);

    /// <summary>The same unit, of use on one architecture only; null for all of them.</summary>
    internal TranslationUnit For(string? architecture) => architecture is null ? this : new(this, architecture);

    /// <summary>Whether it is of use on an architecture.</summary>
    internal bool Serves(string architecture) => _architecture is null || architecture == _architecture;

    private static bool IsIdentifier(string name)
    {
        bool isIdentifier = name.Length > 0 && !char.IsAsciiDigit(name[0]);
        foreach (char c in name)
        {
            isIdentifier &= char.IsAsciiLetterOrDigit(c) || c == '_';
        }

        return isIdentifier;
    }
}
