namespace FlashInfer.Planning;

/// <summary>What reading saves and what levels cost, in bytes moved.</summary>
/// <param name="Page">Keys and values of a page.</param>
/// <param name="Row">What a level writes and a merge reads for a row.</param>
/// <param name="Level">What starting a level's kernel costs.</param>
internal readonly record struct CascadeCosts(long Page, long Row, long Level);

/// <summary>
/// Decides which pages neighbouring sequences attend to together. Levels are worked on from the first pages on: of each level a sequence
/// has a range of pages, which may be empty, behind that of the level before; sequences next to each other with the same pages there read
/// them once. Pure functions over spans: no CUDA, no allocation.
/// </summary>
/// <remarks>
/// The pages that neighbours have in common make a tree: a batch has those that all of it begins with, and falls apart where neighbours
/// have no more than these in common. At each node the range up to there is either a level or it is not, and what is below decides for
/// itself; what saves more is taken.
/// </remarks>
/// <param name="shared">Of each sequence, the first pages that it has in common with the one before it.</param>
/// <param name="queryTokens">Query tokens of each sequence.</param>
/// <param name="costs">Costs.</param>
internal readonly ref struct CascadePlanner(ReadOnlySpan<int> shared, ReadOnlySpan<int> queryTokens, CascadeCosts costs)
{
    // Nodes below are not looked at: a batch whose neighbours share a little more each time would take too long.
    private const int DeepestNode = 12;

    private readonly ReadOnlySpan<int> _shared = shared;
    private readonly ReadOnlySpan<int> _queryTokens = queryTokens;

    /// <summary>Chooses as many levels as pay.</summary>
    /// <param name="levels">The most levels.</param>
    /// <param name="ends">Receives, level by level, the page where each sequence's range ends; <paramref name="levels"/> times sequences.</param>
    /// <returns>Levels in use.</returns>
    public int Choose(int levels, Span<int> ends)
    {
        ends.Clear();
        int best = 0;
        long saved = 0;
        for (int count = 1; count <= levels; count++)
        {
            long saves = Saves(0, _shared.Length, 0, count, 0) - (count * costs.Level);
            (best, saved) = saves > saved ? (count, saves) : (best, saved);
        }

        return best == 0 ? 0 : Assign(0, _shared.Length, 0, best, 0, 0, levels, ends);
    }

    /// <summary>What the sequences of a node save with the levels left, behind the pages that they have attended to already.</summary>
    private long Saves(int first, int last, int begin, int levels, int depth)
    {
        if (last - first < 2 || levels == 0 || depth == DeepestNode)
        {
            return 0;
        }

        int end = Common(first, last);
        int below = depth + (end > begin ? 1 : 0);
        long without = 0;
        long with = Gain(first, last, begin, end);
        bool isLevel = with > 0;
        for (int at = first; at < last; )
        {
            int next = Child(at, last, end);
            without += Saves(at, next, begin, levels, below);
            with += isLevel ? Saves(at, next, end, levels - 1, below) : 0;
            at = next;
        }

        return Math.Max(without, with);
    }

    /// <summary>Writes down what <see cref="Saves"/> found best.</summary>
    /// <returns>Levels in use.</returns>
    private int Assign(int first, int last, int begin, int levels, int depth, int level, int stride, Span<int> ends)
    {
        if (last - first < 2 || levels == 0 || depth == DeepestNode)
        {
            return level;
        }

        int end = Common(first, last);
        int below = depth + (end > begin ? 1 : 0);
        long without = 0;
        long with = Gain(first, last, begin, end);
        bool isLevel = with > 0;
        for (int at = first; isLevel && at < last; )
        {
            int next = Child(at, last, end);
            without += Saves(at, next, begin, levels, below);
            with += Saves(at, next, end, levels - 1, below);
            at = next;
        }

        if (isLevel && with >= without)
        {
            for (int later = level; later < stride; later++)
            {
                ends.Slice(later * _shared.Length, _shared.Length)[first..last].Fill(end);
            }

            (begin, levels, level) = (end, levels - 1, level + 1);
        }

        int used = level;
        for (int at = first; at < last; )
        {
            int next = Child(at, last, end);
            used = Math.Max(used, Assign(at, next, begin, levels, below, level, stride, ends));
            at = next;
        }

        return used;
    }

    /// <summary>Pages that all sequences of a node have in common.</summary>
    private int Common(int first, int last)
    {
        int common = int.MaxValue;
        foreach (int pages in _shared[(first + 1)..last])
        {
            common = Math.Min(common, pages);
        }

        return common;
    }

    /// <summary>Where the node's part that starts here ends: before the next sequence that shares no more than all of them do.</summary>
    private int Child(int first, int last, int common)
    {
        int at = _shared[(first + 1)..last].IndexOf(common);
        return at < 0 ? last : first + 1 + at;
    }

    private long Gain(int first, int last, int begin, int end)
    {
        long rows = 0;
        foreach (int tokens in _queryTokens[first..last])
        {
            rows += tokens;
        }

        return ((last - first - 1L) * (end - begin) * costs.Page) - (rows * costs.Row);
    }
}
