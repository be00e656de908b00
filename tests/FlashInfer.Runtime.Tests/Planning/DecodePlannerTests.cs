using CsCheck;
using FlashInfer.Attention;
using FlashInfer.Planning;

namespace FlashInfer.Tests.Planning;

public class DecodePlannerTests
{
    private static readonly Gen<(int[] Lengths, DecodePlanLimits Limits)> s_batches = Gen.Select(
        Gen.OneOf(
            Gen.Int[0, 300].Array[1, 64],
            Gen.Int[0, 40_000].Array[1, 40],
            Gen.Int[0, 20].Select(Gen.Int[1, 300], (length, count) => Enumerable.Repeat(1 << Math.Min(length, 16), count).ToArray()),
            Gen.Int[20_000, 200_000].Select(Gen.Int[0, 600].Array[0, 64], (longest, rest) => (int[])[longest, .. rest])
        ),
        Gen.Int[1, 160],
        Gen.Int[1, 40],
        Gen.Select(Gen.Int[1, 16], Gen.OneOf(Gen.Const(DecodePlanner.TileTokens), Gen.Const(80), Gen.Const(128))),
        (lengths, blocks, units, parts) =>
        {
            (int blocksOfPart, int block) = parts;
            int slots = DecodePlanner.SlotsFor(blocks, units);
            return (lengths, new DecodePlanLimits(blocks, units, blocksOfPart * block, slots) { BlockTokens = block });
        }
    );

    private static readonly Gen<(int[] Lengths, DecodePlanLimits Limits)> s_anyBatches = Gen.Select(
        s_batches,
        Gen.Bool.Select(invariant => invariant ? Determinism.BatchInvariant : Determinism.Reproducible),
        Gen.Int[1, 8],
        (batch, determinism, teams) =>
        {
            DecodePlanLimits limits = batch.Limits with { Determinism = determinism, Teams = teams };
            int parts = batch.Lengths.Sum(length => DecodePlanner.InvariantParts(length, limits));
            return (batch.Lengths, determinism == Determinism.BatchInvariant ? limits with { MaxSlots = parts } : limits);
        }
    );

    [Fact]
    public void Every_token_is_covered_once_and_every_slot_is_one_parts()
    {
        s_anyBatches.Sample(
            batch =>
            {
                (DecodePlan plan, WorkItem[] items) = Make(batch.Lengths, batch.Limits);
                bool[] slots = new bool[batch.Limits.MaxSlots];
                for (int row = 0; row < batch.Lengths.Length; row++)
                {
                    WorkItem[] parts = [.. items.Where(item => item.Row == row).OrderBy(item => item.Part)];
                    int at = 0;
                    for (int part = 0; part < parts.Length; part++)
                    {
                        Assert.Equal(at, parts[part].Begin);
                        Assert.Equal(0, parts[part].Begin % batch.Limits.BlockTokens);
                        Assert.Equal(part, parts[part].Part);
                        Assert.Equal(parts.Length, parts[part].Parts);
                        Assert.Equal(row * 7, parts[part].KvStart);
                        Assert.True(parts[part].End > parts[part].Begin || batch.Lengths[row] == 0);
                        at = parts[part].End;
                        if (parts.Length > 1)
                        {
                            ref bool slot = ref slots[parts[part].PartOffset + part];
                            Assert.False(slot);
                            slot = true;
                        }
                    }

                    Assert.Equal(batch.Lengths[row], at);
                }

                Assert.Equal(plan.Slots, slots.Count(used => used));
                Assert.Equal(plan.SplitSequences, items.Count(item => item.Parts > 1 && item.Part == 0));
            },
            iter: 2000
        );
    }

    [Fact]
    public void Items_stand_longest_first_and_no_block_has_more_than_the_mean_and_one_item()
    {
        s_batches.Sample(
            batch =>
            {
                (DecodePlan plan, WorkItem[] items) = Make(batch.Lengths, batch.Limits);
                int bucket = (plan.ChunkTokens / 128) + 1 + batch.Limits.BlockTokens;
                int longest = items.Max(item => item.End - item.Begin);
                for (int i = 1; i < items.Length; i++)
                {
                    Assert.True(items[i].End - items[i].Begin <= items[i - 1].End - items[i - 1].Begin + bucket, "items are not in order");
                }

                long[] loads = new long[batch.Limits.Blocks];
                for (int unit = 0; unit < items.Length * batch.Limits.UnitsPerItem; unit++)
                {
                    WorkItem item = items[unit / batch.Limits.UnitsPerItem];
                    int round = unit / loads.Length;
                    int at = unit % loads.Length;
                    loads[round % 2 == 0 ? at : loads.Length - 1 - at] += item.End - item.Begin;
                }

                double mean = (double)plan.TotalTokens * batch.Limits.UnitsPerItem / batch.Limits.Blocks;
                long rounds = (((long)items.Length * batch.Limits.UnitsPerItem) + loads.Length - 1) / loads.Length;
                Assert.True(loads.Max() <= mean + longest + (rounds * bucket), $"busiest {loads.Max()}, mean {mean}, longest {longest}");
            },
            iter: 2000
        );
    }

