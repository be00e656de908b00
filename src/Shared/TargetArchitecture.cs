using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

namespace FlashInfer;

/// <summary>A GPU architecture that a project is built for, such as <c>sm_90a</c>.</summary>
/// <param name="Number">The compute capability without its point: 90.</param>
/// <param name="Suffix"><c>a</c> or <c>f</c> for the features of one architecture or family; empty for none.</param>
internal readonly record struct TargetArchitecture(int Number, string Suffix)
{
    /// <summary>The oldest architecture that the kernels compile for.</summary>
    public const int Oldest = 80;

    // Those that compilers know so far. One that comes later is unknown until a new version of this package.
    private static readonly int[] s_known = { 80, 86, 87, 88, 89, 90, 100, 101, 103, 110, 120, 121 };

    private static readonly char[] s_separators = { ',', ';', ' ' };

    private const int FirstWithA = 90;
    private const int FirstWithF = 100;

    /// <summary>The legal set in words.</summary>
    public static string Legal { get; } =
        string.Join(", ", s_known.Select(Name)) + Text($", with a from sm_{FirstWithA} on and f from sm_{FirstWithF} on");

    /// <summary>Reads the property: names separated by commas, semicolons or spaces.</summary>
    /// <param name="property">The property's value.</param>
    /// <param name="architectures">Those that are legal, in order.</param>
    /// <param name="problems">What is wrong with each of the others: the value, the legal set, what to do.</param>
    public static void Read(string property, out IReadOnlyList<TargetArchitecture> architectures, out IReadOnlyList<string> problems)
    {
        List<TargetArchitecture> legal = new();
        List<string> wrong = new();
        foreach (string name in property.Split(s_separators, StringSplitOptions.RemoveEmptyEntries))
        {
            if (!TryParse(name, out TargetArchitecture architecture))
            {
                wrong.Add($"{name} is not an architecture; expected {Legal}. Write such names, separated by commas.");
            }
            else if (architecture.Number < Oldest)
            {
                wrong.Add(
                    Text($"{name} is too old; the kernels need sm_{Oldest} or later. Remove it: such a GPU cannot run this library.")
                );
            }
            else if (!architecture.IsKnown)
            {
                wrong.Add($"{name} is not a known architecture; expected {Legal}. Correct the name.");
            }
            else if (!legal.Contains(architecture))
            {
                legal.Add(architecture);
            }
        }

        architectures = legal;
        problems = wrong;
    }

    /// <inheritdoc/>
    public override string ToString() => Name(Number) + Suffix;

    private bool IsKnown => s_known.Contains(Number) && (Suffix.Length == 0 || Number >= (Suffix == "a" ? FirstWithA : FirstWithF));

    private static bool TryParse(string name, out TargetArchitecture architecture)
    {
        const string Prefix = "sm_";
        architecture = default;
        if (!name.StartsWith(Prefix, StringComparison.Ordinal))
        {
            return false;
        }

        string digits = name.Substring(Prefix.Length).TrimEnd('a', 'f');
        string suffix = name.Substring(Prefix.Length + digits.Length);
        if (digits.Length is < 2 or > 3 || suffix.Length > 1 || !digits.All(static c => c is >= '0' and <= '9'))
        {
            return false;
        }

        architecture = new TargetArchitecture(int.Parse(digits, CultureInfo.InvariantCulture), suffix);
        return true;
    }

    private static string Name(int number) => Text($"sm_{number}");

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
