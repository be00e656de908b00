namespace FlashInfer.Tests.KvCache;

/// <summary>What a sequence must look like.</summary>
internal sealed class ModelSequence(Sequence actual)
{
    public Sequence Actual => actual;

    public int Length { get; set; }

    public int ForwardTokens { get; set; }

    public bool IsFreed { get; set; }

    public List<int> Pages { get; } = [];

    /// <summary>Where its pages lay in the page table when it was last changed.</summary>
    public int PageOffset { get; set; }
}

/// <summary>A cache as a list of lists: which sequence holds which pages, and how many hold a page. It knows how many pages a sequence gets, not which.</summary>
internal sealed class CacheModel(int pages, int pageSize)
{
    private readonly int[] _holders = new int[pages];

    public List<ModelSequence> Sequences { get; } = [];

    public int FreePages => _holders.Count(holders => holders == 0);

    public ModelSequence Add(Sequence actual)
    {
        ModelSequence sequence = new(actual);
        Sequences.Add(sequence);
        return sequence;
    }

    public ModelSequence? Find(Sequence? actual) => Sequences.Find(sequence => sequence.Actual == actual);

    /// <summary>The exception that a call with this batch must throw; null when it must succeed.</summary>
    public Type? Verdict(CacheOperationKind kind, Sequence?[] batch, int[] tokens, int maxSequences)
    {
        if (kind == CacheOperationKind.Plan && (batch.Length == 0 || batch.Length > maxSequences))
        {
            return typeof(ArgumentException);
        }

        if (kind == CacheOperationKind.Plan)
        {
            return batch.Select(KnownVerdict).FirstOrDefault(v => v is not null) ?? DuplicateForward(batch);
        }

        bool begins = kind is CacheOperationKind.Begin or CacheOperationKind.TryBegin;
        for (int i = 0; i < batch.Length; i++)
        {
            Type? verdict = KnownVerdict(batch[i]) ?? (batch.Take(i).Contains(batch[i]) ? typeof(ArgumentException) : null);
            if (
                verdict is null
                && kind is not (CacheOperationKind.Free or CacheOperationKind.Fork)
                && Find(batch[i])!.ForwardTokens > 0 == begins
            )
            {
                verdict = typeof(InvalidOperationException);
            }

            if (verdict is not null)
            {
                return verdict;
            }
        }

        if (kind == CacheOperationKind.Accept)
        {
            bool legal = batch.Select((s, i) => tokens[i] >= 0 && tokens[i] <= Find(s)!.ForwardTokens).All(accepted => accepted);
            return legal ? null : typeof(ArgumentOutOfRangeException);
        }

        if (kind == CacheOperationKind.Fork)
        {
            int length = Find(batch[0])!.Length;
            return tokens[0] < 0 || tokens[0] > length ? typeof(ArgumentOutOfRangeException)
                : tokens[0] % pageSize != 0 && FreePages == 0 ? typeof(OutOfPagesException)
                : null;
        }

        if (!begins)
        {
            return null;
        }

        return tokens.Any(count => count < 1) ? typeof(ArgumentOutOfRangeException)
            : NeededPages(batch, tokens) > FreePages ? typeof(OutOfPagesException)
            : null;
    }

    public long NeededPages(Sequence?[] batch, int[] tokens) =>
        batch.Select((s, i) => Find(s)!).Select((s, i) => PagesFor((long)s.Length + tokens[i]) - s.Pages.Count).Sum();

    public void Begin(ModelSequence sequence, int tokens)
    {
        sequence.ForwardTokens = tokens;
        int count = (int)PagesFor((long)sequence.Length + tokens);
        ReadOnlySpan<int> actual = sequence.Actual.Pages;
        Assert.Equal(count, actual.Length);
        for (int i = sequence.Pages.Count; i < count; i++)
        {
            Take(sequence, actual[i]);
        }
    }

    /// <summary>The fork holds the whole pages too, and one of its own for what is behind them.</summary>
    public ModelSequence Fork(ModelSequence sequence, int tokens, Sequence actual)
    {
        ModelSequence fork = Add(actual);
        fork.Length = tokens;
        foreach (int page in sequence.Pages.Take(tokens / pageSize))
        {
            _holders[page]++;
            fork.Pages.Add(page);
        }

        if (tokens % pageSize != 0)
        {
            Take(fork, actual.Pages[^1]);
        }

        return fork;
    }

    public static void End(ModelSequence sequence)
    {
        sequence.Length += sequence.ForwardTokens;
        sequence.ForwardTokens = 0;
    }

    public void Accept(ModelSequence sequence, int tokens)
    {
        sequence.Length += tokens;
        Abandon(sequence);
    }

    public void Abandon(ModelSequence sequence)
    {
        sequence.ForwardTokens = 0;
        Release(sequence, (int)PagesFor(sequence.Length));
    }

    public void Free(ModelSequence sequence)
    {
        Release(sequence, 0);
        sequence.Length = 0;
        sequence.ForwardTokens = 0;
        sequence.IsFreed = true;
    }

    public long PagesFor(long tokens) => (tokens + pageSize - 1) / pageSize;

    /// <summary>The cache holds what the model says; of sequences that the call did not name, the page table did not move either.</summary>
    public void Check(PagedKvCache cache, IEnumerable<ModelSequence> named)
    {
        Assert.Equal(FreePages, cache.FreePages);
        int[] held = new int[pages];
        foreach (ModelSequence sequence in Sequences)
        {
            Sequence actual = sequence.Actual;
            Assert.Equal(
                (sequence.Length, sequence.ForwardTokens, sequence.IsFreed, sequence.Length + sequence.ForwardTokens),
                (actual.Length, actual.ForwardTokens, actual.IsFreed, actual.KvLength)
            );
            Assert.Equal(PagesFor(actual.KvLength), actual.PageCount);
            Assert.Equal(sequence.Pages, actual.Pages.ToArray());
            foreach (int page in actual.Pages)
            {
                Assert.InRange(page, 0, cache.TotalPages - 1);
                held[page]++;
            }
        }

        Assert.Equal(_holders, held);

        foreach (ModelSequence sequence in named)
        {
            sequence.PageOffset = sequence.Actual.PageOffset;
        }

        Assert.All(Sequences, sequence => Assert.Equal(sequence.PageOffset, sequence.Actual.PageOffset));
    }

    private Type? KnownVerdict(Sequence? sequence) =>
        sequence is null ? typeof(ArgumentNullException)
        : Find(sequence) is not { IsFreed: false } ? typeof(ArgumentException)
        : null;

    private Type? DuplicateForward(Sequence?[] batch) =>
        batch.GroupBy(s => s).Any(group => group.Count() > 1 && Find(group.Key)!.ForwardTokens > 0) ? typeof(ArgumentException) : null;

    private void Take(ModelSequence sequence, int page)
    {
        Assert.True(_holders[page] == 0, $"page {page} of {sequence.Actual} was not free");
        _holders[page] = 1;
        sequence.Pages.Add(page);
    }

    private void Release(ModelSequence sequence, int keep)
    {
        for (int i = keep; i < sequence.Pages.Count; i++)
        {
            _holders[sequence.Pages[i]]--;
        }

        sequence.Pages.RemoveRange(keep, sequence.Pages.Count - keep);
    }
}
