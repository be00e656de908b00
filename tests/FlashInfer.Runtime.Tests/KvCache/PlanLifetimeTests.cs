namespace FlashInfer.Tests.KvCache;

/// <summary>Which plans stay right when sequences of the cache change, and which say that they are stale.</summary>
public class PlanLifetimeTests
{
    [Fact]
    public void Plans_of_two_wrappers_live_through_each_others_forwards()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache one = new(story.Cache, 4);
        using BatchDecodeWithPagedKvCache two = new(story.Cache, 4);
        (Sequence a, Sequence b, Sequence c) = (story.Sequence(3), story.Sequence(9), story.Sequence(30));
        one.Plan([a, b]);
        story.Begin(c, 1);
        two.Plan([c]);
        story.Check(one, [a, b]);
        story.Check(two, [c]);
        story.Cache.EndForward(c);

        // c grows through size classes, is freed, and a new sequence takes its pages: nothing of it is a's or b's business.
        story.Begin(c, 100);
        story.Check(one, [a, b]);
        story.Cache.AbandonForward(c);
        story.Cache.Free(c);
        Sequence d = story.Sequence(100);
        two.Plan([d]);
        story.Check(one, [a, b]);
        story.Check(two, [d]);

        story.Begin(a, 2);
        two.Plan([d, a]);
        story.Check(two, [d, a]);
        Assert.Contains(a.ToString(), Stale(story, one).Message, StringComparison.Ordinal);
        one.Plan([b, a]);
        story.Check(one, [b, a]);
    }

    [Fact]
    public void Ending_a_forward_keeps_the_plans_that_counted_it()
    {
        using CacheStory story = new(layers: 2);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(5), story.Sequence(12));
        story.Cache.BeginForward([a, b], [1, 1]);
        decode.Plan([a, b]);
        story.Write([a, b], (layer, key, value) => decode.Append(layer, key, value));
        story.Check(decode, [a, b]);
        story.Cache.EndForward([a, b]);

        Assert.Equal((6, 13), (a.Length, b.Length));
        story.Check(decode, [a, b]);
    }

    [Theory]
    [InlineData("begin")]
    [InlineData("abandon")]
    [InlineData("free")]
    public void A_change_of_a_planned_sequence_makes_the_plan_stale(string change)
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(5), story.Sequence(7));
        if (change == "abandon")
        {
            story.Begin(b, 1);
        }

        decode.Plan([a, b]);
        story.Check(decode, [a, b]);
        switch (change)
        {
            case "begin":
                story.Cache.BeginForward(b, 1);
                break;
            case "abandon":
                story.Cache.AbandonForward(b);
                break;
            default:
                story.Cache.Free(b);
                break;
        }

        StalePlanException e = Stale(story, decode);
        Assert.Equal(
            $"The plan is stale: a sequence of it ({b}) has begun a forward, abandoned one or a part of it, or was freed since it was planned. Call Plan again.",
            e.Message
        );
        using DeviceTensor<Half> tokens = story.Device.Allocate<Half>(1, CacheStory.KvHeads, CacheStory.HeadDim);
        Assert.Throws<StalePlanException>(() => decode.Append(0, tokens.View, tokens.View));
        decode.Plan([a]);
        story.Check(decode, [a]);
    }

    [Fact]
    public void Without_a_plan_nothing_runs()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);

        Assert.Equal("There is no plan; call Plan with the step's sequences first.", Stale(story, decode).Message);
        Assert.Throws<StalePlanException>(() => decode.PlanInfo);
        Assert.Equal("no plan", decode.Explain());
    }

    [Fact]
    public void An_abandoned_forward_leaves_the_earlier_tokens_as_they_were()
    {
        using CacheStory story = new(layers: 2);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(6), story.Sequence(17));
        int[] pages = a.Pages.ToArray();
        story.Begin(a, 40);
        story.Begin(b, 3);
        decode.Plan([a, b]);
        story.Check(decode, [a, b]);
        story.Cache.AbandonForward([a, b]);

        Assert.Equal(pages, a.Pages.ToArray());
        decode.Plan([a, b]);
        story.Check(decode, [a, b]);
        // The slots behind the last token now hold what was abandoned; new tokens take their place.
        story.Begin(a, 1);
        decode.Plan([a, b]);
        story.Check(decode, [a, b]);
    }

    [Fact]
    public void Freed_pages_serve_another_sequence()
    {
        using CacheStory story = new(pages: 8);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(16), story.Sequence(16));
        Assert.False(story.Cache.TryBeginForward(b, 1));
        int[] pages = a.Pages.ToArray();
        story.Cache.Free(a);
        story.Begin(b, 5);
        Sequence c = story.Sequence(7);

        Assert.Equal(pages.Order(), b.Pages[4..].ToArray().Concat(c.Pages.ToArray()).Order());
        decode.Plan([c, b]);
        story.Check(decode, [c, b]);
    }

    private static StalePlanException Stale(CacheStory story, BatchDecodeWithPagedKvCache decode)
    {
        using DeviceTensor<Half> rows = story.Device.Allocate<Half>(1, CacheStory.Heads, CacheStory.HeadDim);
        return Assert.Throws<StalePlanException>(() => decode.Run(0, rows.View, rows.View));
    }
}
