using System.Diagnostics;
using CsCheck;
using FlashInfer.Attention;
using FlashInfer.Planning;

namespace FlashInfer.Tests.Planning;

public class PrefillPlannerTests
{
    // An H100 with 32 heads on 8 KV heads of 128 elements.
    private static readonly PrefillPlanLimits s_h100 = Limits(132, 8, 8, 32, 128, 512);

    private static readonly Gen<PrefillPlanLimits> s_limits = Gen.Select(
        Gen.Int[1, 160],
        Gen.Int[1, 3],
        Gen.Int[1, 12],
        Gen.Int[0, 4].Select(i => ((int[])[1, 7, 16, 32, 128])[i]),
        Gen.Int[0, 3].Select(i => ((int[])[32, 64, 80, 128])[i]),
        Gen.Int[1, 5000],
        Gen.Bool,
        Gen.Bool,
        (blocks, tiles, kvHeads, tileTokens, blockTokens, tokenBytes, invariant, interleaves) =>
            Limits(blocks, tiles * kvHeads, kvHeads, tileTokens, blockTokens, tokenBytes) with
            {
                Determinism = invariant ? Determinism.BatchInvariant : Determinism.Reproducible,
                Interleaves = interleaves,
            }
    );

    private static readonly Gen<(int QueryTokens, int Length)[]> s_sequences = Gen.OneOf(
        // Prompts, chunks, single tokens of long sequences, nothing, and more query tokens than there are.
        Gen.Select(Gen.Int[0, 500], Gen.Int[0, 700]).Array[1, 20],
        Gen.Int[0, 3000].Select(length => (length, length)).Array[1, 12],
        Gen.Select(Gen.Int[1, 3], Gen.Int[0, 60_000]).Array[1, 30],
        Gen.Select(Gen.Select(Gen.Int[1, 400], Gen.Int[400, 9000]).Array[1, 6], Gen.Int[0, 9000].Array[0, 40])
            .Select((chunks, rows) => ((int, int)[])[.. chunks, .. rows.Select(length => (1, length))])
    );

    [Fact]
    public void Every_query_token_meets_every_token_that_it_sees_once_for_every_head()
    {
        // Without a window, with one, and with one that is longer than all.
        Gen.Select(s_sequences, s_limits, Gen.Bool, Gen.Int[-9000, 9000].Select(window => window < 0 ? (int?)null : window))
            .Sample(
                (sequences, anyLimits, causal, window) =>
                {
                    PrefillPlanLimits limits = Fit(sequences, anyLimits);
                    (PrefillPlan plan, WorkItem[] items) = Make(sequences, limits, causal, window);
                    Assert.Equal(0, limits.HeadTiles % plan.Heads);
                    Assert.True(plan.Slots * (long)plan.Heads <= limits.MaxParts, "the workspace is too small");
                    bool[] slots = new bool[plan.Slots];
                    Dictionary<(int Row, int Head), WorkItem[]> tiles = items
                        .GroupBy(item => (item.Row, (int)item.Head))
                        .ToDictionary(tile => tile.Key, tile => tile.OrderBy(item => item.Part).ToArray());
                    int row = 0;
                    int used = 0;
                    for (int i = 0; i < sequences.Length; i++)
                    {
                        (int queryTokens, int length) = sequences[i];
                        for (int token = 0; token < queryTokens; token += limits.TileTokens)
                        {
                            int tokens = Math.Min(limits.TileTokens, queryTokens - token);
                            int visible = causal ? length - queryTokens + token + 1 : length;
                            int range = causal ? Math.Max(0, visible + tokens - 1) : length;
                            int first = Math.Max(0, Math.Min(length - queryTokens + token - window ?? 0, range - 1));
                            first = first / limits.BlockTokens * limits.BlockTokens;
                            for (int head = 0; head < limits.HeadTiles; head += plan.Heads, used++)
                            {
                                WorkItem[] parts = tiles[(row + token, head)];
                                int at = first;
                                for (int part = 0; part < parts.Length; part++)
                                {
                                    WorkItem item = parts[part];
                                    Assert.Equal((tokens, visible, i * 7), (item.QueryTokens, item.Visible, item.KvStart));
                                    Assert.Equal((part, parts.Length), (item.Part, item.Parts));
                                    Assert.Equal((at, 0), (item.Begin, item.Begin % limits.BlockTokens));
                                    Assert.True(item.End > item.Begin || range == 0);
                                    at = item.End;
                                    if (parts.Length > 1)
                                    {
                                        Assert.False(slots[item.PartOffset + part]);
                                        slots[item.PartOffset + part] = true;
                                    }
                                }

                                // To the end of the last block, as far as there are tokens.
                                int blocks = (range + limits.BlockTokens - 1) / limits.BlockTokens;
                                Assert.Equal(Math.Min(length, blocks * limits.BlockTokens), at);
                            }
                        }

                        row += queryTokens;
                    }

                    Assert.Equal(used, tiles.Count);
                    Assert.DoesNotContain(false, slots);
                },
                iter: 400
            );
    }

