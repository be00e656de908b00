using CsCheck;

namespace FlashInfer.Tests.KvCache;

/// <summary>The bound in the remarks of the page table: a stretch is always found, whatever sequences do, and no other sequence moves.</summary>
public class PageTableTests
{
    private const int Pages = 300;

    private static readonly Gen<(int SizeClass, int Kept, int Order)[]> s_phases = Gen.Select(
        Gen.Int[0, 7],
        Gen.Int[0, 3],
        Gen.Int[0, 1_000_000],
        (sizeClass, kept, order) => (sizeClass, kept, order)
    ).Array[1, 12];

    [Theory]
    [InlineData(1, 1)]
    [InlineData(1, 7)]
    [InlineData(3, 2)]
    [InlineData(3, 60)]
    [InlineData(16, 3)]
    [InlineData(16, 300)]
    public void Sequences_grow_page_by_page_through_all_size_classes(int pageSize, int count)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = Make(device, pageSize, Pages);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Sequence[] sequences = [.. Enumerable.Range(0, count).Select(_ => cache.NewSequence())];
        int rounds = 0;
        for (; cache.TryBeginForward(sequences, [.. sequences.Select(_ => pageSize)]); rounds++)
        {
            int[] offsets = [.. sequences.Select(s => s.PageOffset)];
            decode.Plan(sequences);
            cache.EndForward(sequences);
            Assert.Equal(offsets, sequences.Select(s => s.PageOffset));
            PageTableChecks.DeviceEqualsHost(cache, sequences);
            PageTableChecks.StretchesAreApart(cache, sequences);
        }

        Assert.Equal(Pages / count, rounds);
        Assert.All(sequences, sequence => Assert.Equal(rounds, sequence.PageCount));
        Assert.Equal(Pages % count, cache.FreePages);
    }

    /// <summary>
    /// The worst that can happen to a size class: as many sequences as the pages allow, each with the fewest pages of the class, made by
    /// growing others, by abandoning a forward down into it, or anew; then most of them go and the next class is filled.
    /// </summary>
    [Fact]
    public void A_class_filled_to_its_bound_always_has_a_stretch()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        Gen.Select(Gen.Int[1, Pages], s_phases)
            .Sample(
                (pages, phases) =>
                {
                    using PagedKvCache cache = Make(device, 1, pages);
                    List<Sequence> live = [];
                    foreach ((int sizeClass, int kept, int order) in phases)
                    {
                        Random random = new(order);
                        int fewest = sizeClass == 0 ? 1 : (2 << sizeClass) + 1;
                        Fill(cache, live, fewest, random);
                        PageTableChecks.StretchesAreApart(cache, live);
                        Shed(cache, live, kept, random);
                        PageTableChecks.StretchesAreApart(cache, live);
                        Assert.Equal(pages, cache.FreePages + live.Sum(sequence => sequence.PageCount));
                    }
                },
                iter: 1000,
                threads: 2
            );
    }

    [Fact]
    public void Only_what_changed_is_sent_and_a_freed_stretch_is_used_again()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = Make(device, 1, 64);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        (Sequence first, Sequence second) = (cache.NewSequence(), cache.NewSequence());
        cache.BeginForward([first, second], [20, 5]);
        decode.Plan([first, second]);
        int offset = first.PageOffset;
        Overwrite(cache, second, -1);
        cache.Free(first);
        Sequence third = cache.NewSequence();
        cache.BeginForward(third, 17);
        decode.Plan([third]);

        Assert.Equal(offset, third.PageOffset);
        PageTableChecks.DeviceEqualsHost(cache, [third]);
        Assert.Equal(-1, First(cache, second));
    }

    [Fact]
    public void More_changes_than_one_upload_holds_all_arrive()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = Make(device, 1, 10_000);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        (Sequence first, Sequence second) = (cache.NewSequence(), cache.NewSequence());
        cache.BeginForward([first, second], [9_000, 999]);
        decode.Plan([first]);

        PageTableChecks.DeviceEqualsHost(cache, [first, second]);
    }

    private static PagedKvCache Make(Device device, int pageSize, int pages) =>
        new(device, new AttentionSpec(1, 1, 64, pageSize, DType.Float16), layers: 1, pages);

    /// <summary>Sequences of exactly this many pages until no page is left for another.</summary>
    private static void Fill(PagedKvCache cache, List<Sequence> live, int pages, Random random)
    {
        foreach (Sequence sequence in live.Where(s => s.Length < pages).ToArray())
        {
            if (cache.TryBeginForward(sequence, pages - sequence.Length))
            {
                cache.EndForward(sequence);
            }
        }

        while (true)
        {
            Sequence sequence = cache.NewSequence();
            if (!cache.TryBeginForward(sequence, pages))
            {
                return;
            }

            cache.EndForward(sequence);
            live.Add(sequence);
            if (random.Next(3) == 0 && cache.TryBeginForward(sequence, random.Next(1, 1 + Math.Max(1, cache.FreePages))))
            {
                cache.AbandonForward(sequence);
            }
        }
    }

    /// <summary>Frees all but a few, in random order.</summary>
    private static void Shed(PagedKvCache cache, List<Sequence> live, int kept, Random random)
    {
        while (live.Count > kept)
        {
            int at = random.Next(live.Count);
            cache.Free(live[at]);
            live.RemoveAt(at);
        }
    }

    private static unsafe void Overwrite(PagedKvCache cache, Sequence sequence, int page) =>
        ((int*)cache.Table.Address)[sequence.PageOffset] = page;

    private static unsafe int First(PagedKvCache cache, Sequence sequence) => ((int*)cache.Table.Address)[sequence.PageOffset];
}