    [Fact]
    public void Rows_follow_the_query_tokens_and_say_what_they_see()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        int[] lengths = [900, 2, 0, 40_000];
        int[] queryTokens = [4, 8, 1, 3];
        foreach (bool causal in (bool[])[true, false])
        {
            WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(lengths.Length, limits)];
            DecodePlan plan = DecodePlanner.Plan(new DecodeBatch(lengths, lengths, queryTokens, causal), limits, items);
            Assert.Equal([0, 4, 12, 13], items[..plan.Items].Select(item => item.Row).Distinct().Order());
            foreach (WorkItem item in items[..plan.Items])
            {
                int i = Array.IndexOf(lengths, item.KvStart);
                Assert.Equal(queryTokens[i], item.QueryTokens);
                Assert.Equal(causal ? lengths[i] - queryTokens[i] + 1 : lengths[i], item.Visible);
            }
        }
    }

    [Fact]
    public void Items_of_bounded_sequences_begin_at_the_tile_of_the_first_key()
    {
        Gen.Select(s_anyBatches, Gen.Int[0, 9000])
            .Sample(
                (batch, window) =>
                {
                    (int[] lengths, DecodePlanLimits limits) = batch;
                    KeyBounds bounds = new(new WindowVariant(window), default);
                    int[] begins = new int[lengths.Length];
                    for (int i = 0; i < lengths.Length; i++)
                    {
                        begins[i] = bounds.Begin(i, 0, 1, lengths[i], lengths[i], DecodePlanner.TileTokens);
                        int first = Math.Max(0, Math.Min(lengths[i] - 1 - window, lengths[i] - 1));
                        Assert.Equal(first / 16 * 16, begins[i]);
                    }

                    // As many tokens without a beginning are cut alike.
                    int[] seen = [.. lengths.Select((length, i) => length - begins[i])];
                    DecodePlanLimits roomy = limits with { MaxSlots = limits.MaxSlots + 1000 };
                    WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(lengths.Length, roomy)];
                    DecodePlan plan = DecodePlanner.Plan(new DecodeBatch(seen, lengths, default, true, begins), roomy, items);
                    WorkItem[] expected = new WorkItem[items.Length];
                    Assert.Equal(DecodePlanner.Plan(new DecodeBatch(seen, lengths), roomy, expected), plan);
                    for (int at = 0; at < plan.Items; at++)
                    {
                        int begin = begins[items[at].Row];
                        expected[at].Begin += begin;
                        expected[at].End += begin;
                        expected[at].Visible += begin;
                        Assert.Equal(expected[at], items[at]);
                        Assert.True(items[at].End <= lengths[items[at].Row] && items[at].Visible == lengths[items[at].Row]);
                    }

                    int most = lengths.Sum(length => DecodePlanner.InvariantPartsUpTo(length, limits));
                    Assert.InRange(
                        seen.Sum(tokens => DecodePlanner.InvariantParts(tokens, limits)),
                        lengths.Length,
                        Math.Max(most, lengths.Length)
                    );
                },
                iter: 1000
            );
    }

    [Fact]
    public void A_batch_invariant_cut_is_the_sequences_own()
    {
        Gen.Select(s_anyBatches, Gen.Int[0, 100_000], Gen.Int[0, 400])
            .Sample(
                (batch, length, place) =>
                {
                    DecodePlanLimits limits = batch.Limits with { Determinism = Determinism.BatchInvariant, MaxSlots = 100_000 };
                    int at = Math.Min(place, batch.Lengths.Length);
                    (DecodePlan together, WorkItem[] items) = Make([.. batch.Lengths[..at], length, .. batch.Lengths[at..]], limits);
                    (_, WorkItem[] alone) = Make([length], limits);
                    (int, int, int, int, int)[] Cut(WorkItem[] of, int row) =>
                        [
                            .. of.Where(item => item.Row == row)
                                .OrderBy(item => item.Part)
                                .Select(item => (item.Begin, item.End, (int)item.Part, (int)item.Parts, item.Visible)),
                        ];
                    Assert.Equal(Cut(alone, 0), Cut(items, at));
                    Assert.Equal((1, false), (together.Cluster, together.TeamUnits));
                },
                iter: 2000
            );
    }

    [Theory]
    [InlineData(1024, 1)] // whole
    [InlineData(1040, 2)]
    [InlineData(8192, 8)]
    [InlineData(16_384, 16)]
    [InlineData(131_072, 16)] // alone it occupies 128 of 132 blocks
    public void A_batch_invariant_cut_spreads_a_long_sequence(int length, int parts)
    {
        DecodePlanLimits limits = new(132, 8, 64, 16) { Determinism = Determinism.BatchInvariant };
        (DecodePlan plan, WorkItem[] items) = Make([length], limits);
        Assert.Equal(parts, items.Length);
        Assert.All(items, item => Assert.True(item.End - item.Begin <= plan.ChunkTokens));
    }

    [Fact]
    public void Batch_invariant_slots_are_enough_for_a_full_cache()
    {
        Gen.Select(Gen.Int[1, 40_000].Array[1, 64], Gen.Int[1, 160], Gen.Int[1, 40])
            .Sample(
                (lengths, blocks, units) =>
                {
                    int slots = DecodePlanner.InvariantSlots(lengths.Length, lengths.Sum(length => (long)length), blocks, units);
                    DecodePlanLimits limits = new(blocks, units, 64, slots) { Determinism = Determinism.BatchInvariant };
                    Assert.True(Make(lengths, limits).Plan.Slots <= slots);
                },
                iter: 2000
            );
    }

    [Theory]
    [InlineData(256, 64, true)]
    [InlineData(256, 256, true)]
    [InlineData(256, 257, false)]
    [InlineData(65, 64, false)] // 520 units for 528 teams
    [InlineData(66, 64, true)]
    public void Short_units_that_are_many_are_taken_by_teams(int batch, int longest, bool teamUnits)
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8))
        {
            Teams = 4,
            ClustersOf8 = 15,
            ClustersOf2 = 66,
        };
        int[] lengths = [longest, .. Enumerable.Repeat(60, batch - 1)];
        (DecodePlan plan, WorkItem[] items) = Make(lengths, limits);
        Assert.Equal(teamUnits, plan.TeamUnits);
        if (teamUnits)
        {
            Assert.Equal((1, 0), (plan.Cluster, plan.SplitSequences));
            long mean = plan.TotalTokens * 8 / (132 * 4);
            Assert.InRange(DecodePlanner.Imbalance(items, plan, limits), 1, (double)(mean + longest) / mean);
        }

        // One team is a block, a captured graph's clusters stay, and a batch may not decide where bits must not depend on it.
        Assert.False(Make(lengths, limits with { Teams = 1 }).Plan.TeamUnits);
        Assert.False(Make(lengths, limits with { Cluster = 8 }).Plan.TeamUnits);
        Assert.Equal(teamUnits, Make(lengths, limits with { Cluster = 1 }).Plan.TeamUnits);
        Assert.False(Make(lengths, limits with { Determinism = Determinism.BatchInvariant }).Plan.TeamUnits);
    }

    [Fact]
    public void A_single_long_sequence_is_spread_over_the_blocks()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        (DecodePlan plan, WorkItem[] items) = Make([32_768], limits);
        Assert.InRange(items.Length, 16, 66);
        Assert.True(DecodePlanner.Imbalance(items, plan, limits) <= 1.2, $"{plan}");
    }

    /// <summary>One block reads the states of all parts in the end: the larger these are, the fewer parts.</summary>
    [Theory]
    [InlineData(8192, 0, 128, 128)]
    [InlineData(8192, 3.2, 16, 43)] // headDim 512, 8 columns: 27 µs instead of 60
    [InlineData(8192, 6.4, 8, 43)] // headDim 128, 16 columns: 10 µs instead of 20
    [InlineData(32_768, 6.4, 16, 64)]
    public void A_sequence_alone_has_as_many_parts_as_their_merge_allows(int length, double mergeCost, int fewest, int most)
    {
        DecodePlanLimits limits = new(132, 1, 64, DecodePlanner.SlotsFor(132, 1)) { MergeCost = mergeCost };
        Assert.InRange(Make([length], limits).Items.Length, fewest, most);
    }

    [Theory]
    [InlineData(170, 15)] // 10.3 rounds of 16.5: five are left over, and three parts of each are nearly a round
    [InlineData(165, 0)]
    [InlineData(171, 0)] // .36: two parts of each are as much less than a round
    [InlineData(173, 16)] // .48: two parts
    [InlineData(176, 33)] // .67: three parts, in two rounds
    [InlineData(178, 0)] // .79
    public void What_whole_rounds_leave_over_is_cut_where_its_parts_fill_rounds(int batch, int parts)
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        (DecodePlan plan, WorkItem[] items) = Make([.. Enumerable.Repeat(2048, batch)], limits);
        Assert.Equal((parts, 2048), (items.Count(static item => item.Parts > 1), plan.ChunkTokens));
    }

    [Fact]
    public void One_long_sequence_among_short_ones_does_not_stall_the_batch()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        (DecodePlan plan, WorkItem[] items) = Make([32_000, .. Enumerable.Repeat(500, 31)], limits);
        Assert.True(DecodePlanner.Imbalance(items, plan, limits) <= 1.05, $"{plan}");
    }

    [Theory]
    [InlineData(1, 512, 4)]
    [InlineData(1, 2048, 8)]
    [InlineData(1, 8192, 1)]
    [InlineData(1, 100, 1)]
    [InlineData(2, 1024, 4)]
    [InlineData(3, 512, 2)]
    [InlineData(3, 2048, 1)]
    [InlineData(8, 256, 1)]
    [InlineData(8, 2048, 2)]
    [InlineData(32, 2048, 1)]
    [InlineData(1, 512, 8, 4)] // two launches of 4 units find room in clusters of 8
    [InlineData(1, 511, 4, 4)]
    [InlineData(7, 512, 8, 1)]
    [InlineData(8, 512, 4, 1)]
    public void Few_and_equal_units_are_shared_in_clusters(int batch, int length, int cluster, int unitsPerItem = 8)
    {
        DecodePlanLimits limits = new(132, unitsPerItem, 64, DecodePlanner.SlotsFor(132, unitsPerItem))
        {
            ClustersOf8 = 15,
            ClustersOf4 = 30,
            ClustersOf2 = 66,
        };
        (DecodePlan plan, WorkItem[] items) = Make([.. Enumerable.Repeat(length, batch)], limits);
        Assert.Equal(cluster, plan.Cluster);
        Assert.True(cluster == 1 || items.All(item => item.Parts == 1));
        Assert.Equal(
            1,
            Make([.. Enumerable.Repeat(length, batch)], limits with { ClustersOf8 = 0, ClustersOf4 = 0, ClustersOf2 = 0 }).Plan.Cluster
        );
    }

    [Theory]
    [InlineData(17, 200)]
    [InlineData(40, 300)]
    [InlineData(33, 512)]
    [InlineData(48, 700)]
    public void Short_sequences_are_not_cut_to_fill_a_begun_round(int batch, int length)
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        (DecodePlan plan, _) = Make([.. Enumerable.Repeat(length, batch)], limits);
        Assert.Equal(0, plan.SplitSequences);
    }

    [Fact]
    public void Sequences_that_fill_the_blocks_are_not_cut()
    {
        DecodePlanLimits limits = new(128, 8, 64, DecodePlanner.SlotsFor(128, 8));
        (DecodePlan plan, _) = Make([.. Enumerable.Repeat(2048, 128)], limits);
        Assert.Equal(0, plan.SplitSequences);
    }

    [Fact]
    public void Planning_allocates_nothing()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        int[] lengths = [.. Enumerable.Range(0, 1024).Select(i => i * 37 % 5000)];
        WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(lengths.Length, limits)];
        DecodePlanner.Plan(new DecodeBatch(lengths, lengths), limits, items);
        long before = GC.GetAllocatedBytesForCurrentThread();
        DecodePlanner.Plan(new DecodeBatch(lengths, lengths), limits, items);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static (DecodePlan Plan, WorkItem[] Items) Make(int[] lengths, in DecodePlanLimits limits)
    {
        WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(lengths.Length, limits)];
        int[] pageOffsets = [.. Enumerable.Range(0, lengths.Length).Select(row => row * 7)];
        DecodePlan plan = DecodePlanner.Plan(new DecodeBatch(lengths, pageOffsets), limits, items);
        return (plan, items[..plan.Items]);
    }
}