    /// <summary>Whole sequences are planned many tiles at a time, but not where their first keys are bounded. A last, shorter tile may stand elsewhere.</summary>
    [Fact]
    public void A_window_that_is_longer_than_all_changes_no_item()
    {
        Gen.Select(Gen.OneOf(s_sequences, s_sequences.Select(s => s.Concat(s).Concat(s).Concat(s).ToArray())), s_limits, Gen.Bool)
            .Sample(
                (sequences, anyLimits, causal) =>
                {
                    PrefillPlanLimits limits = Fit(sequences, anyLimits) with { Interleaves = false, Determinism = default, MaxParts = 0 };
                    (PrefillPlan plan, WorkItem[] items) = Make(sequences, limits, causal);
                    (PrefillPlan bounded, WorkItem[] boundedItems) = Make(sequences, limits, causal, window: 1 << 20);
                    Assert.Equal(plan, bounded);
                    Assert.Equal(items.OrderBy(Place), boundedItems.OrderBy(Place));
                    static (int, int) Place(WorkItem item) => (item.Head, item.Row);
                },
                iter: 400
            );
    }

    [Fact]
    public void A_batch_invariant_cut_is_the_sequences_own()
    {
        Gen.Select(s_sequences, s_limits, Gen.Select(Gen.Int[1, 300], Gen.Int[0, 60_000]), Gen.Int[0, 40])
            .Sample(
                (sequences, anyLimits, own, place) =>
                {
                    int at = Math.Min(place, sequences.Length);
                    (int, int)[] batch = [.. sequences[..at], own, .. sequences[at..]];
                    PrefillPlanLimits limits = Fit(batch, anyLimits with { Determinism = Determinism.BatchInvariant });
                    (PrefillPlan together, WorkItem[] items) = Make(batch, limits);
                    (_, WorkItem[] alone) = Make([own], limits);
                    int row = sequences[..at].Sum(sequence => sequence.QueryTokens);
                    (int, int, int, int, int)[] Cut(WorkItem[] of, int first) =>
                        [
                            .. of.Where(item => item.Row >= first && item.Row < first + own.Item1 && item.Head == 0)
                                .OrderBy(item => item.Row)
                                .ThenBy(item => item.Part)
                                .Select(item => (item.Row - first, item.Begin, item.End, (int)item.Parts, item.Visible)),
                        ];
                    Assert.Equal(Cut(alone, 0), Cut(items, row));
                },
                iter: 400
            );
    }

    [Fact]
    public void Batch_invariant_states_are_enough_for_a_full_cache()
    {
        Gen.Select(Gen.Select(Gen.Int[1, 300], Gen.Int[1, 60_000]).Array[1, 30], Gen.Int[1, 160], Gen.Int[1, 12])
            .Sample(
                (sequences, blocks, heads) =>
                {
                    PrefillPlanLimits limits = Limits(blocks, heads, heads, 32, 128, 512) with
                    {
                        Determinism = Determinism.BatchInvariant,
                        MaxParts = PrefillPlanner.InvariantPartsFor(
                            sequences.Length,
                            sequences.Sum(sequence => (long)sequence.Item2),
                            blocks,
                            heads
                        ),
                    };
                    long states = sequences.Sum(sequence => (long)PrefillPlanner.InvariantStates(sequence.Item2, sequence.Item1, limits));
                    Assert.InRange(states, 0, limits.MaxParts);
                    (PrefillPlan plan, _) = Make(sequences, limits);
                    Assert.InRange(plan.Slots * (long)plan.Heads, 0, states);
                },
                iter: 400
            );
    }

