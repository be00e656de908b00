namespace FlashInfer;

/// <summary>Which of a configuration's kernels are made ready ahead of their first use; what is not named is made ready when a wrapper asks for it.</summary>
[Flags]
public enum KernelKinds
{
    /// <summary>None.</summary>
    None = 0,

    /// <summary>What writes new keys and values into a cache: every cache needs it.</summary>
    Append = 1,

    /// <summary>
    /// Batch decode with one query token a sequence, of many query heads for a KV head too where there are so many, and append.
    /// </summary>
    Decode = Append | 2,

    /// <summary>Batch decode for many short sequences.</summary>
    ShortDecode = Decode | 4,

    /// <summary>Batch decode with 2, 4 and 8 query tokens a sequence; with <see cref="ShortDecode"/> also those for many short sequences.</summary>
    SpeculativeDecode = Decode | 8,

    /// <summary>
    /// Batch prefill over the paged cache, over keys and values staged from it where there is that, and append; on Hopper, where the cache
    /// is quantised, also <see cref="ShortDecode"/>, for single tokens.
    /// </summary>
    PrefillPaged = Append | 16,

    /// <summary>Batch prefill over ragged keys and values, and over staged keys where there is that.</summary>
    PrefillRagged = 32,

    /// <summary>
    /// Merging of attention states, and multi-level cascade attention with it: batch prefill over the paged cache, and decode of sequences
    /// that share nothing.
    /// </summary>
    Cascade = PrefillPaged | ShortDecode | 64,

    /// <summary>Decode of one sequence without a cache; <see cref="PrefillRagged"/> where that does it.</summary>
    SingleDecode = 128,

    /// <summary>All of them.</summary>
    All = SpeculativeDecode | PrefillRagged | SingleDecode | Cascade,
}
