using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>
/// Which tokens are staged, where that pays: a kernel that prepares keys and values by itself does so for each tile that walks them, staging
/// once for all. Pure functions over spans, as <see cref="PrefillPlanner"/>.
/// </summary>
internal static class PrefillStaging
{
    /// <summary>Tokens of an item at most.</summary>
    public const int ItemTokens = 64;

    // How often a staged token has to be walked on average, for each KV head, measured on an H100 with headDim 128: where tokens are only
    // gathered from their pages, where they are widened, turned, or both, and where the portable kernel does that.
    private const int GatheredWalks = 36;
    private const int WidenedWalks = 8;
    private const int TurnedWalks = 7;
    private const int WidenedAndTurnedWalks = 4;
    private const int PortableWalks = 3;

    // Of ragged keys and values only keys, which turn.
    private const int RaggedWalks = 3;

    // Where prefill stages on the way, which takes its time beside products, but keeps the first tiles waiting: for as long as a launch costs.
    private const int OnTheWayWalks = 8;

    // What a batch in two launches, some of it staged, loses to one over all of it, as tokens that could be staged in that time (measured as well,
    // where a few chunks stood beside 4 to 120 single tokens on 1k to 8k): the launch, for one KV head; and where single tokens wait for memory, not
    // for whoever widens what they read, a share of theirs, since they no longer do so while chunks are multiplied.
    private const int LaunchTokens = 1 << 14;
    private const int WaitingShare = 16;

    /// <summary>Items that a list may need.</summary>
    /// <param name="maxSequences">Sequences of the largest step.</param>
    /// <param name="maxTokens">Tokens that there is room for.</param>
    public static int MaxItems(int maxSequences, int maxTokens) => (maxTokens / ItemTokens) + Math.Min(maxSequences, maxTokens);

    /// <summary>How often a staged token has to be walked on average, by tiles of one KV head, so that staging pays.</summary>
    /// <param name="shape">The configuration.</param>
    /// <param name="isPaged">Whether it is staged from a paged cache.</param>
    /// <param name="isHopper">Whether the kernel that prepares by itself is Hopper's.</param>
    /// <param name="isOnTheWay">As <see cref="StagingLimits.IsOnTheWay"/>.</param>
    public static int LeastWalks(AttentionShape shape, bool isPaged, bool isHopper, bool isOnTheWay) =>
        isOnTheWay ? OnTheWayWalks
        : !isHopper ? PortableWalks
        : !isPaged ? RaggedWalks
        : shape.Turns ? (shape.IsQuantised ? WidenedAndTurnedWalks : TurnedWalks)
        : shape.IsQuantised ? WidenedWalks
        : GatheredWalks;

    /// <summary>
    /// Chooses the sequences that are staged: those whose tokens are walked often enough, unless one launch over all, staged or not, gains more
    /// than two do over a part each. Where there is no room for all of them, those that gain most for each token.
    /// </summary>
    /// <param name="batch">The sequences; ragged ones start where their rows do.</param>
    /// <param name="limits">Machine and staged prefill.</param>
    /// <param name="staging">What there is room for, and what pays.</param>
    /// <param name="stages">Whether to stage what has room, or nothing; null for what gains most.</param>
    /// <param name="staged">Receives for each sequence whether it is staged; undefined where none is.</param>
    /// <param name="order">Scratch, as long.</param>
    public static StagingChoice Choose(
        in PrefillBatch batch,
        in PrefillPlanLimits limits,
        in StagingLimits staging,
        bool? stages,
        Span<bool> staged,
        Span<long> order
    )
    {
        if (stages == false)
        {
            return default;
        }

        int headTiles = limits.HeadTiles / limits.KvHeads;
        Stageable all = default;
        Stageable some = default;
        bool allFit = true;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            int tokens = batch.Lengths[i] - First(batch, i, limits);
            long gain = Walks(batch, i, headTiles, limits) - ((long)tokens * staging.LeastWalks);
            bool fits = tokens == 0 || (staging.IsPaged ? tokens : (long)batch.Starts[i] + batch.Lengths[i]) <= staging.MaxTokens;
            allFit &= fits;
            all.Add(tokens, gain);
            staged[i] = fits && (stages == true || gain >= 0);
            if (staged[i])
            {
                some.Add(tokens, gain);
            }
        }

        // By whatever staging is done: what is lost is time in which another kernel could stage so many tokens.
        long lostWalks = staging.IsOnTheWay ? GatheredWalks : staging.LeastWalks;
        long lost = staging.IsOnTheWay ? LaunchTokens / limits.KvHeads : 0;
        all.Gain -= lostWalks * lost;
        allFit &= all.Tokens <= staging.MaxTokens;
        if (some.Tokens == 0)
        {
            return default;
        }

        if (some.Sequences == all.Sequences && allFit)
        {
            return stages == true || all.Gain >= 0 ? all.Choice : default;
        }

        if (some.Tokens > staging.MaxTokens)
        {
            some = Densest(batch, limits, staging, staged, order);
        }