    [Theory]
    [InlineData(512, 32, 8)] // four sequences in a section of 8 MB
    [InlineData(1024, 16, 8)]
    [InlineData(4096, 4, 8)] // one sequence in a section of 16 MB
    [InlineData(8192, 2, 4)]
    [InlineData(16_384, 1, 2)]
    [InlineData(32_768, 1, 1)]
    public void Heads_whose_keys_and_values_fit_a_section_go_together_and_the_longest_first(int length, int batch, int heads)
    {
        (PrefillPlan plan, WorkItem[] items) = Make([.. Enumerable.Repeat((length, length), batch)], s_h100);
        Assert.Equal(heads, plan.Heads);
        Assert.Equal((0, 0), (plan.SplitSequences, plan.Slots));
        int sectionTokens = (length <= 1024 ? 8 : 16) * (1 << 20) / (512 * heads);
        int sequences = Math.Max(1, sectionTokens / length);
        int perSection = length / 32 * sequences;
        for (int section = 0; section < items.Length; section += perSection)
        {
            WorkItem[] inside = items[section..Math.Min(items.Length, section + perSection)];
            Assert.InRange(inside.Select(item => (item.KvStart, item.Head)).Distinct().Count(), 1, sequences);
            for (int i = 1; i < inside.Length; i++)
            {
                // By buckets of a 256th of the longest, and ends stand at those of blocks.
                int bucket = Math.Max(32, length / 128) + s_h100.BlockTokens;
                Assert.True(inside[i].End - inside[i - 1].End <= bucket, "not the longest first");
            }
        }

        Assert.InRange(PrefillPlanner.Imbalance(items, plan, s_h100.Blocks), 1, 1.15);
    }

    [Theory]
    [InlineData(512, 32, 8)]
    [InlineData(2048, 8, 8)] // keys and values of a sequence: 8 MB, half a section
    [InlineData(4096, 4, 1)]
    [InlineData(32_768, 1, 1)]
    public void Full_attention_goes_head_by_head_unless_sequences_are_short(int length, int batch, int heads)
    {
        (PrefillPlan plan, WorkItem[] items) = Make([.. Enumerable.Repeat((length, length), batch)], s_h100, causal: false);

        Assert.Equal(heads, plan.Heads);
        Assert.Equal(items.OrderBy(item => item.Head).Select(item => item.Head), items.Select(item => item.Head));
    }

    [Fact]
    public void Uneven_lengths_are_ordered_across_sequences()
    {
        Random random = new(5);
        (int, int)[] sequences =
        [
            .. Enumerable.Range(0, 12).Select(_ => (int)Math.Exp(3 + (random.NextDouble() * 5.7))).Select(n => (n, n)),
        ];
        (PrefillPlan plan, WorkItem[] items) = Make(sequences, s_h100);
        Assert.Equal(8, plan.Heads);
        int bucket = Math.Max(32, sequences.Max(s => s.Item1) / 128) + s_h100.BlockTokens;
        for (int i = 1; i < items.Length; i++)
        {
            Assert.True(items[i].End <= items[i - 1].End + bucket);
        }

        Assert.InRange(PrefillPlanner.Imbalance(items, plan, s_h100.Blocks), 1, 1.1);
    }

    [Theory]
    [InlineData(16, 32_768, 8)] // 8 units for 132 blocks
    [InlineData(1, 100_000, 8)]
    [InlineData(600, 32_768, 1.1)] // 152 units: a round and a bit
    public void Few_units_on_a_long_sequence_are_cut(int queryTokens, int length, double least)
    {
        (PrefillPlan whole, WorkItem[] uncut) = Make([(queryTokens, length)], s_h100 with { MaxParts = 0 });
        (PrefillPlan plan, WorkItem[] items) = Make([(queryTokens, length)], s_h100);
        Assert.Equal((0, 1), (whole.SplitSequences, plan.SplitSequences));
        double gain = uncut.Max(item => item.End) * Rounds(uncut, whole) / (double)(plan.ChunkTokens * Rounds(items, plan));
        Assert.True(gain >= least, $"{plan}: only {gain:f2} times as fast");

        static int Rounds(WorkItem[] items, PrefillPlan plan) => ((items.Length * plan.Heads) + 131) / 132;
    }

