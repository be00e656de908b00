using System.Numerics;
using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.KvCache;

/// <summary>
/// The page table: every sequence's page ids as one stretch of an int32 array, kept on the host and on the device. Only entries that
/// changed travel to the device.
/// </summary>
/// <remarks>
/// A stretch has 4 * 2^c entries. A sequence lies in the smallest class that holds its pages, so it fills more than half of its stretch
/// (class 0: at least one entry), and at most pages / (2 * 2^c) sequences can lie in class c at once (class 0: pages). Each class has
/// room for that many, so a stretch is always found and no other sequence ever moves: plans of other sequences stay right.
/// </remarks>
internal sealed class PageTable : IDisposable
{
    private const int UpdatesPerUpload = 4096;
    private const int FirstStretch = 4;

    private readonly int[] _entries;
    private readonly Stack<int>[] _freeStretches;
    private readonly int[] _unusedStart;
    private readonly DeviceMemory _device;
    private readonly UploadList<PageTableUpdate> _updates;
    private int[] _changed = new int[256];
    private int _changedCount;

    public PageTable(Device device, int pages)
    {
        int classes = ClassOf(pages) + 1;
        _freeStretches = new Stack<int>[classes];
        _unusedStart = new int[classes];
        long total = 0;
        for (int c = 0; c < classes; c++)
        {
            _freeStretches[c] = new Stack<int>();
            _unusedStart[c] = checked((int)total);
            total += RoomOf(c, pages);
        }

        _entries = new int[checked((int)total)];
        _device = new DeviceMemory(device, total * sizeof(int));
        _updates = new UploadList<PageTableUpdate>(device.Backend, UpdatesPerUpload);
    }

    /// <summary>The table on the device.</summary>
    public nint Address => _device.Address;

    /// <summary>Bytes that it takes there.</summary>
    public long Bytes => _device.Bytes;

    /// <summary>Entries of the table of a cache with this many pages.</summary>
    public static long EntriesFor(int pages)
    {
        long total = 0;
        for (int c = 0; c <= ClassOf(pages); c++)
        {
            total += RoomOf(c, pages);
        }

        return total;
    }

    /// <summary>The pages of a sequence.</summary>
    public ReadOnlySpan<int> PagesOf(Sequence sequence) => _entries.AsSpan(sequence.PageOffset, sequence.PageCount);

    /// <summary>Adds a page behind the sequence's last.</summary>
    public void Add(Sequence sequence, int page)
    {
        Move(sequence, ClassOf(sequence.PageCount + 1));
        Set(sequence.PageOffset + sequence.PageCount, page);
        sequence.PageCount++;
    }

    /// <summary>Takes the sequence's last page away and returns it.</summary>
    public int RemoveLast(Sequence sequence)
    {
        sequence.PageCount--;
        int page = _entries[sequence.PageOffset + sequence.PageCount];
        Move(sequence, sequence.PageCount == 0 ? -1 : ClassOf(sequence.PageCount));
        return page;
    }

    /// <summary>Sends what changed since the last call.</summary>
    public void Flush(AttentionKernels kernels, CudaStream? stream)
    {
        for (int start = 0; start < _changedCount; start += UpdatesPerUpload)
        {
            ReadOnlySpan<int> indices = _changed.AsSpan(start, Math.Min(UpdatesPerUpload, _changedCount - start));
            Span<PageTableUpdate> updates = _updates.Begin();
            for (int i = 0; i < indices.Length; i++)
            {
                // The value as it is now: an entry that changed twice is sent twice with the same value, in whatever order.
                updates[i] = new PageTableUpdate { Index = indices[i], Page = _entries[indices[i]] };
            }

            _updates.Commit(indices.Length, stream);
            kernels.UpdatePageTable(new PageTableParams { Pages = Address, Updates = _updates.Address }, indices.Length, stream);
        }

        _changedCount = 0;
    }

    public void Dispose()
    {
        _updates.Dispose();
        _device.Dispose();
    }

    private static int ClassOf(int pages) =>
        BitOperations.Log2((uint)Math.Max(1, (pages - 1) / FirstStretch)) + (pages > FirstStretch ? 1 : 0);

    private static long RoomOf(int sizeClass, int pages) =>
        (sizeClass == 0 ? pages : Math.Max(1, pages / (2L << sizeClass))) * StretchOf(sizeClass);

    private static int StretchOf(int sizeClass) => FirstStretch << sizeClass;

    private void Move(Sequence sequence, int sizeClass)
    {
        if (sequence.SizeClass == sizeClass)
        {
            return;
        }

        int from = sequence.PageOffset;
        if (sizeClass >= 0)
        {
            if (!_freeStretches[sizeClass].TryPop(out int to))
            {
                to = _unusedStart[sizeClass];
                _unusedStart[sizeClass] += StretchOf(sizeClass);
            }

            for (int i = 0; i < sequence.PageCount; i++)
            {
                Set(to + i, _entries[from + i]);
            }

            sequence.PageOffset = to;
        }

        if (sequence.SizeClass >= 0)
        {
            _freeStretches[sequence.SizeClass].Push(from);
        }

        sequence.SizeClass = sizeClass;
    }

    private void Set(int index, int page)
    {
        _entries[index] = page;
        if (_changedCount == _changed.Length)
        {
            ForgetRepeated();
        }

        _changed[_changedCount++] = index;
    }

    /// <summary>Makes room in the list of changes: never more than twice the table, however long nothing is flushed.</summary>
    private void ForgetRepeated()
    {
        Array.Sort(_changed);
        int kept = 1;
        for (int i = 1; i < _changed.Length; i++)
        {
            if (_changed[i] != _changed[kept - 1])
            {
                _changed[kept++] = _changed[i];
            }
        }

        _changedCount = kept;
        if (kept > _changed.Length / 2)
        {
            Array.Resize(ref _changed, _changed.Length * 2);
        }
    }
}
