using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;

namespace FlashInfer.Attention;

/// <summary>
/// What a wrapper over a paged cache knows of its planned sequences, whatever it computes: as its planner wants to see them, whether the
/// plan is still true, and where the new tokens of their open forwards go.
/// </summary>
internal sealed class PlannedBatch : IDisposable
{
    private readonly IExplainsPlan _owner;
    private readonly UseGuard _guard;
    private readonly AppendList _appends;
    private readonly Sequence[] _sequences;
    private readonly int[] _revisions;
    private readonly int[] _counts;
    private readonly int[] _lengths;
    private readonly int[] _pageOffsets;
    private readonly int[] _queryTokens;
    private readonly int[] _attends;
    private readonly int[] _firstRows;
    private readonly int[] _givenLengths;
    private int _attending;
    private int _cacheRevision;
    private int _cacheCommits;
    private int _forwardTokens;
    private long _start;
    private bool _disposed;

    /// <param name="owner">The wrapper.</param>
    /// <param name="name">Its name, for messages.</param>
    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    public PlannedBatch(IExplainsPlan owner, string name, PagedKvCache cache, int maxSequences)
    {
        _owner = owner;
        Name = name;
        _guard = new UseGuard(name);
        Cache = cache;
        // Begun when the cache was made, it had the time that the wrapper's kernels took. No step waits for it, or fails by it.
        cache.Kernels.Load(KernelKinds.Append);
        _appends = new AppendList(cache, $"{name}.Append");
        Check = LaunchCheck.Create(cache, $"{name}.Run", SequenceAt);
        _sequences = new Sequence[maxSequences];
        _revisions = new int[maxSequences];
        _counts = new int[maxSequences];
        _lengths = new int[maxSequences];
        _pageOffsets = new int[maxSequences];
        _queryTokens = new int[maxSequences];
        _attends = new int[maxSequences];
        _firstRows = new int[maxSequences];
        _givenLengths = new int[maxSequences];
    }

    /// <summary>The wrapper's name, for messages.</summary>
    public string Name { get; }

    /// <summary>The cache that holds the sequences.</summary>
    public PagedKvCache Cache { get; }

    /// <summary>The check of the wrapper's launches; null when the device is not in checked mode.</summary>
    public LaunchCheck? Check { get; }

    /// <summary>Sequences of the plan; -1 when there is none.</summary>
    public int Planned { get; private set; } = -1;

    /// <summary>Query tokens of all sequences.</summary>
    public int Rows { get; private set; }

    /// <summary>The most tokens of an open forward, of sequences that have query tokens: what the step may still write when it attends.</summary>
    public int FreshTokens { get; private set; }

    /// <summary>Tokens of each sequence that has query tokens.</summary>
    public ReadOnlySpan<int> Lengths => _lengths.AsSpan(0, _attending);

    /// <summary>Where the pages of each sequence that has query tokens start in the page table.</summary>
    public ReadOnlySpan<int> PageOffsets => _pageOffsets.AsSpan(0, _attending);

    /// <summary>Query tokens of each sequence that has any.</summary>
    public ReadOnlySpan<int> QueryTokens => _queryTokens.AsSpan(0, _attending);

    /// <summary>Place in the batch of each sequence that has query tokens.</summary>
    public ReadOnlySpan<int> Places => _attends.AsSpan(0, _attending);

    /// <summary>The row of the first query token of each sequence that has any.</summary>
    public ReadOnlySpan<int> FirstRows => _firstRows.AsSpan(0, _attending);

    /// <summary>The sequences that have query tokens.</summary>
    public PlannedSequences Attending => new(QueryTokens, Lengths, Places, FirstRows);

