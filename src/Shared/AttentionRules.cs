using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

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

    /// <summary>The largest head dimension that prefill has kernels for.</summary>
    public const int MaxPrefillHeadDim = 256;

    /// <summary>The head dimensions that kernels are made for, in ascending order.</summary>
    public static IReadOnlyList<int> HeadDims { get; } = new[] { 64, 96, 128, 192, 256, 512 };

    // DeepSeek's heads with the latent cache expanded: the one pair of different sizes that kernels are made for.
    public const int LatentHeadDim = 192;
    public const int LatentValueDim = 128;

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
                        $"heads is {s.Heads} and kvHeads is {s.KvHeads}; heads must be a multiple of kvHeads, since each key/value head serves heads / kvHeads query heads. {Swapped(s)}The nearest kvHeads below is {NearestKvHeads(s)}."
                    )
            ),
            new(
                "FI0006",
                "headDim is not supported",
                "headDim",
                static s => HeadDims.Contains(s.HeadDim),
                static s =>
                    Text(
                        $"headDim is {s.HeadDim}; supported: {string.Join(", ", HeadDims)}. Pad the head dimension with zeros to a supported one and keep smScale = 1 / sqrt({s.HeadDim})."
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
                "dtype is not supported",
                "dtype",
                static s => Is16Bit(s.Dtype),
                static s => Text($"dtype is {s.Dtype}; supported: Float16, BFloat16. Query and output have 16 bits{Quantised(s)}.")
            ),
            new(
                "FI0009",
                "KvLayout is not a layout",
                "KvLayout",
                static s => s.KvLayout is KvLayout.Nhd or KvLayout.Hnd,
                static s => Text($"KvLayout is {(int)s.KvLayout}; expected KvLayout.Nhd or KvLayout.Hnd.")
            ),
            new(
                "FI0010",
                "KvDtype does not go with dtype",
                "KvDtype",
                // Where dtype itself is refused, only a KvDtype that goes with no dtype is worth another error.
                static s =>
                    s.KvDtype == s.Dtype || s.IsQuantised || (!Is16Bit(s.Dtype) && Is16Bit(s.KvDtype)),
                static s =>
                    Text(
                        $"KvDtype is {s.KvDtype} and dtype is {s.Dtype}; supported: the same as dtype, Float8E4M3, Float8E5M2. Leave KvDtype out unless the cache is to be quantised."
                    )
            ),
            new(
                "FI0014",
                "Options do not go together",
                "Options",
                static s => OptionUnits.IsLegal(s.Options),
                static s =>
                    Text(
                        $"Options is {s.Options}; expected any of {OptionUnits.All}, but CustomMask or PackedCustomMask, Rope or RopeInterleaved, not both. Name the form that the mask and the pairs have."
                    )
            ),
            new(
                "FI0015",
                "ValueDim does not go with headDim",
                "ValueDim",
                // A headDim that is refused is error enough.
                static s =>
                    s.HasCache || !HeadDims.Contains(s.HeadDim) || (s.HeadDim, s.ValueDim) == (LatentHeadDim, LatentValueDim),
                static s =>
                    Text(
                        $"ValueDim is {s.ValueDim} and headDim is {s.HeadDim}; supported: the same as headDim, or {LatentValueDim} with headDim {LatentHeadDim}. Leave ValueDim out where values are as long as keys, or pad values with zeros to headDim and leave the output's last elements."
                    )
            ),
            new(
                "FI0016",
                "KvDtype is for a cache that does not exist",
                "KvDtype",
                static s => s.HasCache || !s.IsQuantised,
                static s =>
                    Text(
                        $"KvDtype is {s.KvDtype}, but a configuration with headDim {s.HeadDim} and ValueDim {s.ValueDim} has no cache, and ragged keys and values have the query's type; leave KvDtype out."
                    )
            ),
            new(
                "FI0017",
                "RotaryDim does not fit",
                "RotaryDim",
                static s =>
                    s.RotaryDim == 0
                    || ((s.Options & OptionUnits.Ropes) != 0 && s.RotaryDim >= 0 && s.RotaryDim <= s.HeadDim && s.RotaryDim % 8 == 0),
                static s =>
                    (s.Options & OptionUnits.Ropes) == 0
                        ? Text(
                            $"RotaryDim is {s.RotaryDim}, but nothing turns: Options has neither Rope nor RopeInterleaved. Add one of them."
                        )
                        : Text(
                            $"RotaryDim is {s.RotaryDim}; expected a multiple of 8 up to headDim, {s.HeadDim}. Leave it out when all elements of a head turn."
                        )
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

    /// <summary>The largest legal kvHeads that is not above the given one.</summary>
    public static int NearestKvHeads(AttentionShape s)
    {
        int below = Math.Min(s.Heads, s.KvHeads);
        while (below > 1 && s.Heads % below != 0)
        {
            below--;
        }

        return Math.Max(below, 1);
    }

    /// <summary>Whether the two would be legal the other way round.</summary>
    public static bool AreHeadsSwapped(AttentionShape s) => s.Heads >= 1 && s.KvHeads > s.Heads && s.KvHeads % s.Heads == 0;

    private static bool Is16Bit(DType dtype) => dtype is DType.Float16 or DType.BFloat16;

    private static string Swapped(AttentionShape s) =>
        AreHeadsSwapped(s) ? "They look swapped: heads counts the query heads, of which there are more. " : "";

    private static string Quantised(AttentionShape s) =>
        s.Dtype is DType.Float8E4M3 or DType.Float8E5M2 ? $"; for an 8-bit cache give KvDtype = DType.{s.Dtype} beside one of these" : "";

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
