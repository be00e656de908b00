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
/// Forks hold pages that others hold too, without a bound: their stretches lie behind the rooms of all classes, in as many entries as it
/// takes, and the table grows for them.
/// </remarks>
internal sealed class PageTable : IDisposable
{
    private const int UpdatesPerUpload = 4096;
    private const int FirstStretch = 4;

    private readonly Device _owner;
    private readonly Stack<int>[] _freeStretches;
    private readonly Stack<int>[] _freeForkStretches;
    private readonly int[] _unusedStart;
    private readonly UploadList<PageTableUpdate> _updates;
    private DeviceMemory _device;
    private int[] _entries;
    private int _forkEnd;
    private int[] _changed = new int[256];
    private int _changedCount;

    public PageTable(Device device, int pages)
    {
        int classes = ClassOf(pages) + 1;
        _owner = device;
        _freeStretches = new Stack<int>[classes];
        _freeForkStretches = new Stack<int>[classes];
        _unusedStart = new int[classes];
        long total = 0;
        for (int c = 0; c < classes; c++)
        {
            _freeStretches[c] = new Stack<int>();
            _freeForkStretches[c] = new Stack<int>();
            _unusedStart[c] = checked((int)total);
            total += RoomOf(c, pages);
        }

        _forkEnd = checked((int)total);
        _entries = new int[_forkEnd];
        _device = new DeviceMemory(device, total * sizeof(int));
        _updates = new UploadList<PageTableUpdate>(device.Backend, UpdatesPerUpload);
    }

    /// <summary>The table on the device.</summary>
    public nint Address => _device.Address;

    /// <summary>Bytes that it takes there.</summary>
    public long Bytes => _device.Bytes;

    /// <summary>Whether a captured graph holds <see cref="Address"/>, which must then stay.</summary>
    public bool IsCaptured { get; set; }

    /// <summary>Entries that no stretch of a fork has had yet.</summary>
    public int EntriesLeft => _entries.Length - _forkEnd;

    /// <summary>Entries of the table of a cache with this many pages and no fork.</summary>
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

    /// <summary>Gives the forks of a batch stretches that are long enough, or throws before anything has changed.</summary>
    /// <param name="sequences">Forks and others.</param>
    /// <param name="tokens">What each will have behind its committed tokens.</param>
    /// <param name="pageSize">Tokens of a page.</param>
    public void ReserveForks(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens, int pageSize)
    {
        Span<int> needed = stackalloc int[_freeForkStretches.Length];
        needed.Clear();
        for (int i = 0; i < sequences.Length; i++)
        {
            int sizeClass = ClassAfter(sequences[i], tokens[i], pageSize);
            if (sizeClass > sequences[i].SizeClass)
            {
                needed[sizeClass]++;
            }
        }

        long end = _forkEnd;
        for (int c = 0; c < needed.Length; c++)
        {
            end += (long)Math.Max(0, needed[c] - _freeForkStretches[c].Count) * StretchOf(c);
        }

        if (end > _entries.Length)
        {
            Grow(end);
        }

        for (int i = 0; i < sequences.Length; i++)
        {
            int sizeClass = ClassAfter(sequences[i], tokens[i], pageSize);
            if (sizeClass > sequences[i].SizeClass)
            {
                Move(sequences[i], sizeClass);
            }
        }
    }

    /// <summary>Gives a fork without pages, but with room for them, the first pages of another sequence.</summary>
    public void Share(Sequence from, Sequence to, int pages)
    {
        for (int i = 0; i < pages; i++)
        {
            Set(to.PageOffset + i, _entries[from.PageOffset + i]);
        }

        to.PageCount = pages;
    }

    /// <summary>Adds a page behind the sequence's last.</summary>
    public void Add(Sequence sequence, int page)
    {
        Move(sequence, ClassFor(sequence, sequence.PageCount + 1));
        Set(sequence.PageOffset + sequence.PageCount, page);
        sequence.PageCount++;
    }

    /// <summary>Takes the sequence's last page away and returns it.</summary>
    public int RemoveLast(Sequence sequence)
    {
        sequence.PageCount--;
        int page = _entries[sequence.PageOffset + sequence.PageCount];
        Move(sequence, sequence.PageCount == 0 ? -1 : ClassFor(sequence, sequence.PageCount));
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

    /// <summary>Forks keep a stretch that is larger than they need: nothing bounds how many want the next smaller one.</summary>
    private static int ClassFor(Sequence sequence, int pages) =>
        sequence.IsFork ? Math.Max(sequence.SizeClass, ClassOf(pages)) : ClassOf(pages);

    /// <summary>The class of a fork with so many tokens behind its committed ones; of others -1, whose room is certain.</summary>
    private static int ClassAfter(Sequence sequence, int tokens, int pageSize)
    {
        long pages = ((long)sequence.Length + tokens + pageSize - 1) / pageSize;
        return sequence.IsFork && pages > 0 ? ClassOf((int)pages) : -1;
    }

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
            if (!FreeStretches(sequence)[sizeClass].TryPop(out int to))
            {
                ref int unused = ref sequence.IsFork ? ref _forkEnd : ref _unusedStart[sizeClass];
                to = unused;
                unused += StretchOf(sizeClass);
            }

            for (int i = 0; i < sequence.PageCount; i++)
            {
                Set(to + i, _entries[from + i]);
            }

            sequence.PageOffset = to;
        }

        if (sequence.SizeClass >= 0)
        {
            FreeStretches(sequence)[sequence.SizeClass].Push(from);
        }

        sequence.SizeClass = sizeClass;
    }

    private Stack<int>[] FreeStretches(Sequence sequence) => sequence.IsFork ? _freeForkStretches : _freeStretches;

    private void Grow(long needed)
    {
        if (IsCaptured)
        {
            throw new InvalidOperationException(
                $"The page table has {_entries.Length} entries, {needed} are needed for the pages that forked sequences share, and it can't move: a captured graph holds its address. Fork as many sequences of as many tokens before capturing (they may be freed again), or capture anew with a new cache."
            );
        }

        if (needed > Array.MaxLength)
        {
            throw new InvalidOperationException(
                $"The forked sequences need a page table of {needed} entries; expected at most {Array.MaxLength}. Free some, or use pages of more tokens."
            );
        }

        int entries = (int)Math.Min(Array.MaxLength, Math.Max(needed, 2L * _entries.Length));
        DeviceMemory grown = new(_owner, (long)entries * sizeof(int));

        // A step still running, on whatever stream, may be reading the old table, and the next one is on any stream.
        _owner.Synchronize();
        _owner.Backend.Copy(grown.Address, Address, Bytes, null);
        _owner.Synchronize();
        _device.Dispose();
        _device = grown;
        Array.Resize(ref _entries, entries);
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
