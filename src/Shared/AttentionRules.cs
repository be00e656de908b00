using System;
using System.Collections.Generic;
using System.Globalization;

namespace FlashInfer;

/// <summary>One condition that a configuration must meet.</summary>
/// <param name="Id">The diagnostic id, <c>FI####</c>; never reused.</param>
/// <param name="Title">The rule in a few words.</param>
/// <param name="Parameter">The attribute argument that the diagnostic points at.</param>
/// <param name="IsMet">The test.</param>
/// <param name="Message">What is wrong, the value, the legal set, what to do.</param>
internal sealed record AttentionRule(
    string Id,
    string Title,
    string Parameter,
    Func<AttentionShape, bool> IsMet,
    Func<AttentionShape, string> Message
);

/// <summary>
/// Every legal shape, said once: the analyzer reports these rules, the generator asks whether a model is legal, the runtime's
/// constructors throw them.
/// </summary>
internal static class AttentionRules
{
    public const int MaxHeads = 1024;
    public const int MaxPageSize = 1024;

    private static readonly int[] s_headDims = { 64, 96, 128, 192, 256 };

    /// <summary>All rules, in the order in which they are reported.</summary>
    public static IReadOnlyList<AttentionRule> All { get; } =
        new AttentionRule[]
        {
            new(
                "FI0003",
                "heads is out of range",
                "heads",
                static s => s.Heads is >= 1 and <= MaxHeads,
                static s => Text($"heads is {s.Heads}; expected 1 to {MaxHeads}. Give the number of query heads of the model.")
            ),
            new(
                "FI0004",
                "kvHeads is out of range",
                "kvHeads",
                static s => s.KvHeads is >= 1 and <= MaxHeads,
                static s =>
                    Text(
                        $"kvHeads is {s.KvHeads}; expected 1 to {MaxHeads}. Give the number of key/value heads of the model (equal to heads without grouped-query attention)."
                    )
            ),
            new(
                "FI0005",
                "heads is not a multiple of kvHeads",
                "kvHeads",
                static s => s.Heads < 1 || s.KvHeads is < 1 or > MaxHeads || s.Heads % s.KvHeads == 0,
                static s =>
                    Text(
                        $"heads is {s.Heads} and kvHeads is {s.KvHeads}; heads must be a multiple of kvHeads, since each key/value head serves heads / kvHeads query heads. {Divisors(s)}"
                    )
            ),
            new(
                "FI0006",
                "headDim is not supported",
                "headDim",
                static s => Array.IndexOf(s_headDims, s.HeadDim) >= 0,
                static s =>
                    Text(
                        $"headDim is {s.HeadDim}; supported: {string.Join(", ", s_headDims)}. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt({s.HeadDim})."
                    )
            ),
            new(
                "FI0007",
                "pageSize is out of range",
                "pageSize",
                static s => s.PageSize is >= 1 and <= MaxPageSize,
                static s => Text($"pageSize is {s.PageSize}; expected 1 to {MaxPageSize} tokens per page. 16 suits most models.")
            ),
            new(
                "FI0008",
                "the combination of dtypes is not supported",
                "dtype",
                static s => s.Dtype is DType.Float16 or DType.BFloat16 && (s.KvDtype == s.Dtype || s.IsQuantised),
                static s =>
                    Text(
                        $"dtype is {s.Dtype} and KvDtype is {s.KvDtype}; supported: dtype Float16 or BFloat16, with KvDtype the same, Float8E4M3 or Float8E5M2. Use one of the two for query and output, and leave KvDtype out unless the cache is to be quantised."
                    )
            ),
            new(
                "FI0009",
                "KvLayout is not a layout",
                "KvLayout",
                static s => s.KvLayout is KvLayout.Nhd or KvLayout.Hnd,
                static s => Text($"KvLayout is {(int)s.KvLayout}; expected KvLayout.Nhd or KvLayout.Hnd.")
            ),
        };

    /// <summary>Whether every rule is met.</summary>
    public static bool IsLegal(AttentionShape shape)
    {
        foreach (AttentionRule rule in All)
        {
            if (!rule.IsMet(shape))
            {
                return false;
            }
        }

        return true;
    }

    private static string Divisors(AttentionShape s)
    {
        int below = Math.Min(s.Heads, s.KvHeads);
        while (below > 1 && s.Heads % below != 0)
        {
            below--;
        }

        return Text($"The nearest kvHeads below is {below}.");
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
