using CsCheck;
using FlashInfer.Attention;
using FlashInfer.Planning;

namespace FlashInfer.Tests.Planning;

public class PrefillStagingTests
{
    private static readonly Gen<PrefillPlanLimits> s_limits = Gen.Select(
        Gen.Int[1, 3],
        Gen.Int[1, 8],
        Gen.Int[0, 3].Select(i => ((int[])[1, 16, 48, 192])[i]),
        Gen.Int[0, 3].Select(i => ((int[])[32, 64, 80, 128])[i]),
        (tiles, kvHeads, tileTokens, blockTokens) => Limits(tiles * kvHeads, kvHeads, tileTokens, blockTokens)
    );

    private static readonly Gen<(int QueryTokens, int Length)[]> s_sequences = Gen.Select(
        Gen.OneOf(Gen.Int[0, 3], Gen.Int[1, 500]),
        Gen.OneOf(Gen.Int[0, 3], Gen.Int[0, 5000])
    ).Array[1, 20];

    // Nothing, a window, and items behind a prefix.
    private static readonly Gen<AttentionVariant?> s_variants = Gen.Select(Gen.Int[0, 2], Gen.Int[0, 3000], Gen.Int[1, 200])
        .Select(
            (kind, tokens, items) =>
                kind == 0 ? null
                : kind == 1 ? (AttentionVariant?)new WindowVariant(tokens)
                : new ItemsVariant(tokens, items)
        );

    [Fact]
    public void Every_token_that_a_tile_walks_is_staged_once_where_the_tile_looks_for_it()
    {
        Gen.Select(s_sequences, s_limits, Gen.Bool, Gen.Bool, s_variants)
            .Sample(
                (sequences, anyLimits, isPaged, causal, variant) =>
                {
                    int[] queryTokens = [.. sequences.Select(s => s.QueryTokens)];
                    int[] lengths = [.. sequences.Select(s => s.Length)];

                    // In their order, which says whose an item is.
                    int[] places = [.. sequences.Select((_, i) => isPaged ? 100_000 * i : lengths[..i].Sum())];
                    PrefillPlanLimits limits = anyLimits with
                    {
                        MaxItems = PrefillPlanner.MaxItems(
                            sequences.Length,
                            Math.Max(1, queryTokens.Sum()),
                            anyLimits.TileTokens,
                            anyLimits.KvHeads,
                            anyLimits.MaxParts
                        ),
                    };
                    KeyBounds bounds = variant is null ? default : new KeyBounds(variant, default, default);
                    PrefillBatch batch = new(queryTokens, lengths, places, causal, bounds);
                    int tokens = (int)PrefillStaging.Tokens(batch, limits);
                    int[] starts = new int[sequences.Length];
                    StageItem[] items = new StageItem[PrefillStaging.MaxItems(sequences.Length, tokens)];
                    items = items[..PrefillStaging.List(batch, limits, isPaged, starts, items)];

                    // Row by row, whose token it is: all rows from pages, each once; of ragged ones those that are staged.
                    (int Sequence, int Token)[] rows = [.. Enumerable.Repeat((-1, -1), isPaged ? tokens : lengths.Sum())];
                    foreach (StageItem item in items)
                    {
                        Assert.InRange(item.Count, 1, PrefillStaging.ItemTokens);
                        int sequence = Enumerable.Range(0, lengths.Length).First(i => places[i] == item.PageOffset && lengths[i] > 0);
                        for (int i = 0; i < item.Count; i++)
                        {
                            Assert.Equal(-1, rows[item.Row + i].Sequence);
                            Assert.True(item.Position + i < lengths[sequence]);
                            rows[item.Row + i] = (sequence, item.Position + i);
                        }
                    }

                    Assert.Equal(tokens, rows.Where(row => row.Sequence >= 0).Distinct().Count());
                    Assert.Equal(isPaged ? 0 : lengths.Sum() - tokens, rows.Count(row => row.Sequence < 0));
                    WorkItem[] work = new WorkItem[limits.MaxItems];
                    PrefillPlan plan = PrefillPlanner.Plan(batch.At(starts), limits, work);
                    int[] owners = [.. queryTokens.SelectMany((count, i) => Enumerable.Repeat(i, count))];
                    int[] first = [.. lengths];
                    foreach (WorkItem item in work[..plan.Items])
                    {
                        int owner = owners[item.Row];
                        for (int token = item.Begin; token < item.End; token++)
                        {
                            Assert.Equal((owner, token), rows[item.KvStart + token]);
                        }

                        first[owner] = Math.Min(first[owner], item.Begin);
                    }

                    // And none that lies before all of them.
                    Assert.Equal(lengths.Zip(first, (length, begin) => length - begin).Sum(), tokens);
                },
                iter: 400
            );
    }

    [Theory]
    [InlineData(4096, 4096, 8, true)] // 85 tiles, of which the mean sees half
    [InlineData(4096, 4096, 43, true)]
    [InlineData(4096, 4096, 44, false)]
    [InlineData(512, 32_768, 10, true)] // 11 tiles see nearly all
    [InlineData(512, 32_768, 11, false)]
    [InlineData(1, 32_768, 2, false)]
    [InlineData(1, 32_768, 1, true)]
    public void It_pays_where_tokens_are_walked_often_enough(int queryTokens, int length, int leastWalks, bool expected)
    {
        // 32 heads on 8 KV heads: 48 query tokens a tile.
        PrefillPlanLimits limits = Limits(headTiles: 8, kvHeads: 8, tileTokens: 48, blockTokens: 64);
        PrefillBatch batch = new([queryTokens], [length], [0]);

        Assert.Equal(expected, PrefillStaging.Pays(batch, limits, length, leastWalks));
    }

    [Fact]
    public void All_tiles_of_a_KV_head_walk_what_is_staged()
    {
        PrefillBatch batch = new([1], [32_768], [0]);

        Assert.True(PrefillStaging.Pays(batch, Limits(headTiles: 14, kvHeads: 2, tileTokens: 192, blockTokens: 64), 32_768, leastWalks: 7));
        Assert.False(PrefillStaging.Pays(batch, Limits(headTiles: 2, kvHeads: 2, tileTokens: 27, blockTokens: 64), 32_768, leastWalks: 7));
    }

    [Theory]
    [InlineData(16, null, AttentionOptions.Rope, true, 3, false)] // values stay where they are
    [InlineData(1, null, AttentionOptions.None, true, 26)]
    [InlineData(5, null, AttentionOptions.SlidingWindow, true, 26)]
    [InlineData(16, DType.Float8E4M3, AttentionOptions.None, true, 8)]
    [InlineData(16, null, AttentionOptions.Rope, true, 7)]
    [InlineData(1, DType.Float8E5M2, AttentionOptions.RopeInterleaved, true, 4)]
    [InlineData(16, DType.Float8E5M2, AttentionOptions.None, false, 3)] // headDim 256, say
    public void What_costs_more_to_prepare_pays_sooner(
        int pageSize,
        DType? kvDtype,
        AttentionOptions options,
        bool isHopper,
        int expected,
        bool isPaged = true
    )
    {
        AttentionSpec spec = new(32, 8, 128, pageSize, DType.BFloat16, kvDtype, variant: AttentionVariant.Of(options));

        Assert.Equal(expected, PrefillStaging.LeastWalks(spec.Shape, isPaged, isHopper));
    }

    private static PrefillPlanLimits Limits(int headTiles, int kvHeads, int tileTokens, int blockTokens) =>
        new(132, headTiles, kvHeads, tileTokens, blockTokens, 512, PrefillPlanner.PartsFor(132), 0);
}