    /// <summary>The one caller's entry.</summary>
    public UseGuard.Use Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, _owner);
        Cache.ThrowIfDisposed();
        return _guard.Enter();
    }

    /// <summary>Throws unless the sequences can be planned; the time of a plan counts from here.</summary>
    public void CheckSequences(ReadOnlySpan<Sequence> sequences)
    {
        _start = Telemetry.StartPlan(Cache.Device.Log);
        if (sequences.Length == 0 || sequences.Length > _sequences.Length)
        {
            string advice = sequences.Length == 0 ? "Skip a step that has none." : "The wrapper's constructor takes a larger maxSequences.";
            throw new ArgumentException(
                $"{sequences.Length} sequences were given; expected 1 to {_sequences.Length}. {advice}",
                nameof(sequences)
            );
        }

        _forwardTokens = Cache.CheckPlanned(sequences);
    }

    /// <summary>One query token for each sequence.</summary>
    public ReadOnlySpan<int> Ones(ReadOnlySpan<Sequence> sequences)
    {
        _counts.AsSpan(0, sequences.Length).Fill(1);
        return _counts.AsSpan(0, sequences.Length);
    }

    /// <summary>A batch to be planned, as arguments of a variant see it; nothing where there is none.</summary>
    public BatchShape Shape(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens)
    {
        if (Cache.Spec.Variant is null)
        {
            return default;
        }

        for (int i = 0; i < sequences.Length; i++)
        {
            _givenLengths[i] = sequences[i].KvLength;
        }

        return new BatchShape(Cache.Spec, queryTokens, _givenLengths.AsSpan(0, sequences.Length));
    }

    /// <summary>The tokens of each sequence's open forward.</summary>
    public ReadOnlySpan<int> ForwardTokens(ReadOnlySpan<Sequence> sequences)
    {
        for (int i = 0; i < sequences.Length; i++)
        {
            _counts[i] = sequences[i].ForwardTokens;
        }

        return _counts.AsSpan(0, sequences.Length);
    }

    /// <summary>Throws unless there is a number of query tokens for each sequence, and none is above the most or negative.</summary>
    public static void CheckQueryTokens(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens, int most, string advice)
    {
        if (sequences.Length != queryTokens.Length)
        {
            throw new ArgumentException(
                $"{sequences.Length} sequences but {queryTokens.Length} numbers of query tokens were given.",
                nameof(queryTokens)
            );
        }

        int wrong = queryTokens.IndexOfAnyExceptInRange(0, most);
        if (wrong >= 0)
        {
            throw new ArgumentOutOfRangeException(
                nameof(queryTokens),
                queryTokens[wrong],
                $"Sequence {wrong} of the batch ({sequences[wrong]}) has {queryTokens[wrong]} query tokens; expected 0 to {most}. {advice}"
            );
        }
    }

    /// <summary>Throws when the sequences have more query tokens together than the most.</summary>
    public static void CheckRows(ReadOnlySpan<int> queryTokens, int most, string advice)
    {
        long rows = 0;
        foreach (int tokens in queryTokens)
        {
            rows += tokens;
        }

        if (rows > most)
        {
            throw new ArgumentException(
                $"The {queryTokens.Length} sequences have {rows} query tokens; expected at most {most}. {advice}",
                nameof(queryTokens)
            );
        }
    }

    /// <summary>Forgets the plan and takes the sequences: nothing can be wrong with them any more. A failure of the device leaves no plan.</summary>
    public void Begin(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> queryTokens, CudaStream? stream)
    {
        Check?.Before(stream);
        _appends.Check?.Before(stream);
        Planned = -1;
        sequences.CopyTo(_sequences);
        int attending = 0;
        int rows = 0;
        int freshTokens = 0;
        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            _revisions[i] = sequence.Revision;
            int tokens = queryTokens[i];
            if (tokens > 0)
            {
                _lengths[attending] = sequence.KvLength;
                _pageOffsets[attending] = sequence.PageOffset;
                _attends[attending] = i;
                _firstRows[attending] = rows;
                _queryTokens[attending++] = tokens;
                rows += tokens;
                freshTokens = Math.Max(freshTokens, sequence.ForwardTokens);
            }
        }

        _attending = attending;
        Rows = rows;
        FreshTokens = freshTokens;
    }

    /// <summary>Sends what else the device has to know, and makes the plan valid.</summary>
    public void Commit(ReadOnlySpan<Sequence> sequences, CudaStream? stream)
    {
        _appends.Fill(sequences, _forwardTokens, stream);
        Cache.Table.Flush(Cache.Kernels, stream);
        Cache.Streams?.After(stream);
        _cacheRevision = Cache.Revision;
        _cacheCommits = Cache.Commits;
        Planned = sequences.Length;
        Telemetry.EndPlan(_start, Name, _owner, Cache.Device.Log);
    }

    /// <summary>Throws when there is no plan.</summary>
    public void RequirePlan()
    {
        if (Planned < 0)
        {
            throw new StalePlanException("There is no plan; call Plan with the step's sequences first.");
        }
    }

    /// <summary>Throws when there is no plan or a sequence of it has changed.</summary>
    public void RequireFreshPlan()
    {
        RequirePlan();
        if (_cacheRevision == Cache.Revision)
        {
            return;
        }

        for (int i = 0; i < Planned; i++)
        {
            if (_sequences[i].Revision != _revisions[i])
            {
                throw new StalePlanException(
                    $"The plan is stale: a sequence of it ({_sequences[i]}) has begun a forward, abandoned one or a part of it, or was freed since it was planned. Call Plan again."
                );
            }
        }

        // Other sequences changed, none of ours: the look at each need not be repeated.
        _cacheRevision = Cache.Revision;
    }

    /// <summary>Writes the keys and values of the open forwards into one layer.</summary>
    public void Append(int layer, TensorView key, TensorView value, CudaStream? stream)
    {
        Cache.CheckLayer(layer);
        RequireFreshPlan();
        if (_appends.Tokens == 0)
        {
            throw new InvalidOperationException(
                "None of the planned sequences had a forward open; call BeginForward before Plan to append."
            );
        }

        RequireOpenForwards();
        AppendParams args = Cache.AppendArguments(layer, _appends.Tokens, key, value, stream);
        _appends.Run(layer, args, Cache.Kernels, stream);
    }

    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _appends.Dispose();
            Check?.Dispose();
        }
    }

    /// <summary>The sequence that has a place in the batch.</summary>
    public Sequence At(int place) => _sequences[place];

    /// <summary>One of the sequences that have query tokens.</summary>
    public Sequence Attends(int index) => At(_attends[index]);

    /// <summary>The sequence that a row of the query belongs to.</summary>
    public Sequence? SequenceAt(int row) => IndexAt(row) is var i and >= 0 ? Attends(i) : null;

    /// <summary>Which of those with query tokens it is; -1 when the row is none's.</summary>
    public int IndexAt(int row)
    {
        for (int i = 0; i < _attending; i++)
        {
            row -= _queryTokens[i];
            if (row < 0)
            {
                return i;
            }
        }

        return -1;
    }

    /// <summary>A fresh plan may have been made before EndForward: committed tokens are read but no longer written.</summary>
    private void RequireOpenForwards()
    {
        if (_cacheCommits == Cache.Commits)
        {
            return;
        }

        int open = 0;
        for (int i = 0; i < Planned; i++)
        {
            open += _sequences[i].ForwardTokens;
        }

        if (open != _appends.Tokens)
        {
            throw new InvalidOperationException(
                $"The plan has {_appends.Tokens} new tokens but forwards with {_appends.Tokens - open} of them were ended since; append every layer before EndForward."
            );
        }

        _cacheCommits = Cache.Commits;
    }
}
