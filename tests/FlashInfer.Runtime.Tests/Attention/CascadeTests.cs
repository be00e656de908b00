using FlashInfer.Tests.BadInput;
using FlashInfer.Tests.KvCache;

namespace FlashInfer.Tests.Attention;

public class CascadeTests
{
    [Fact]
    public void Random_trees_agree_with_the_oracle()
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        int[] levels = [.. Enumerable.Range(0, 12).Select(i => CascadeScenario.Check(device, seed + i))];

        Assert.True(levels.Max() >= 2, $"no step shared anything: {string.Join(", ", levels)}, from seed {seed} on");
    }

    [Fact]
    public void Every_level_of_a_deep_tree_is_attended_to_once()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2 });
        AttentionSpec spec = new(4, 2, 64, 4, DType.Float16);
        using CascadeScenario<Half> scenario = new(device, spec, pages: 400, seed: 5, x => (Half)x, x => (float)x);
        Sequence root = scenario.New(64);
        Sequence[] documents = [.. Enumerable.Range(0, 3).Select(_ => Whole(root, 40))];
        Sequence[] talks = [.. documents.SelectMany(document => Enumerable.Range(0, 3).Select(_ => Whole(document, 24)))];
        Sequence[] batch = [.. talks.SelectMany(talk => Enumerable.Range(0, 2).Select(_ => Whole(talk, 5)))];
        int[] ones = [.. batch.Select(_ => 1)];

        Assert.Equal([2, 3, 4, 4], new[] { 2, 3, 4, 6 }.Select(levels => scenario.Step(batch, ones, null, causal: true, levels)));
        Assert.InRange(scenario.Step(batch, [.. ones.Select(_ => 7)], null, causal: true, 4), 2, 4);
        Assert.Equal(1, scenario.Step([batch[0], talks[0], documents[0], root], [1, 0, 0, 0], [1, 0, 0, 0], causal: true, 4));

        Sequence Whole(Sequence prefix, int tokens)
        {
            // Fork of the scenario now and then shares less.
            Sequence fork;
            do
            {
                fork = scenario.Fork(prefix, tokens);
            } while (fork.Length < prefix.Length + tokens);

            return fork;
        }
    }

    [Fact]
    public void A_batch_that_shares_nothing_has_one_level()
    {
        using CacheStory story = new();
        using MultiLevelCascadeAttention cascade = new(story.Cache, maxLevels: 3);
        Sequence[] apart = [story.Sequence(9), story.Sequence(5)];
        cascade.Plan(apart, [1, 1]);

        PlanInfo only = Assert.Single(cascade.Levels);
        Assert.Equal((2, 14L), (only.Sequences, only.Tokens));
    }

    /// <summary>Kernels count a level's tokens from its own first; what they find is told by its place in the sequence.</summary>
    [Theory]
    [InlineData(2)] // of the shared level
    [InlineData(6)] // of the last
    public unsafe void A_wrong_page_is_named_by_its_place_in_the_sequence(int page)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1, IsChecked = true });
        using PagedKvCache cache = new(device, new AttentionSpec(4, 2, 64, 4, DType.Float16), layers: 1, pages: 40);
        using MultiLevelCascadeAttention cascade = new(cache);
        using DeviceTensor<Half> rows = device.Allocate<Half>(2, 4, 64);
        cascade.Costs = cascade.Costs with { Level = 0 };
        Sequence origin = Extend(cache.NewSequence(), 20);
        Sequence[] forks = [Extend(cache.Fork(origin), 9), Extend(cache.Fork(origin), 9)];
        cascade.Plan(forks, [1, 1]);
        Assert.Equal(2, cascade.Levels.Count);
        ((int*)cache.Table.Address)[forks[0].PageOffset + page] = 77;

        DeviceAssertException e = Assert.Throws<DeviceAssertException>(() => cascade.Run(0, rows, rows));
        Assert.Equal((forks[0], page * 4, 77), (e.Sequence, e.Token, e.Page));

        Sequence Extend(Sequence sequence, int tokens)
        {
            cache.BeginForward(sequence, tokens);
            cache.EndForward(sequence);
            return sequence;
        }
    }

    [Fact]
    public void What_sharing_saves_has_to_be_worth_a_level()
    {
        using CacheStory story = new();
        using MultiLevelCascadeAttention cascade = new(story.Cache);
        Sequence origin = story.Sequence(40);
        Sequence[] forks = [story.Fork(origin, 40), story.Fork(origin, 40), story.Fork(origin, 36)];
        cascade.Plan(forks, [1, 1, 1]);
        Assert.Single(cascade.Levels);

        cascade.Costs = cascade.Costs with { Level = 0 };
        cascade.Plan(forks, [1, 1, 1]);
        Assert.Equal([(1, 32L), (3, 8L + 8 + 4)], cascade.Levels.Select(level => (level.Sequences, level.Tokens)));
        Assert.Contains("level 1 of 2: cpu_prefill", cascade.Explain(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_plan_is_stale_when_a_sequence_has_changed()
    {
        using CacheStory story = new();
        using MultiLevelCascadeAttention cascade = new(story.Cache);
        using DeviceTensor<Half> rows = story.Device.Allocate<Half>(1, CacheStory.Heads, CacheStory.HeadDim);
        Sequence sequence = story.Sequence(9);
        Assert.Throws<StalePlanException>(() => cascade.Run(0, rows, rows));
        Assert.Throws<StalePlanException>(() => cascade.Levels);
        Assert.Equal("no plan", cascade.Explain());
        cascade.Plan([sequence], [1]);
        cascade.Run(0, rows, rows);
        story.Fork(sequence, 8);
        cascade.Run(0, rows, rows);
        story.Cache.Free(sequence);
        Assert.Throws<StalePlanException>(() => cascade.Run(0, rows, rows));
    }

    [Fact]
    public void What_a_cascade_can_not_do_is_refused()
    {
        using CacheStory story = new();
        using MultiLevelCascadeAttention cascade = new(story.Cache, maxSequences: 2, maxQueryTokens: 5);
        Sequence sequence = story.Sequence(9);
        Refused.Range("maxLevels", "'1'", () => _ = new MultiLevelCascadeAttention(story.Cache, maxLevels: 1));
        Refused.Range("maxLevels", "'9'", () => _ = new MultiLevelCascadeAttention(story.Cache, maxLevels: 9));
        Refused.Range("queryTokens", "has 6 query tokens; expected 0 to 5", () => cascade.Plan([sequence], [6]));
        Refused.Argument("queryTokens", "have 8 query tokens; expected at most 5", () => cascade.Plan([sequence, sequence], [4, 4]));
        Refused.Argument(
            "sequences",
            "3 sequences were given; expected 1 to 2",
            () => cascade.Plan([sequence, sequence, sequence], [1, 1, 1])
        );
        Refused.Range("smScale", "above 0", () => cascade.Plan([sequence], [1], smScale: -1));
        Refused.Operation(
            "no variant of attention that takes arguments",
            () => cascade.Plan<OptionArguments>([sequence], new(new OptionArguments()))
        );
        foreach (
            AttentionOptions options in (AttentionOptions[])
                [AttentionOptions.SlidingWindow, AttentionOptions.Sinks, AttentionOptions.Alibi | AttentionOptions.LogitsSoftCap]
        )
        {
            AttentionSpec spec = new(4, 2, 64, 4, DType.Float16, variant: AttentionVariant.Of(options));
            using PagedKvCache cache = new(story.Device, spec, layers: 1, pages: 1);
            Refused.Argument("cache", $"{options}, may ask where tokens stand", () => _ = new MultiLevelCascadeAttention(cache));
        }
    }
}