    [Theory]
    [InlineData(512, 32_768)] // 128 units of about the same length for 132 blocks
    [InlineData(8192, 8192)]
    [InlineData(64, 200)]
    public void What_fills_the_machine_or_is_short_is_not_cut(int queryTokens, int length) =>
        Assert.Equal(0, Make([(queryTokens, length)], s_h100).Plan.SplitSequences);

    [Theory]
    [InlineData(128, 32_768, 5)] // measured on an H100, headDim 128: 122 us, with 12 parts 243
    [InlineData(256, 8192, 2)] // 75 us, with 5 parts 96
    [InlineData(512, 4096, 1)] // 65 us, with 3 parts 78
    [InlineData(512, 32_768, 3)] // 367 us, whole 449
    [InlineData(1024, 4096, 1)] // 119 us, with 3 parts 144
    [InlineData(48, 2048, 4)] // 25 us, with 16 parts 42
    [InlineData(1, 32_768, 16)] // 53 us, with 8 parts 62: its state is a row
    public void Parts_are_as_many_as_are_worth_their_merge(int queryTokens, int length, int parts)
    {
        (_, WorkItem[] items) = Make([(queryTokens, length)], s_h100 with { TileTokens = 48, BlockTokens = 64 });
        Assert.Equal(parts, items.Max(item => item.Parts));
    }

    [Fact]
    public void One_long_row_beside_short_prompts_is_cut()
    {
        (PrefillPlan plan, WorkItem[] items) = Make([(1, 60_000), .. Enumerable.Repeat((300, 300), 60)], s_h100);
        Assert.Equal(1, plan.SplitSequences);
        Assert.InRange(PrefillPlanner.Imbalance(items, plan, s_h100.Blocks), 1, 1.5);
    }

    [Fact]
    public void Rows_of_running_sequences_are_spread_among_chunks()
    {
        (int, int)[] mixed = [.. Enumerable.Repeat((512, 8192), 8), .. Enumerable.Repeat((1, 4096), 120)];
        (PrefillPlan plan, WorkItem[] items) = Make(mixed, s_h100);
        Assert.Equal(8 * 16 * (8 / plan.Heads) + 120 * (8 / plan.Heads), items.Length);
        int streaming = items.Count(item => item.QueryTokens == 1);
        int window = items.Length / 8;
        for (int at = 0; at + window <= items.Length * 3 / 4; at += window)
        {
            int share = items[at..(at + window)].Count(item => item.QueryTokens == 1);
            Assert.InRange(share / (double)window, 0.4, 0.65);
        }

        // The end is left to short pieces of work of many tiles.
        Assert.All(items[^4..], item => Assert.NotEqual(1, item.QueryTokens));
        Assert.InRange(PrefillPlanner.Imbalance(items, plan, s_h100.Blocks), 1, 1.1);

        // Switched off, the longest stand first.
        (_, WorkItem[] apart) = Make(mixed, s_h100 with { Interleaves = false });
        Assert.Equal(streaming, apart.Count(item => item.QueryTokens == 1));
        Assert.DoesNotContain(apart[..(apart.Length / 4)], item => item.QueryTokens == 1);
    }

    [Fact]
    public void Nobody_waits_long_for_the_last_block()
    {
        Gen.Select(s_sequences, Gen.Bool)
            .Sample(
                (sequences, causal) =>
                {
                    (PrefillPlan plan, WorkItem[] items) = Make(sequences, s_h100, causal);
                    long total = items.Sum(item => (long)(item.End - item.Begin)) * plan.Heads;
                    double mean = total / (double)s_h100.Blocks;
                    double busiest = PrefillPlanner.Imbalance(items, plan, s_h100.Blocks) * mean;
                    // Taken from a queue, the busiest block has at most the mean and one item.
                    Assert.True(busiest <= mean + plan.ChunkTokens + 1, $"{plan}");
                },
                iter: 500
            );
    }

