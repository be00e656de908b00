using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

namespace FlashInfer.CodeFixes;

/// <summary>One way to mend the arguments of an <c>[AttentionConfig]</c>.</summary>
/// <param name="Title">As the editor shows it.</param>
/// <param name="Key">The same for the same kind of change: fix-all applies one kind.</param>
/// <param name="Changes">Arguments and their new text; null takes the argument away.</param>
internal sealed record ArgumentFix(string Title, string Key, IReadOnlyList<(string Parameter, string? Value)> Changes);

/// <summary>The fixes of each rule, best first. None where only the author can know the number.</summary>
internal static class RuleFixes
{
    private const string Nearest = "nearest";
    private const string Usual = "usual";

    // The page size that suits most models.
    private const int UsualPageSize = 16;

    /// <summary>The fixes for what a rule says of a shape.</summary>
    public static IEnumerable<ArgumentFix> For(string id, AttentionShape shape) =>
        id switch
        {
            "FI0003" => Heads(shape),
            "FI0004" => KvHeads(shape),
            "FI0005" => NotAMultiple(shape),
            "FI0006" => HeadDim(shape),
            "FI0007" => PageSize(shape),
            "FI0008" => Dtype(shape),
            "FI0009" => new[] { Layout(KvLayout.Nhd), Layout(KvLayout.Hnd) },
            "FI0010" => KvDtype(shape),
            "FI0012" => new[] { Type("KvDtype", DType.Float8E5M2) },
            "FI0013" => new[] { Number("pageSize", ArchitectureRules.NearestPageSize(shape.PageSize), Nearest) },
            "FI0015" => ValueDim(shape),
            "FI0016" => new[] { Remove("KvDtype") },
            "FI0017" => new[] { Remove("RotaryDim") },
            _ => Array.Empty<ArgumentFix>(),
        };

    private static IEnumerable<ArgumentFix> Heads(AttentionShape shape)
    {
        // One that kvHeads divides, or the fix would only lead to the next error.
        int step = shape.KvHeads is >= 1 and <= AttentionRules.MaxHeads ? shape.KvHeads : 1;
        int heads = shape.Heads < 1 ? step : AttentionRules.MaxHeads / step * step;
        yield return Number("heads", heads, Nearest);
    }

    private static IEnumerable<ArgumentFix> KvHeads(AttentionShape shape)
    {
        if (shape.Heads is >= 1 and <= AttentionRules.MaxHeads)
        {
            // What a model without the entry in its configuration has.
            yield return Number("kvHeads", shape.Heads, "multi-head", " (multi-head attention)");
        }

        int nearest = AttentionRules.NearestKvHeads(shape with { KvHeads = Math.Min(Math.Max(shape.KvHeads, 1), AttentionRules.MaxHeads) });
        if (nearest != shape.Heads)
        {
            yield return Number("kvHeads", nearest, Nearest);
        }
    }

    private static IEnumerable<ArgumentFix> NotAMultiple(AttentionShape shape)
    {
        if (AttentionRules.AreHeadsSwapped(shape))
        {
            yield return new ArgumentFix(
                "Swap heads and kvHeads",
                "swap",
                new[] { ("heads", (string?)Text(shape.KvHeads)), ("kvHeads", Text(shape.Heads)) }
            );
        }

        yield return Number("kvHeads", AttentionRules.NearestKvHeads(shape), Nearest);
    }

    // Padded upwards; a larger head than the largest has no kernels.
    private static IEnumerable<ArgumentFix> HeadDim(AttentionShape shape) =>
        AttentionRules
            .HeadDims.Where(headDim => headDim >= shape.HeadDim)
            .Take(1)
            .Select(static headDim => Number("headDim", headDim, Nearest));

    private static IEnumerable<ArgumentFix> PageSize(AttentionShape shape)
    {
        if (shape.PageSize > AttentionRules.MaxPageSize)
        {
            yield return Number("pageSize", AttentionRules.MaxPageSize, Nearest);
        }

        yield return Number("pageSize", UsualPageSize, Usual);
    }

    private static IEnumerable<ArgumentFix> Dtype(AttentionShape shape)
    {
        foreach (DType dtype in new[] { DType.BFloat16, DType.Float16 })
        {
            if (shape.Dtype is DType.Float8E4M3 or DType.Float8E5M2 && shape.KvDtype == shape.Dtype)
            {
                // An 8-bit cache was meant.
                yield return new ArgumentFix(
                    $"Change dtype to {dtype}, with {shape.Dtype} for KvDtype",
                    "dtype-" + dtype,
                    new[] { ("dtype", (string?)Member(dtype)), ("KvDtype", Member(shape.Dtype)) }
                );
            }
            else
            {
                yield return Type("dtype", dtype);
            }
        }
    }

    private static IEnumerable<ArgumentFix> KvDtype(AttentionShape shape)
    {
        yield return Remove("KvDtype");
        if (shape.KvDtype is DType.Float16 or DType.BFloat16)
        {
            yield return new ArgumentFix(
                $"Change dtype to {shape.KvDtype}",
                "same",
                new[] { ("dtype", (string?)Member(shape.KvDtype)), ("KvDtype", null) }
            );
        }
    }

    private static IEnumerable<ArgumentFix> ValueDim(AttentionShape shape)
    {
        if (shape.HeadDim == AttentionRules.LatentHeadDim)
        {
            yield return Number("ValueDim", AttentionRules.LatentValueDim, Nearest);
        }

        yield return Remove("ValueDim");
    }

    private static ArgumentFix Remove(string parameter) => new("Remove " + parameter, "remove", new[] { (parameter, (string?)null) });

    private static ArgumentFix Layout(KvLayout layout) =>
        new($"Change KvLayout to {layout}", "KvLayout-" + layout, new[] { ("KvLayout", (string?)$"global::FlashInfer.KvLayout.{layout}") });

    private static ArgumentFix Type(string parameter, DType dtype) =>
        new($"Change {parameter} to {dtype}", $"{parameter}-{dtype}", new[] { (parameter, (string?)Member(dtype)) });

    private static ArgumentFix Number(string parameter, int value, string key, string remark = "") =>
        new($"Change {parameter} to {Text(value)}{remark}", key, new[] { (parameter, (string?)Text(value)) });

    private static string Member(DType dtype) => $"global::FlashInfer.DType.{dtype}";

    private static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);
}
