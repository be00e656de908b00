using FlashInfer.Tests.BadInput;

namespace FlashInfer.Tests.KvCache;

/// <summary>Sequences that begin alike; <see cref="PagedKvCacheModelTests"/> counts the holders of pages.</summary>
public class ForkTests
{
    [Theory]
    [InlineData(12)] // whole pages
    [InlineData(13)]
    [InlineData(3)] // less than a page
    [InlineData(0)]
    public void A_fork_and_its_origin_go_their_own_ways(int tokens)
    {
        using CacheStory story = new(layers: 2);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache);
        Sequence origin = story.Sequence(14);
        int free = story.Cache.FreePages;
        Sequence fork = story.Fork(origin, tokens);
        Assert.Equal(tokens, fork.Length);
        Assert.Equal(free - (tokens % 4 == 0 ? 0 : 1), story.Cache.FreePages);
        Assert.Equal(origin.Pages[..(tokens / 4)].ToArray(), fork.Pages[..(tokens / 4)].ToArray());

        Sequence[] both = [origin, fork];
        for (int step = 0; step < 6; step++)
        {
            story.Cache.BeginForward(both, [1, 2]);
            decode.Plan(both);
            story.Write(both, (layer, key, value) => decode.Append(layer, key, value));
            story.Check(decode, both);
            story.Cache.EndForward(both);
        }
    }

    [Fact]
    public void Shared_pages_are_free_when_the_last_holder_is()
    {
        using CacheStory story = new(pages: 16);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache);
        Sequence origin = story.Sequence(8);
        Sequence first = story.Fork(origin, 8);
        Sequence second = story.Fork(first, 4);
        story.Cache.Free(origin);
        Assert.Equal(14, story.Cache.FreePages);

        // What takes the other pages does not touch the shared ones.
        Sequence other = story.Sequence(14 * 4);
        decode.Plan([first, second, other]);
        story.Check(decode, [first, second, other]);
        story.Cache.Free(other);
        story.Cache.Free(first);
        Assert.Equal(15, story.Cache.FreePages);
        story.Cache.Free(second);
        Assert.Equal(16, story.Cache.FreePages);
    }

    [Fact]
    public void The_open_forward_of_the_origin_is_not_part_of_a_fork()
    {
        using CacheStory story = new();
        using BatchDecodeWithPagedKvCache decode = new(story.Cache);
        Sequence origin = story.Sequence(5);
        story.Begin(origin, 6);
        Sequence fork = story.Fork(origin, 5);
        story.Cache.AbandonForward(origin);
        story.Begin(fork, 2);
        decode.Plan([origin, fork]);

        Assert.Equal((5, 7), (origin.KvLength, fork.KvLength));
        story.Check(decode, [origin, fork]);
    }

    /// <summary>The table moves when it grows: plans made before stay right, what was not sent yet is sent later.</summary>
    [Fact]
    public void The_page_table_grows_for_any_number_of_forks()
    {
        using CacheStory story = new(pages: 64);
        using BatchDecodeWithPagedKvCache decode = new(story.Cache);
        Sequence origin = story.Sequence(40 * 4);
        decode.Plan([origin]);
        nint address = story.Cache.Table.Address;
        Sequence unplanned = story.Sequence(7);
        Sequence[] forks = [.. Enumerable.Range(0, 100).Select(i => story.Fork(origin, 160))];

        Assert.NotEqual(address, story.Cache.Table.Address);
        Assert.True(story.Cache.Table.Bytes >= 100 * 40 * sizeof(int));
        story.Check(decode, [origin]);
        decode.Plan([unplanned, .. forks]);
        PageTableChecks.DeviceEqualsHost(story.Cache, [unplanned, .. forks]);
        PageTableChecks.StretchesAreApart(story.Cache, [origin, unplanned, .. forks]);
        story.Check(decode, [unplanned, .. forks]);

        long bytes = story.Cache.Table.Bytes;
        Array.ForEach(forks, story.Cache.Free);
        Sequence[] again = [.. forks.Select(_ => story.Fork(origin, 160))];
        Assert.Equal(bytes, story.Cache.Table.Bytes);
    }

    [Fact]
    public void A_captured_table_does_not_move()
    {
        using CacheStory story = new(pages: 64);
        Sequence origin = story.Sequence(30 * 4);
        Sequence[] forks = [.. Enumerable.Range(0, 40).Select(i => story.Fork(origin, 32 * 3))];
        story.Cache.Table.IsCaptured = true;
        while (story.Cache.Table.EntriesLeft >= 32)
        {
            story.Fork(origin, 32 * 3);
        }

        int free = story.Cache.FreePages;
        Refused.Operation("a captured graph holds its address", () => story.Cache.Fork(origin, 32 * 3));
        Refused.Operation("a captured graph holds its address", () => story.Cache.BeginForward(forks[0], 9 * 4));
        Assert.Equal((free, false), (story.Cache.FreePages, forks[0].IsInForward));
        story.Cache.Free(forks[1]);
        story.Fork(origin, 32 * 3);
    }

    [Fact]
    public void A_fork_that_can_not_be_made_changes_nothing()
    {
        using CacheStory story = new(pages: 2);
        using CacheStory other = new();
        Sequence origin = story.Sequence(7);
        Sequence freed = story.Cache.NewSequence();
        story.Cache.Free(freed);

        Refused.Range("tokens", "begin with 8 tokens; expected 0 to 7", () => story.Cache.Fork(origin, 8));
        Refused.Range("tokens", "begin with -1 tokens", () => story.Cache.Fork(origin, -1));
        Refused.Argument("sequence", "was freed", () => story.Cache.Fork(freed, 0));
        Refused.Argument("sequence", "another cache", () => story.Cache.Fork(other.Sequence(1), 0));
        Refused.Range("tokens", "begin with 8 tokens; expected 0 to 7", () => story.Cache.TryFork(origin, 8, out _));
        OutOfPagesException e = Assert.Throws<OutOfPagesException>(() => story.Cache.Fork(origin));
        Assert.Equal((1, 0, 2), (e.Needed, e.Free, e.Total));
        Assert.StartsWith("1 more page is needed but 0 of 2 are free; ", e.Message, StringComparison.Ordinal);
        Assert.False(story.Cache.TryFork(origin, out Sequence? fork));
        Assert.Null(fork);
        Assert.Equal(4, story.Cache.Fork(origin, 4).Length);
        Assert.True(story.Cache.TryFork(origin, 4, out fork));
        Assert.Equal(origin.Pages[..1].ToArray(), fork.Pages.ToArray());
    }
}
