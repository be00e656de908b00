using FlashInfer.KvCache;

namespace FlashInfer.Tests.KvCache;

/// <summary>What a decode step may consist of.</summary>
public class DecodeStepTests
{
    [Fact]
    public void A_sequence_may_stand_in_a_plan_twice()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(21), story.Sequence(2));
        story.Begin(b, 1);
        decode.Plan([a, b, a]);

        story.Check(decode, [a, b, a]);
    }

    [Fact]
    public void A_batch_begins_the_same_number_of_tokens_and_is_freed_at_once()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(2, 1, 64, 4, DType.Float16), layers: 1, pages: 6);
        Sequence[] batch = [cache.NewSequence(), cache.NewSequence(), cache.NewSequence()];

        cache.BeginForward(batch, tokens: 5);
        Assert.All(batch, static sequence => Assert.Equal((5, 2), (sequence.KvLength, sequence.PageCount)));
        cache.EndForward(batch.AsSpan(1));
        Assert.True(cache.TryBeginForward(batch.AsSpan(1), tokens: 3));
        cache.EndForward(batch.AsSpan(1));

        OutOfPagesException e = Assert.Throws<OutOfPagesException>(() => cache.BeginForward(batch.AsSpan(1), tokens: 1));
        Assert.Equal((2, 0, 6), (e.Needed, e.Free, e.Total));
        Assert.False(cache.TryBeginForward(batch.AsSpan(1), tokens: 1));

        // One of them in a forward, two not.
        cache.Free(batch);
        Assert.Equal(6, cache.FreePages);
        Assert.All(batch, static sequence => Assert.True(sequence.IsFreed));
    }

    [Theory]
    [InlineData(null, KvLayout.Nhd)]
    [InlineData(DType.Float8E4M3, KvLayout.Hnd)]
    public void A_cache_takes_what_its_pages_take(DType? kvDtype, KvLayout kvLayout)
    {
        AttentionSpec spec = new(8, 2, 96, 5, DType.BFloat16, kvDtype, kvLayout);
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, spec, layers: 3, pages: 64);

        TensorView pages = cache.KeyPages(0);
        Assert.Equal(2 * pages.Shape.Elements * pages.Dtype.Size(), 64 * spec.PageBytes);
        Assert.InRange(cache.Bytes - (3 * 64 * spec.PageBytes), 1, 4096);
        AttentionSpec none = new(8, 8, 192, 16, DType.BFloat16, valueDim: 128);
        Assert.Throws<InvalidOperationException>(() => none.PageBytes);
    }

    [Fact]
    public void Empty_sequences_stand_among_others()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence empty) = (story.Sequence(5), story.Cache.NewSequence());
        decode.Plan([empty, a, empty]);

        story.Check(decode, [empty, a, empty]);
        Assert.Equal(0, empty.PageCount);
    }

    [Fact]
    public void The_largest_batch_is_maxSequences()
    {
        using CacheStory story = new(pages: 16);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 3);
        Sequence[] four = [story.Sequence(1), story.Sequence(2), story.Sequence(3), story.Sequence(4)];
        decode.Plan(four.AsSpan(0, 3));
        ArgumentException e = Assert.Throws<ArgumentException>(() => decode.Plan(four));

        Assert.Equal("sequences", e.ParamName);
        Assert.Contains("4 sequences were given; expected 1 to 3.", e.Message, StringComparison.Ordinal);
        // The plan before is still there.
        story.Check(decode, four[..3]);
    }

    [Theory]
    [InlineData(0f)]
    [InlineData(0.5f)]
    [InlineData(-0.125f)]
    public void The_softmax_scale_is_the_callers(float smScale)
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        Sequence[] sequences = [story.Sequence(33), story.Sequence(1)];
        decode.Plan(sequences, smScale);

        story.Check(decode, sequences, smScale);
        decode.Plan(sequences);
        story.Check(decode, sequences);
    }

    [Fact]
    public void Tokens_of_a_batch_with_and_without_forwards_land_where_they_belong()
    {
        using CacheStory story = new(layers: 3);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 8);
        Sequence[] batch = [story.Sequence(4), story.Sequence(9), story.Cache.NewSequence(), story.Sequence(1)];
        story.Cache.BeginForward([batch[3], batch[0], batch[2]], [35, 1, 17]);
        decode.Plan(batch);
        story.Write(batch, (layer, key, value) => decode.Append(layer, key, value));
        story.Check(decode, batch);
        story.Cache.EndForward([batch[0], batch[2], batch[3]]);

        decode.Plan(batch);
        story.Check(decode, batch);
    }

    [Fact]
    public void Drafted_tokens_are_verified_at_once_and_those_refused_leave_no_trace()
    {
        using CacheStory story = new(layers: 2);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4, maxQueryTokens: 5);
        (Sequence a, Sequence b, Sequence c) = (story.Sequence(21), story.Sequence(3), story.Sequence(7));
        int free = story.Cache.FreePages;
        story.Cache.BeginForward([a, b, c], [5, 4, 2]);
        decode.Plan([a, b, c], [5, 4, 0]);
        Assert.Equal((3, 9), (decode.PlanInfo.Sequences, decode.PlanInfo.Rows));
        story.Write([a, b, c], (layer, key, value) => decode.Append(layer, key, value));
        using DeviceTensor<Half> rows = story.Device.Allocate<Half>(9, CacheStory.Heads, CacheStory.HeadDim);
        decode.Run(0, rows.View, rows.View);

        story.Cache.EndForward([a, b, c], [2, 0, 2]);
        Assert.Equal((23, 3, 9), (a.Length, b.Length, c.Length));
        Assert.False(a.IsInForward || b.IsInForward || c.IsInForward);
        Assert.Equal(free - 1, story.Cache.FreePages); // c's ninth token
        StalePlanException stale = Assert.Throws<StalePlanException>(() => decode.Run(0, rows.View, rows.View));
        Assert.Contains(a.ToString(), stale.Message, StringComparison.Ordinal);
        decode.Plan([a, b, c]);
        story.Check(decode, [a, b, c]);
        story.Begin(a, 1);
        decode.Plan([a, b, c]);
        story.Check(decode, [a, b, c]);
    }

    [Fact]
    public void Accepting_every_token_keeps_the_plan()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(5), story.Sequence(6));
        story.Begin(a, 3);
        story.Begin(b, 1);
        decode.Plan([a, b]);
        story.Cache.EndForward([a, b], [3, 1]);
        story.Check(decode, [a, b]);
    }

    [Fact]
    public void A_step_without_query_tokens_only_appends()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        Sequence a = story.Sequence(5);
        story.Cache.BeginForward(a, 20);
        decode.Plan([a], [0]);
        Assert.Equal((0, 0, 0L), (decode.PlanInfo.Rows, decode.PlanInfo.Items, decode.PlanInfo.Tokens));
        story.Write([a], (layer, key, value) => decode.Append(layer, key, value));
        using DeviceTensor<Half> none = story.Device.Allocate<Half>(0, CacheStory.Heads, CacheStory.HeadDim);
        decode.Run(0, none.View, none.View);
        story.Cache.EndForward(a);
        decode.Plan([a]);
        story.Check(decode, [a]);
    }

    [Fact]
    public void Append_through_the_cache_follows_order_forwards_and_size_of_the_batch()
    {
        using CacheStory story = new(layers: 3, pages: 200);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache, 4);
        (Sequence a, Sequence b) = (story.Sequence(3), story.Sequence(3));
        story.Cache.BeginForward([a, b], [1, 1]);
        story.Write([a, b], (layer, key, value) => story.Cache.Append(layer, [a, b], key, value));
        // Another order, another forward or another member is another list.
        story.Write([b, a], (layer, key, value) => story.Cache.Append(layer, [b, a], key, value));
        decode.Plan([a, b]);
        story.Check(decode, [a, b]);
        story.Cache.AbandonForward(a);
        story.Begin(a, 2);
        story.Write([a, b], (layer, key, value) => story.Cache.Append(layer, [a, b], key, value));
        decode.Plan([a, b]);
        story.Check(decode, [a, b]);
        // More groups of tokens than the list had room for: it grows.
        story.Cache.EndForward([a, b]);
        story.Cache.Free(b);
        Sequence[] many = [.. Enumerable.Range(0, 150).Select(_ => story.Cache.NewSequence())];
        story.Cache.BeginForward(many, [.. many.Select(_ => 1)]);
        story.Write(many, (layer, key, value) => story.Cache.Append(layer, many, key, value));
        story.Cache.EndForward(many);
        decode.Plan(many.AsSpan(146, 4));
        story.Check(decode, many[146..]);
    }

    [Fact]
    public void An_append_list_serves_all_layers_until_a_sequence_changes()
    {
        using CacheStory story = new();
        using AppendList list = new(story.Cache, "Append");
        (Sequence a, Sequence b) = (story.Sequence(3), story.Sequence(3));
        Assert.False(list.Covers([a, b]));
        story.Cache.BeginForward([a, b], [1, 20]);
        list.Fill([a, b], 21, null);

        Assert.Equal(21, list.Tokens);
        Assert.True(list.Covers([a, b]));
        Assert.False(list.Covers([b, a]));
        Assert.False(list.Covers([a]));
        Assert.False(list.Covers([a, b, a]));
        story.Cache.EndForward(a);
        Assert.True(list.Covers([a, b]));
        story.Cache.BeginForward(a, 1);
        Assert.False(list.Covers([a, b]));
    }
}
