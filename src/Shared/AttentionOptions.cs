using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

namespace FlashInfer;

/// <summary>
/// What attention may do besides the softmax of scaled products. Which of these is fixed when kernels are compiled, so that only those cost
/// anything; their values are given with every plan.
/// </summary>
[Flags]
#if FLASHINFER_RUNTIME
public
#else
internal
#endif
enum AttentionOptions
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Logits stay between -cap and cap: <c>cap * tanh(logit / cap)</c>.</summary>
    LogitsSoftCap = 1,

    /// <summary>A query token sees its own position and a number of those before it. Pages before them are not read.</summary>
    SlidingWindow = 2,

    /// <summary>A bias that falls with the distance, by a slope for each head; added before a soft cap.</summary>
    Alibi = 4,

    /// <summary>A logit without a value joins the softmax of each head.</summary>
    Sinks = 8,

    /// <summary>For each sequence a matrix says which keys a query token sees, instead of causality; a byte for each.</summary>
    CustomMask = 16,

    /// <summary>As <see cref="CustomMask"/>, a bit for each.</summary>
    PackedCustomMask = 32,

    /// <summary>
    /// Queries and keys turn with their positions (RoPE): pairs of an element in the first half of the turning ones and one in the second,
    /// as Llama has them. The cache holds keys as they were before.
    /// </summary>
    Rope = 64,

    /// <summary>As <see cref="Rope"/>, pairs of neighbours, as GPT-J has them.</summary>
    RopeInterleaved = 128,

    /// <summary>Items one behind the other after a prefix: a token sees the prefix and what comes before it in its own item.</summary>
    MultiItemScoring = 256,
}

/// <summary>The library's own variants of attention as CUDA text, for generator and runtime alike.</summary>
internal static class OptionUnits
{
    /// <summary>All of them.</summary>
    public const AttentionOptions All = (AttentionOptions)511;

    /// <summary>The forms of a mask.</summary>
    public const AttentionOptions Masks = AttentionOptions.CustomMask | AttentionOptions.PackedCustomMask;

    /// <summary>The forms of RoPE.</summary>
    public const AttentionOptions Ropes = AttentionOptions.Rope | AttentionOptions.RopeInterleaved;

    // In the order in which logits go through them and their arguments lie in memory.
    private static readonly (AttentionOptions Option, string Functor)[] s_functors =
    {
        (AttentionOptions.SlidingWindow, "SlidingWindow"),
        (AttentionOptions.Alibi, "Alibi"),
        (AttentionOptions.LogitsSoftCap, "SoftCap"),
        (AttentionOptions.Sinks, "Sinks"),
        (AttentionOptions.CustomMask, "BoolMask"),
        (AttentionOptions.PackedCustomMask, "PackedMask"),
        (AttentionOptions.Rope, "Rope<{0}, false>"),
        (AttentionOptions.RopeInterleaved, "Rope<{0}, true>"),
        (AttentionOptions.MultiItemScoring, "MultiItem"),
    };

    /// <summary>Whether all are known, and they go together.</summary>
    public static bool IsLegal(AttentionOptions options) =>
        (options & ~All) == 0 && (options & Masks) != Masks && (options & Ropes) != Ropes;

    /// <summary>The variant of attention that does all of these.</summary>
    /// <param name="options">Legal options.</param>
    /// <param name="rotaryDim">Elements of a head that turn; 0 for all of them.</param>
    public static string Cuda(AttentionOptions options, int rotaryDim)
    {
        IEnumerable<string> functors = s_functors
            .Where(functor => (options & functor.Option) != 0)
            .Select(functor => "flashinfer::" + string.Format(CultureInfo.InvariantCulture, functor.Functor, rotaryDim));
        return $"#include \"attention/variants.cuh\"\nusing Variant = flashinfer::Compose<{string.Join(", ", functors)}>;\n";
    }
}
