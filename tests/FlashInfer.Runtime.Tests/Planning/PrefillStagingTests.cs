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

    // 32 heads on 8 KV heads: 48 query tokens a tile.
    private static readonly PrefillPlanLimits s_grouped = Limits(headTiles: 8, kvHeads: 8, tileTokens: 48, blockTokens: 64);

    [Fact]
    public void Every_token_that_a_tile_walks_is_staged_once_where_the_tile_looks_for_it()
    {
        Gen.Select(s_sequences, s_limits, Gen.Bool, Gen.Bool, s_variants, Gen.Int[0, 30_000], Gen.Bool)
            .Sample(
                (sequences, anyLimits, isPaged, causal, variant, maxTokens, forced) =>
                {
                    int[] queryTokens = [.. sequences.Select(s => s.QueryTokens)];
                    int[] lengths = [.. sequences.Select(s => s.Length)];

                    // In their order, which says whose an item is.
                    int[] places = [.. sequences.Select((_, i) => isPaged ? 100_000 * i : lengths[..i].Sum())];
                    PrefillPlanLimits limits = Fit(anyLimits, queryTokens);
                    KeyBounds bounds = variant is null ? default : new KeyBounds(variant, default);
                    int[] firstRows = PrefillPlannerTests.Rows(queryTokens);
                    PrefillBatch batch = new(queryTokens, lengths, places, firstRows, causal, bounds);
                    bool[] marks = new bool[sequences.Length];
                    StagingLimits staging = new(isPaged, maxTokens, LeastWalks: 2, RestWaits: causal, IsOnTheWay: isPaged && !causal);
                    StagingChoice choice = PrefillStaging.Choose(
                        batch,
                        limits,
                        staging,
                        forced ? true : null,
                        marks,
                        new long[marks.Length]
                    );
                    int tokens = (int)choice.Tokens;
                    if (tokens == 0)
                    {
                        Assert.Equal(default, choice);
                        return;
                    }

                    if (choice.Sequences == sequences.Length)
                    {
                        marks.AsSpan().Fill(true);
                    }

                    Assert.Equal(choice.Sequences, marks.Count(mark => mark));
                    Assert.InRange(tokens, 1, maxTokens);
                    PrefillPart taken = new(sequences.Length);
                    PrefillPart left = new(sequences.Length);
                    taken.Take(batch, marks, true);
                    left.Take(batch, marks, false);
                    PrefillBatch part = taken.Of(batch);
                    int[] starts = new int[part.Lengths.Length];
                    StageItem[] items = new StageItem[PrefillStaging.MaxItems(sequences.Length, maxTokens)];
                    items = items[..PrefillStaging.List(part, limits, isPaged, starts, items, new long[sequences.Length])];
                    (int Length, int Position) before = (int.MaxValue, 0);

                    // Row by row, whose token it is: all rows from pages, each once; of ragged ones those that are staged.
                    (int Sequence, int Token)[] rows = [.. Enumerable.Repeat((-1, -1), isPaged ? tokens : lengths.Sum())];
                    foreach (StageItem item in items)
                    {
                        Assert.InRange(item.Count, 1, PrefillStaging.ItemTokens);
                        Assert.Equal(item.Row / PrefillStaging.ItemTokens, (item.Row + item.Count - 1) / PrefillStaging.ItemTokens);
                        int sequence = Enumerable.Range(0, lengths.Length).First(i => places[i] == item.PageOffset && lengths[i] > 0);
                        Assert.True(marks[sequence]);

                        // Longest sequences first, and from their ends on.
                        int length = lengths[sequence];
                        int end = item.Position + item.Count;
                        Assert.True(end == length ? length <= before.Length : end == before.Position);
                        before = (length, item.Position);
                        for (int i = 0; i < item.Count; i++)
                        {
                            Assert.Equal(-1, rows[item.Row + i].Sequence);
                            Assert.True(item.Row + i < maxTokens);
                            Assert.True(item.Position + i < lengths[sequence]);
                            rows[item.Row + i] = (sequence, item.Position + i);
                        }
                    }

                    Assert.Equal(tokens, rows.Where(row => row.Sequence >= 0).Distinct().Count());
                    Assert.Equal(isPaged ? 0 : lengths.Sum() - tokens, rows.Count(row => row.Sequence < 0));
                    WorkItem[] work = new WorkItem[limits.MaxItems];
                    PrefillPlan plan = PrefillPlanner.Plan(part.At(starts), limits, work, new TiledSequence[2 * lengths.Length]);
                    int[] owners = [.. queryTokens.SelectMany((count, i) => Enumerable.Repeat(i, count))];
                    int[] first = [.. lengths];
                    int[] covered = new int[owners.Length];
                    foreach (WorkItem item in work[..plan.Items])
                    {
                        int owner = owners[item.Row];
                        for (int token = item.Begin; token < item.End; token++)
                        {
                            Assert.Equal((owner, token), rows[item.KvStart + token]);
                        }

                        first[owner] = Math.Min(first[owner], item.Begin);
                        Cover(item, plan);
                    }

                    // And none that lies before all of them.
                    Assert.Equal(lengths.Zip(first, (length, begin) => length - begin).Sum(), tokens);

                    // The other kernel has what is left, in its rows.
                    plan = PrefillPlanner.Plan(left.Of(batch), limits, work, new TiledSequence[2 * lengths.Length]);
                    foreach (WorkItem item in work[..plan.Items])
                    {
                        Assert.False(marks[owners[item.Row]]);
                        Assert.Equal(places[owners[item.Row]], item.KvStart);
                        Cover(item, plan);
                    }

                    Assert.All(covered, units => Assert.Equal(limits.HeadTiles, units));

                    void Cover(in WorkItem item, in PrefillPlan plan)
                    {
                        for (int i = 0; item.Part == 0 && i < item.QueryTokens; i++)
                        {
                            covered[item.Row + i] += plan.Heads;
                        }
                    }
                },
                iter: 400
            );
    }

    [Fact]
    public void What_is_chosen_gains_as_much_as_nothing_all_and_those_that_gain()
    {
        Gen.Select(s_sequences, s_limits, Gen.Int[1, 12], Gen.Bool, Gen.Bool, Gen.Bool)
            .Sample(
                (sequences, limits, leastWalks, isPaged, restWaits, isOnTheWay) =>
                {
                    int[] queryTokens = [.. sequences.Select(s => s.QueryTokens)];
                    int[] lengths = [.. sequences.Select(s => s.Length)];
                    PrefillBatch batch = Batch(queryTokens, lengths);
                    bool[] marks = new bool[lengths.Length];
                    StagingLimits staging = new(isPaged, lengths.Sum(), leastWalks, restWaits, isOnTheWay);
                    long launch = (isOnTheWay ? 36 : leastWalks) * (16_384L / limits.KvHeads);
                    long start = isOnTheWay ? launch : 0;
                    StagingChoice choice = PrefillStaging.Choose(batch, limits, staging, null, marks, new long[lengths.Length]);

                    // As the planner's own items walk them.
                    long[] gains = new long[lengths.Length];
                    for (int i = 0; i < lengths.Length; i++)
                    {
                        for (int token = 0; token < queryTokens[i]; token += limits.TileTokens)
                        {
                            gains[i] += Math.Max(0, batch.Before(i) + Math.Min(queryTokens[i], token + limits.TileTokens));
                        }

                        gains[i] =
                            (gains[i] * (limits.HeadTiles / limits.KvHeads)) - (queryTokens[i] == 0 ? 0 : (long)lengths[i] * leastWalks);
                    }

                    long some = Gain(i => gains[i] > 0);
                    bool all = choice.Sequences == lengths.Length;
                    long chosen =
                        choice.Tokens == 0 ? 0
                        : all ? gains.Sum() - start
                        : Gain(i => marks[i]);

                    // What a tile walks besides is rounded.
                    Assert.InRange(chosen, Math.Max(0, Math.Max(gains.Sum() - start, some)) - (20 * 500 * 3), long.MaxValue);

                    long Gain(Func<int, bool> isStaged)
                    {
                        long gain = 0;
                        long rest = 0;
                        for (int i = 0; i < gains.Length; i++)
                        {
                            gain += isStaged(i) ? gains[i] : 0;
                            rest += isStaged(i) || queryTokens[i] == 0 ? 0 : lengths[i];
                        }

                        return gain - start - launch - (restWaits ? rest / 16 * (isOnTheWay ? 36 : leastWalks) : 0);
                    }
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
        Assert.Equal(expected ? [0] : [], Chosen(s_grouped, [(queryTokens, length)], leastWalks));
    }

    [Fact]
    public void On_the_way_it_takes_less_but_keeps_the_first_tiles_waiting()
    {
        (int, int)[] two = [(2048, 2048), (2048, 2048)];

        Assert.Empty(Chosen(s_grouped, two, leastWalks: 8, isOnTheWay: true));
        Assert.Equal([0, 1, 2, 3], Chosen(s_grouped, [.. two, .. two], leastWalks: 8, isOnTheWay: true));
        Assert.Equal([0, 1], Chosen(s_grouped, two, leastWalks: 8, isOnTheWay: true, stages: true));
        Assert.Equal([0], Chosen(s_grouped, [(4096, 4096)], leastWalks: 8, isOnTheWay: true));
    }

    [Fact]
    public void All_tiles_of_a_KV_head_walk_what_is_staged()
    {
        Assert.Equal([0], Chosen(Limits(headTiles: 14, kvHeads: 2, tileTokens: 192, blockTokens: 64), [(1, 32_768)], leastWalks: 7));
        Assert.Empty(Chosen(Limits(headTiles: 2, kvHeads: 2, tileTokens: 27, blockTokens: 64), [(1, 32_768)], leastWalks: 7));
    }

    [Fact]
    public void Chunks_are_staged_and_the_single_tokens_beside_them_are_not()
    {
        (int, int)[] decode = [.. Enumerable.Repeat((1, 4096), 120)];
        (int, int)[] chunks = [.. Enumerable.Repeat((512, 8192), 4)];
        int[] some = [60, 61, 62, 63];

        Assert.Equal(some, Chosen(s_grouped, [.. decode[..60], .. chunks, .. decode[60..]], leastWalks: 4));
        Assert.Empty(Chosen(s_grouped, decode, leastWalks: 4));
        Assert.Empty(Chosen(s_grouped, [.. decode, .. chunks], leastWalks: 12));

        // Where they wait for memory, better beside the chunks than after them; unless much is gained.
        Assert.Empty(Chosen(s_grouped, [.. decode, .. chunks], leastWalks: 7, restWaits: true));
        Assert.Equal([120, 121], Chosen(s_grouped, [.. decode, (2048, 8192), (2048, 8192)], leastWalks: 7, restWaits: true));

        // A few short ones go along, in one launch; and alone they are not worth one.
        Assert.Equal([0, 1, 2], Chosen(s_grouped, [(4096, 4096), (1, 500), (1, 700)], leastWalks: 7));
        Assert.Equal([0], Chosen(s_grouped, [(4096, 4096), .. decode[..8]], leastWalks: 7));
        Assert.Empty(Chosen(s_grouped, [(300, 300), .. decode], leastWalks: 3));

        // One that has nothing to be staged goes with the others, and makes no launch of its own.
        Assert.Equal([0, 1], Chosen(s_grouped, [(4096, 4096), (7, 0)], leastWalks: 7));
        Assert.Empty(Chosen(s_grouped, [(7, 0), (1, 4096)], leastWalks: 7));
    }

    [Fact]
    public void Where_room_is_short_those_that_are_walked_most_often_are_staged()
    {
        (int, int)[] sequences = [(512, 8192), (4096, 8192), (2048, 8192), (4096, 8192), (1, 100)];

        Assert.Equal([1, 2, 3], Chosen(s_grouped, sequences, leastWalks: 4, maxTokens: 32_000));
        Assert.Equal([1, 3], Chosen(s_grouped, sequences, leastWalks: 4, maxTokens: 2 * 8192));
        Assert.Equal([1], Chosen(s_grouped, sequences, leastWalks: 4, maxTokens: (2 * 8192) - 1)); // the first of equals
        Assert.Equal([1, 4], Chosen(s_grouped, sequences, leastWalks: 4, maxTokens: (2 * 8192) - 1, stages: true));
        Assert.Empty(Chosen(s_grouped, sequences, leastWalks: 4, maxTokens: 8191));

        // Of ragged ones, those whose rows there are: places are as they come.
        Assert.Equal([0, 1], Chosen(s_grouped, sequences, leastWalks: 4, maxTokens: (3 * 8192) - 1, isPaged: false));
        Assert.Equal([0, 1, 2, 3], Chosen(s_grouped, sequences[..4], leastWalks: 4, maxTokens: 4 * 8192, isPaged: false));
        Assert.Equal([0, 1], Chosen(s_grouped, [(4096, 4096), (0, 9000)], leastWalks: 4, maxTokens: 4096, isPaged: false));
    }

    [Fact]
    public void Choosing_allocates_nothing()
    {
        int[] queryTokens = [.. Enumerable.Range(0, 300).Select(i => i * 7)];
        int[] lengths = [.. queryTokens.Select(tokens => tokens + 50)];
        bool[] marks = new bool[300];
        long[] order = new long[300];
        int[] rows = PrefillPlannerTests.Rows(queryTokens);
        long allocated = 0;
        for (int i = 0; i < 3; i++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            PrefillBatch batch = new(queryTokens, lengths, lengths, rows);
            StagingChoice choice = PrefillStaging.Choose(batch, s_grouped, new StagingLimits(true, 9000, 3, false), null, marks, order);
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.InRange(choice.Tokens, 1, 9000);
        }

        Assert.Equal(0, allocated);
    }

    [Theory]
    [InlineData(16, null, AttentionOptions.Rope, true, 3, false)] // values stay where they are
    [InlineData(1, null, AttentionOptions.None, true, 8, true, true)]
    [InlineData(1, null, AttentionOptions.None, true, 36)]
    [InlineData(5, null, AttentionOptions.SlidingWindow, true, 36)]
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
        bool isPaged = true,
        bool isOnTheWay = false
    )
    {
        AttentionSpec spec = new(32, 8, 128, pageSize, DType.BFloat16, kvDtype, variant: AttentionVariant.Of(options));

        Assert.Equal(expected, PrefillStaging.LeastWalks(spec.Shape, isPaged, isHopper, isOnTheWay));
    }

    /// <summary>Which of some sequences are staged.</summary>
    private static int[] Chosen(
        PrefillPlanLimits limits,
        (int QueryTokens, int Length)[] sequences,
        int leastWalks,
        int maxTokens = int.MaxValue,
        bool isPaged = true,
        bool? stages = null,
        bool restWaits = false,
        bool isOnTheWay = false
    )
    {
        bool[] marks = new bool[sequences.Length];
        StagingChoice choice = PrefillStaging.Choose(
            Batch([.. sequences.Select(s => s.QueryTokens)], [.. sequences.Select(s => s.Length)]),
            limits,
            new StagingLimits(isPaged, maxTokens, leastWalks, restWaits, isOnTheWay),
            stages,
            marks,
            new long[marks.Length]
        );
        return choice.Tokens == 0 ? []
            : choice.Sequences == marks.Length ? [.. Enumerable.Range(0, marks.Length)]
            : [.. Enumerable.Range(0, marks.Length).Where(i => marks[i])];
    }

    /// <summary>Sequences one behind the other.</summary>
    private static PrefillBatch Batch(int[] queryTokens, int[] lengths) =>
        new(queryTokens, lengths, PrefillPlannerTests.Rows(lengths), PrefillPlannerTests.Rows(queryTokens));

    private static PrefillPlanLimits Fit(PrefillPlanLimits limits, int[] queryTokens) =>
        limits with
        {
            MaxItems = PrefillPlanner.MaxItems(
                queryTokens.Length,
                Math.Max(1, queryTokens.Sum()),
                limits.TileTokens,
                limits.KvHeads,
                limits.MaxParts
            ),
        };

    private static PrefillPlanLimits Limits(int headTiles, int kvHeads, int tileTokens, int blockTokens) =>
        new(132, headTiles, kvHeads, tileTokens, blockTokens, 512, PrefillPlanner.PartsFor(132), 0);
}