        lost += (LaunchTokens / limits.KvHeads) + (staging.RestWaits ? (all.Tokens - some.Tokens) / WaitingShare : 0);
        some.Gain -= lostWalks * lost;
        return allFit && (stages == true || (all.Gain >= 0 && all.Gain >= some.Gain)) ? all.Choice
            : stages == true || some.Gain >= 0 ? some.Choice
            : default;
    }

    /// <summary>Lists the tokens to be staged.</summary>
    /// <param name="batch">The sequences; they start where their pages do, or where their ragged rows do.</param>
    /// <param name="limits">Machine and staged prefill.</param>
    /// <param name="isPaged">Whether they start at pages: their rows are one behind the other. Ragged ones have their own rows, since values stay there.</param>
    /// <param name="starts">Receives in which row the first token of each sequence would be, as <see cref="WorkItem.KvStart"/> of staged prefill: below 0 where it is none of the staged ones.</param>
    /// <param name="items">Receives the items.</param>
    /// <param name="order">Scratch, an element for each sequence.</param>
    /// <returns>Items written, in the order in which tiles want them: of the longest sequences first, and from their ends on.</returns>
    public static int List(
        in PrefillBatch batch,
        in PrefillPlanLimits limits,
        bool isPaged,
        Span<int> starts,
        Span<StageItem> items,
        Span<long> order
    )
    {
        int row = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            int first = First(batch, i, limits);
            starts[i] = isPaged ? row - first : batch.Starts[i];
            row += batch.Lengths[i] - first;
            order[i] = ((long)~batch.Lengths[i] << 32) | (uint)i;
        }

        order = order[..batch.Lengths.Length];
        order.Sort();
        int count = 0;
        foreach (long next in order)
        {
            int i = (int)next;
            int first = First(batch, i, limits);
            int start = starts[i];
            for (int end = batch.Lengths[i]; end > first; )
            {
                // None goes over a multiple of rows: a kernel may count by these what is there.
                int token = Math.Max(first, ((start + end - 1) / ItemTokens * ItemTokens) - start);
                items[count++] = new StageItem
                {
                    Row = start + token,
                    Count = end - token,
                    Position = token,
                    PageOffset = batch.Starts[i],
                };
                end = token;
            }
        }

        return count;
    }

    /// <summary>Leaves those staged that have room and whose tokens are walked most often.</summary>
    private static Stageable Densest(
        in PrefillBatch batch,
        in PrefillPlanLimits limits,
        in StagingLimits staging,
        Span<bool> staged,
        Span<long> order
    )
    {
        // Walks of a token as a number above 0, whose bits are in its order; of those that gain alike the first is the largest.
        int headTiles = limits.HeadTiles / limits.KvHeads;
        int count = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            if (staged[i])
            {
                int tokens = batch.Lengths[i] - First(batch, i, limits);
                float each = tokens == 0 ? float.PositiveInfinity : (float)Walks(batch, i, headTiles, limits) / tokens;
                order[count++] = ((long)BitConverter.SingleToInt32Bits(each) << 32) | (uint)~i;
            }
        }

        order[..count].Sort();
        Stageable densest = default;
        while (--count >= 0)
        {
            int i = (int)~(uint)order[count];
            int tokens = batch.Lengths[i] - First(batch, i, limits);
            staged[i] = densest.Tokens + tokens <= staging.MaxTokens;
            if (staged[i])
            {
                densest.Add(tokens, Walks(batch, i, headTiles, limits) - ((long)tokens * staging.LeastWalks));
            }
        }

        return densest;
    }

    /// <summary>How many tokens all tiles of a KV head walk of a sequence.</summary>
    private static long Walks(in PrefillBatch batch, int sequence, int headTiles, in PrefillPlanLimits limits) =>
        batch.QueryTokens[sequence] == 0 ? 0 : batch.Walked(sequence, limits) * headTiles;

    /// <summary>The first token that a tile of the sequence walks: no later tile begins before the first one. From it on all are staged, if any tile does.</summary>
    private static int First(in PrefillBatch batch, int sequence, in PrefillPlanLimits limits) =>
        batch.QueryTokens[sequence] == 0 ? batch.Lengths[sequence]
        : batch.SeesBeginnings ? 0
        : batch.Range(sequence, 0, limits).Begin;

    /// <summary>Sequences that may be staged: their tokens, and by how much more those are walked than they have to be.</summary>
    private struct Stageable
    {
        public int Sequences;
        public long Tokens;
        public long Gain;

        public readonly StagingChoice Choice => new(Sequences, Tokens);

        public void Add(int tokens, long gain)
        {
            Sequences++;
            Tokens += tokens;
            Gain += gain;
        }
    }
}

/// <summary>What there is room for, and what pays.</summary>
/// <param name="IsPaged">Whether tokens are staged one behind the other, from pages; ragged ones have the rows that they have.</param>
/// <param name="MaxTokens">Rows that there is room for.</param>
/// <param name="LeastWalks">As <see cref="PrefillStaging.LeastWalks"/>.</param>
/// <param name="RestWaits">Whether single tokens that are not staged wait for memory.</param>
/// <param name="IsOnTheWay">Whether prefill itself stages, while it attends to what is staged already.</param>
internal readonly record struct StagingLimits(bool IsPaged, int MaxTokens, int LeastWalks, bool RestWaits, bool IsOnTheWay = false);

/// <summary>What a plan stages.</summary>
/// <param name="Sequences">Sequences that are attended to over staged keys and values; those that have no tokens to be walked may be among them.</param>
/// <param name="Tokens">Tokens that are staged; 0 when nothing is.</param>
internal readonly record struct StagingChoice(int Sequences, long Tokens);
