using System.Collections.Generic;
using System.Text;

namespace FlashInfer.Generators.Lowering;

/// <summary>
/// The names that C# identifiers get in CUDA: <c>snake_case</c> as in the kernels, never two for one or one for two, never a word of C++.
/// </summary>
/// <param name="taken">Names of the scopes around.</param>
internal sealed class CudaNames(CudaNames? taken = null)
{
    private static readonly HashSet<string> s_reserved = new(
        (
            "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl const constexpr "
            + "const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend "
            + "goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register "
            + "reinterpret_cast return short signed sizeof static static_assert static_cast struct switch template this thread_local throw "
            + "true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq assert errno linux unix "
            // Of the struct that the text becomes a part of, and what its text itself calls.
            + "flashinfer csharp transform transform_scores score_scale before bend after line line_scale factor keep keep_bits keep_rest first_key "
            + "skipped sink angle transform_query transform_output fabsf floorf ceilf truncf rintf expf exp2f powf fmaf fmodf copysignf"
        ).Split(' ')
    );

    private readonly Dictionary<string, string> _names = new();
    private readonly HashSet<string> _used = new();

    /// <summary>The name of an identifier; the same one each time.</summary>
    public string Of(string identifier) => Of(identifier, identifier);

    /// <summary>The name of one of several things that an identifier may mean.</summary>
    /// <param name="identifier">The identifier.</param>
    /// <param name="key">Which of them.</param>
    public string Of(string identifier, string key)
    {
        if (!_names.TryGetValue(key, out string? name))
        {
            name = Unused(Snake(identifier));
            _names.Add(key, name);
        }

        return name;
    }

    /// <summary>A name that no identifier has or gets.</summary>
    public string Unused(string wanted)
    {
        string name = wanted;
        for (int i = 2; s_reserved.Contains(name) || IsTaken(name); i++)
        {
            name = $"{wanted}_{i}";
        }

        _used.Add(name);
        return name;
    }

    private bool IsTaken(string name) => _used.Contains(name) || (taken?.IsTaken(name) ?? false);

    private static string Snake(string identifier)
    {
        StringBuilder text = new();
        for (int i = 0; i < identifier.Length; i++)
        {
            char c = identifier[i];
            bool isUpper = c is >= 'A' and <= 'Z';
            bool startsWord =
                isUpper && i > 0 && (!IsUpper(identifier[i - 1]) || (i + 1 < identifier.Length && identifier[i + 1] is >= 'a' and <= 'z'));
            // Two underscores in a row, and one before the first letter, are the compiler's.
            if (startsWord && text.Length > 0 && text[text.Length - 1] != '_')
            {
                text.Append('_');
            }

            if (c == '_')
            {
                if (text.Length > 0 && text[text.Length - 1] != '_')
                {
                    text.Append(c);
                }
            }
            else if (isUpper)
            {
                text.Append((char)(c - 'A' + 'a'));
            }
            else if (c < 128)
            {
                text.Append(c);
            }
            else
            {
                text.Append('u').Append(((int)c).ToString("x4", System.Globalization.CultureInfo.InvariantCulture));
            }
        }

        string name = text.ToString().TrimEnd('_');
        return name.Length == 0 || name[0] is >= '0' and <= '9' ? "v" + name : name;
    }

    private static bool IsUpper(char c) => c is >= 'A' and <= 'Z';
}