    [Fact]
    public void A_window_costs_what_is_in_it()
    {
        // Every tile of 32 query tokens sees 1,024 tokens, up to two blocks more, in about the same number of blocks.
        (PrefillPlan plan, WorkItem[] items) = Make([(16_384, 16_384)], s_h100, window: 1024);
        Assert.Equal(512, items.Sum(item => item.Part == 0 ? 1 : 0) / (8 / plan.Heads));
        Assert.All(items, item => Assert.InRange(item.End - item.Begin, 1, 1024 + (2 * 128)));
        Assert.True(plan.ChunkTokens <= 1024 + (2 * 128));

        // One query token far behind its window's beginning reads no more than the window: too little to be cut.
        (plan, items) = Make([(1, 60_000)], s_h100, window: 100);
        Assert.Equal((1, 59_776, 60_000), (items.Length, items[0].Begin, items[0].End));
        Assert.Equal(60_000 - 59_776, plan.TotalTokens);
    }

    [Fact]
    public void Keys_that_are_skipped_cost_nothing()
    {
        const int Prefix = 4096;
        const int Item = 128;
        static int Walked(in WorkItem item) => item.End - item.Begin - (Math.Max(0, item.Row - Prefix) / Item * Item);

        // Behind the prefix a tile walks the prefix and its own item, wherever it stands: none is ahead of the others in the list.
        (PrefillPlan plan, WorkItem[] items) = Make([(16_384, 16_384)], s_h100, variant: new ItemsVariant(Prefix, Item));
        Assert.All(items, item => Assert.InRange(Walked(item), 1, Prefix + Item));
        for (int i = 1; i < items.Length / (s_h100.HeadTiles / plan.Heads); i++)
        {
            Assert.True(Walked(items[i]) <= Walked(items[i - 1]) + s_h100.TileTokens, $"{i}: {items[i]}");
        }

        // Parts are cut between what is walked: all of it once, as much each, to a block.
        const int Gap = 30_080;
        const int Behind = 49_920;
        (plan, items) = Make([(8, 60_000)], s_h100, variant: new ItemsVariant(30_000, 20_000));
        WorkItem[] parts = [.. items.Where(item => item.Head == 0).OrderBy(item => item.Part)];
        int[] walked =
        [
            .. parts.Select(part => part.End - part.Begin - Math.Max(0, Math.Min(part.End, Behind) - Math.Max(part.Begin, Gap))),
        ];
        Assert.True(parts.Length > 4, $"{plan}");
        Assert.Equal((0, 60_000), (parts[0].Begin, parts[^1].End));
        Assert.All(parts.Zip(parts.Skip(1)), pair => Assert.Equal(pair.First.End, pair.Second.Begin));
        Assert.InRange(walked.Max() - walked.Min(), 0, s_h100.BlockTokens);
    }

    [Fact]
    public void A_step_without_query_tokens_is_empty()
    {
        (PrefillPlan plan, WorkItem[] items) = Make([(0, 500), (0, 0)], s_h100);
        Assert.Empty(items);
        Assert.Equal((0, 0L), (plan.Slots, plan.TotalTokens));
    }

    [Fact]
    public void Planning_allocates_nothing()
    {
        foreach (
            (int, int)[] sequences in ((int, int)[][])
                [
                    [(16, 32_000)],
                    [.. Enumerable.Range(0, 300).Select(i => (i % 40, i * 37))],
                ]
        )
        {
            int[] queryTokens = [.. sequences.Select(s => s.Item1)];
            int[] lengths = [.. sequences.Select(s => s.Item2)];
            int[] rows = Rows(queryTokens);
            WorkItem[] items = new WorkItem[Fit(sequences, s_h100).MaxItems];
            PrefillPlanLimits limits = Fit(sequences, s_h100);
            TiledSequence[] scratch = new TiledSequence[2 * sequences.Length];
            PrefillPlanner.Plan(new PrefillBatch(queryTokens, lengths, lengths, rows), limits, items, scratch);
            long before = GC.GetAllocatedBytesForCurrentThread();
            PrefillPlanner.Plan(new PrefillBatch(queryTokens, lengths, lengths, rows), limits, items, scratch);
            Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        }
    }

    /// <summary>Short tiles enough for every share of the blocks would leave the long one whole, if only those were tried.</summary>
    [Fact]
    public void A_long_range_is_cut_also_among_many_short_ones()
    {
        (int, int)[] sequences = [(5, 9000), (40, 33)];
        PrefillPlanLimits limits = Fit(sequences, Limits(264, 1, 1, 5, 64, 640));
        PrefillPlan plan = PrefillPlanner.Plan(
            new PrefillBatch([5, 40], [9000, 33], [0, 9000], [0, 5]),
            limits,
            new WorkItem[limits.MaxItems],
            new TiledSequence[4]
        );
        Assert.Equal(1, plan.SplitSequences);
        Assert.InRange(plan.ChunkTokens, 500, 4500);
    }

