using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>
/// Which tokens are staged, and whether that pays: a kernel that prepares keys and values by itself does so for each tile that walks them,
/// staging once for all. Pure functions over spans, as <see cref="PrefillPlanner"/>.
/// </summary>
internal static class PrefillStaging
{
    /// <summary>Tokens of an item at most.</summary>
    public const int ItemTokens = 64;

    // How often a staged token has to be walked on average, for each KV head, measured on an H100 with headDim 128: where tokens are only
    // gathered from their pages, where they are widened, turned, or both, and where the portable kernel does that.
    private const int GatheredWalks = 26;
    private const int WidenedWalks = 8;
    private const int TurnedWalks = 7;
    private const int WidenedAndTurnedWalks = 4;
    private const int PortableWalks = 3;

    // Of ragged keys and values only keys, which turn.
    private const int RaggedWalks = 3;

    /// <summary>Items that a list may need.</summary>
    /// <param name="maxSequences">Sequences of the largest step.</param>
    /// <param name="maxTokens">Tokens that there is room for.</param>
    public static int MaxItems(int maxSequences, int maxTokens) => (maxTokens / ItemTokens) + Math.Min(maxSequences, maxTokens);

    /// <summary>How often a staged token has to be walked on average, by tiles of one KV head, so that staging pays.</summary>
    /// <param name="shape">The configuration.</param>
    /// <param name="isPaged">Whether it is staged from a paged cache.</param>
    /// <param name="isHopper">Whether the kernel that prepares by itself is Hopper's.</param>
    public static int LeastWalks(AttentionShape shape, bool isPaged, bool isHopper) =>
        !isHopper ? PortableWalks
        : !isPaged ? RaggedWalks
        : shape.Turns ? (shape.IsQuantised ? WidenedAndTurnedWalks : TurnedWalks)
        : shape.IsQuantised ? WidenedWalks
        : GatheredWalks;

    /// <summary>Tokens that would be staged.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="limits">Machine and staged prefill.</param>
    public static long Tokens(in PrefillBatch batch, in PrefillPlanLimits limits)
    {
        long tokens = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            tokens += batch.Lengths[i] - First(batch, i, limits);
        }

        return tokens;
    }

    /// <summary>Whether so many tokens are walked so often.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="limits">Machine and staged prefill.</param>
    /// <param name="tokens">What <see cref="Tokens"/> says.</param>
    /// <param name="leastWalks">What <see cref="LeastWalks"/> says.</param>
    public static bool Pays(in PrefillBatch batch, in PrefillPlanLimits limits, long tokens, int leastWalks) =>
        PrefillWork.Of(batch, limits).Tokens * (limits.HeadTiles / limits.KvHeads) >= leastWalks * tokens;

    /// <summary>Lists the tokens to be staged.</summary>
    /// <param name="batch">The sequences; they start where their pages do, or where their ragged rows do.</param>
    /// <param name="limits">Machine and staged prefill.</param>
    /// <param name="isPaged">Whether they start at pages: their rows are one behind the other. Ragged ones have their own rows, since values stay there.</param>
    /// <param name="starts">Receives in which row the first token of each sequence would be, as <see cref="WorkItem.KvStart"/> of staged prefill: below 0 where it is none of the staged ones.</param>
    /// <param name="items">Receives the items.</param>
    /// <returns>Items written.</returns>
    public static int List(in PrefillBatch batch, in PrefillPlanLimits limits, bool isPaged, Span<int> starts, Span<StageItem> items)
    {
        int count = 0;
        int row = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            int first = First(batch, i, limits);
            int length = batch.Lengths[i];
            starts[i] = isPaged ? row - first : batch.Starts[i];
            for (int token = first; token < length; token += ItemTokens)
            {
                items[count++] = new StageItem
                {
                    Row = starts[i] + token,
                    Count = Math.Min(ItemTokens, length - token),
                    Position = token,
                    PageOffset = batch.Starts[i],
                };
            }

            row += length - first;
        }

        return count;
    }

    /// <summary>The first token that a tile of the sequence walks: no later tile begins before the first one. From it on all are staged, if any tile does.</summary>
    private static int First(in PrefillBatch batch, int sequence, in PrefillPlanLimits limits) =>
        batch.QueryTokens[sequence] == 0 ? batch.Lengths[sequence]
        : batch.SeesBeginnings ? 0
        : batch.Range(sequence, 0, limits).Begin;
}
