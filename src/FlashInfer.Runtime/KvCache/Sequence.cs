using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>One sequence of tokens in a <see cref="PagedKvCache"/>: made by <see cref="PagedKvCache.NewSequence"/> or <see cref="PagedKvCache.Fork(Sequence, int, CudaStream?)"/>, changed by the cache only.</summary>
public sealed class Sequence
{
    internal Sequence(PagedKvCache cache, long id)
    {
        Cache = cache;
        Id = id;
    }

    /// <summary>The cache that holds the sequence.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>A number that no other sequence of this cache has or had.</summary>
    public long Id { get; }

    /// <summary>Committed tokens.</summary>
    public int Length { get; internal set; }

    /// <summary>Tokens of the open forward; 0 when none is open.</summary>
    public int ForwardTokens { get; internal set; }

    /// <summary>Committed tokens and those of the open forward: what a plan made now attends to.</summary>
    public int KvLength => Length + ForwardTokens;

    /// <summary>Whether a forward is open: begun and neither ended nor abandoned.</summary>
    public bool IsInForward => ForwardTokens > 0;

    /// <summary>Whether the sequence was freed; it can't be used any more.</summary>
    public bool IsFreed { get; internal set; }

    /// <summary>Pages that the sequence holds now.</summary>
    public int PageCount { get; internal set; }

    /// <summary>The ids of its pages in order; valid until the cache changes.</summary>
    public ReadOnlySpan<int> Pages => Cache.PagesOf(this);

    /// <summary>Whether it began with pages that another sequence held.</summary>
    internal bool IsFork => Origin != 0;

    /// <summary>Id of the sequence that it was forked from; 0 of one that was not.</summary>
    internal long Origin { get; init; }

    /// <summary>Whole pages that it shares with its origin.</summary>
    internal int SharedPages { get; init; }

    /// <summary>First pages that are certain to be another sequence's first, too; there may be more.</summary>
    internal int KnownShared(Sequence other) =>
        this == other ? PageCount
        : Origin == other.Id ? SharedPages
        : other.Origin == Id ? other.SharedPages
        : Origin == other.Origin ? Math.Min(SharedPages, other.SharedPages)
        : 0;

    /// <summary>Where its pages start in the page table.</summary>
    internal int PageOffset { get; set; }

    /// <summary>Size class of its stretch of the page table; -1 when it has none.</summary>
    internal int SizeClass { get; set; } = -1;

    /// <summary>Goes up whenever a plan made before would no longer be right.</summary>
    internal int Revision { get; set; }

    /// <summary>The last batch that the sequence was seen in: finds duplicates without a set.</summary>
    internal long Mark { get; set; }

    /// <summary>Id and lengths.</summary>
    public override string ToString() =>
        IsFreed
            ? $"sequence {Id} (freed)"
            : $"sequence {Id}: {Count(Length, "token")}{(IsInForward ? $" + {ForwardTokens} in forward" : "")}, {Count(PageCount, "page")}";

    private static string Count(int number, string what) => $"{number} {what}{(number == 1 ? "" : "s")}";
}