    [Theory]
    [InlineData(32, 512)]
    [InlineData(256, 64)]
    public void Planning_takes_well_under_a_step(int batch, int length)
    {
        (int, int)[] sequences = [.. Enumerable.Range(0, batch).Select(i => (length - (i % 3), length))];
        int[] queryTokens = [.. sequences.Select(s => s.Item1)];
        int[] lengths = [.. sequences.Select(s => s.Item2)];
        int[] rows = Rows(queryTokens);
        PrefillPlanLimits limits = Fit(sequences, s_h100);
        WorkItem[] items = new WorkItem[limits.MaxItems];
        TiledSequence[] scratch = new TiledSequence[2 * sequences.Length];
        TimeSpan best = TimeSpan.MaxValue;
        for (int i = 0; i < 50; i++)
        {
            long start = Stopwatch.GetTimestamp();
            PrefillPlanner.Plan(new PrefillBatch(queryTokens, lengths, lengths, rows), limits, items, scratch);
            TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
            best = elapsed < best ? elapsed : best;
        }

        // A few microseconds when optimised; a comparison sort would be far above this also on a slow, busy machine.
        Assert.True(best < TimeSpan.FromMilliseconds(1), $"the best of 50 plans took {best.TotalMicroseconds:F1} µs");
    }

    private static PrefillPlanLimits Limits(int blocks, int headTiles, int kvHeads, int tileTokens, int blockTokens, int tokenBytes) =>
        new(blocks, headTiles, kvHeads, tileTokens, blockTokens, tokenBytes, PrefillPlanner.PartsFor(blocks), 0);

    /// <summary>One behind the other.</summary>
    internal static int[] Rows(int[] queryTokens) => [.. queryTokens.Select((_, i) => queryTokens[..i].Sum())];

    /// <summary>The limits of a wrapper that was made for just this batch.</summary>
    private static PrefillPlanLimits Fit((int QueryTokens, int Length)[] sequences, PrefillPlanLimits limits)
    {
        limits =
            limits.Determinism == Determinism.BatchInvariant && limits.MaxParts > 0
                ? limits with
                {
                    MaxParts = Math.Max(1, sequences.Sum(s => PrefillPlanner.InvariantStates(s.Length, s.QueryTokens, limits))),
                }
                : limits;
        return limits with
        {
            MaxItems = PrefillPlanner.MaxItems(
                sequences.Length,
                Math.Max(1, sequences.Sum(s => s.QueryTokens)),
                limits.TileTokens,
                limits.KvHeads,
                limits.MaxParts
            ),
        };
    }

    private static (PrefillPlan Plan, WorkItem[] Items) Make(
        (int QueryTokens, int Length)[] sequences,
        PrefillPlanLimits limits,
        bool causal = true,
        int? window = null,
        AttentionVariant? variant = null
    )
    {
        variant ??= window is { } tokens ? new WindowVariant(tokens) : null;
        limits = limits.MaxItems == 0 ? Fit(sequences, limits) : limits;
        // Whatever lay in the list before.
        WorkItem[] items = new WorkItem[limits.MaxItems];
        items.AsSpan().Fill(new WorkItem { Head = 999, Row = -1 });
        int[] starts = [.. Enumerable.Range(0, sequences.Length).Select(i => i * 7)];
        PrefillBatch batch = new(
            [.. sequences.Select(s => s.QueryTokens)],
            [.. sequences.Select(s => s.Length)],
            starts,
            Rows([.. sequences.Select(s => s.QueryTokens)]),
            causal,
            variant is null ? default : new KeyBounds(variant, default)
        );
        TiledSequence[] scratch = new TiledSequence[2 * sequences.Length];
        scratch.AsSpan().Fill(new TiledSequence { Row = -1 });
        PrefillPlan plan = PrefillPlanner.Plan(batch, limits, items, scratch);
        Assert.DoesNotContain(items[..plan.Items], item => item.Row < 0);
        return (plan, items[..plan.Items]);
    }
}
