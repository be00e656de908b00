using FlashInfer.KvCache;

namespace FlashInfer.Tests.KvCache;

/// <summary>What must hold of the page table at any time.</summary>
internal static class PageTableChecks
{
    /// <summary>After a flush, the device's copy has every sequence's pages; the CPU device's memory can be read in place.</summary>
    public static unsafe void DeviceEqualsHost(PagedKvCache cache, IEnumerable<Sequence> sequences)
    {
        foreach (Sequence sequence in sequences)
        {
            ReadOnlySpan<int> device = new((int*)cache.Table.Address + sequence.PageOffset, sequence.PageCount);
            Assert.True(
                device.SequenceEqual(sequence.Pages),
                $"{sequence}: the device has [{string.Join(", ", device.ToArray())}], the host [{string.Join(", ", sequence.Pages.ToArray())}]"
            );
        }
    }

    /// <summary>
    /// Each sequence's stretch lies in the room of its size class (for pages / (2 * 2^c) stretches of 4 * 2^c entries, pages of class 0)
    /// and touches no other. Those of forks lie behind all rooms.
    /// </summary>
    public static void StretchesAreApart(PagedKvCache cache, IEnumerable<Sequence> sequences)
    {
        int end = 0;
        foreach (Sequence sequence in sequences.Where(s => s.SizeClass >= 0).OrderBy(s => s.PageOffset))
        {
            Assert.True(sequence.PageOffset >= end, $"{sequence} begins at {sequence.PageOffset}, inside a stretch that ends at {end}");
            end = sequence.PageOffset + (4 << sequence.SizeClass);
            if (sequence.IsFork)
            {
                Assert.InRange(sequence.PageOffset, PageTable.EntriesFor(cache.TotalPages), int.MaxValue);
                Assert.InRange(sequence.PageCount, 1, 4 << sequence.SizeClass);
                continue;
            }

            (long first, long last) = Room(cache.TotalPages, sequence.SizeClass);
            Assert.InRange(sequence.PageOffset, first, last - (4 << sequence.SizeClass));
            Assert.InRange(sequence.PageCount, sequence.SizeClass == 0 ? 1 : (2 << sequence.SizeClass) + 1, 4 << sequence.SizeClass);
        }

        Assert.True(end <= cache.Table.Bytes / sizeof(int));
    }

    private static (long First, long Last) Room(int pages, int sizeClass)
    {
        long first = 0;
        for (int c = 0; ; c++)
        {
            long last = first + ((c == 0 ? pages : Math.Max(1, pages / (2L << c))) * (4L << c));
            if (c == sizeClass)
            {
                return (first, last);
            }

            first = last;
        }
    }
}
