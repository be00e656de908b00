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
        Gen.Int[1, 16],
        (lengths, blocks, units, minChunk) =>
            (lengths, new DecodePlanLimits(blocks, units, minChunk * DecodePlanner.TileTokens, DecodePlanner.SlotsFor(blocks, units)))
    );

    [Fact]
    public void Every_token_is_covered_once_and_every_slot_is_one_parts()
    {
        s_batches.Sample(
            batch =>
            {
                (DecodePlan plan, DecodeItem[] items) = Make(batch.Lengths, batch.Limits);
                bool[] slots = new bool[batch.Limits.MaxSlots];
                for (int row = 0; row < batch.Lengths.Length; row++)
                {
                    DecodeItem[] parts = [.. items.Where(item => item.Row == row).OrderBy(item => item.Part)];
                    int at = 0;
                    for (int part = 0; part < parts.Length; part++)
                    {
                        Assert.Equal(at, parts[part].Begin);
                        Assert.Equal(0, parts[part].Begin % DecodePlanner.TileTokens);
                        Assert.Equal(part, parts[part].Part);
                        Assert.Equal(parts.Length, parts[part].Parts);
                        Assert.Equal(row * 7, parts[part].PageOffset);
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
                (DecodePlan plan, DecodeItem[] items) = Make(batch.Lengths, batch.Limits);
                int bucket = (plan.ChunkTokens / 128) + 1 + DecodePlanner.TileTokens;
                int longest = items.Max(item => item.End - item.Begin);
                for (int i = 1; i < items.Length; i++)
                {
                    Assert.True(items[i].End - items[i].Begin <= items[i - 1].End - items[i - 1].Begin + bucket, "items are not in order");
                }

                long[] loads = new long[batch.Limits.Blocks];
                for (int unit = 0; unit < items.Length * batch.Limits.UnitsPerItem; unit++)
                {
                    DecodeItem item = items[unit / batch.Limits.UnitsPerItem];
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
    public void A_single_long_sequence_is_spread_over_the_blocks()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        (DecodePlan plan, DecodeItem[] items) = Make([32_768], limits);
        Assert.InRange(items.Length, 16, 66);
        Assert.True(DecodePlanner.Imbalance(items, plan, limits) <= 1.2, $"{plan}");
    }

    [Fact]
    public void One_long_sequence_among_short_ones_does_not_stall_the_batch()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        (DecodePlan plan, DecodeItem[] items) = Make([32_000, .. Enumerable.Repeat(500, 31)], limits);
        Assert.True(DecodePlanner.Imbalance(items, plan, limits) <= 1.5, $"{plan}");
    }

    [Theory]
    [InlineData(1, 512, 8)]
    [InlineData(1, 2048, 8)]
    [InlineData(1, 8192, 1)]
    [InlineData(1, 100, 1)]
    [InlineData(8, 2048, 2)]
    [InlineData(32, 2048, 1)]
    public void Few_and_equal_units_are_shared_in_clusters(int batch, int length, int cluster)
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8)) { ClustersOf8 = 15, ClustersOf2 = 66 };
        (DecodePlan plan, DecodeItem[] items) = Make([.. Enumerable.Repeat(length, batch)], limits);
        Assert.Equal(cluster, plan.Cluster);
        Assert.True(cluster == 1 || items.All(item => item.Parts == 1));
        Assert.Equal(1, Make([.. Enumerable.Repeat(length, batch)], limits with { ClustersOf8 = 0, ClustersOf2 = 0 }).Plan.Cluster);
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
        DecodeItem[] items = new DecodeItem[DecodePlanner.MaxItems(lengths.Length, limits)];
        DecodePlanner.Plan(lengths, lengths, limits, items);
        long before = GC.GetAllocatedBytesForCurrentThread();
        DecodePlanner.Plan(lengths, lengths, limits, items);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static (DecodePlan Plan, DecodeItem[] Items) Make(int[] lengths, in DecodePlanLimits limits)
    {
        DecodeItem[] items = new DecodeItem[DecodePlanner.MaxItems(lengths.Length, limits)];
        DecodePlan plan = DecodePlanner.Plan(lengths, [.. Enumerable.Range(0, lengths.Length).Select(row => row * 7)], limits, items);
        return (plan, items[..plan.Items]);
    }
}
