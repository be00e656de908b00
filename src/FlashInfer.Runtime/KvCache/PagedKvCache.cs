using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;
using FlashInfer.Observability;

namespace FlashInfer;

/// <summary>
/// Keys and values of many sequences in pages of a fixed size: one allocation for all layers, a free list, and a page table that lives on
/// the device. Generated configurations derive a typed cache from it; a configuration known only at run time uses it as it is.
/// </summary>
/// <remarks>
/// A step is <c>BeginForward</c> (reserves room for new tokens, all or nothing), <c>Append</c> for each layer, and <c>EndForward</c>
/// (commits) or <c>AbandonForward</c> (rolls back). A cache belongs to one caller at a time, and its work to one stream at a time.
/// A quantised cache, one with 8-bit elements, stores a key or value x as x / scale, with a scale for each layer and KV head: 1 until
/// <c>SetScales</c> says otherwise.
/// </remarks>
public partial class PagedKvCache : IDisposable
{
    private readonly Stack<int> _freePages;
    private readonly int[] _holders;
    private readonly PageTable _table;
    private readonly AppendList _appends;
    private readonly DeviceMemory _memory;
    private readonly DeviceMemory? _scales;
    private readonly UseGuard _guard = new(nameof(PagedKvCache));
    private readonly long _layerElements;
    private long _nextId;
    private long _mark;
    private int[] _each = [];
    private bool _disposed;

    /// <summary>Allocates a cache and begins to get the kernel of append ready; a wrapper waits for it and gets its own ready.</summary>
    /// <param name="device">The device that holds it.</param>
    /// <param name="spec">The attention configuration.</param>
    /// <param name="layers">Layers of the model, 1 or more.</param>
    /// <param name="pages">Pages, 1 or more; each holds <see cref="AttentionSpec.PageSize"/> tokens of every layer, in <see cref="AttentionSpec.PageBytes"/> of each.</param>
    /// <exception cref="ArgumentException">The configuration has no cache.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number is below 1, or together they make a cache that no device can hold.</exception>
    /// <exception cref="FlashInferException">There is neither a kernel nor a compiler, or the memory is not there.</exception>
    public PagedKvCache(Device device, AttentionSpec spec, int layers, int pages)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(spec);
        spec.RequireCache(nameof(spec));
        ArgumentOutOfRangeException.ThrowIfLessThan(layers, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(pages, 1);
        CheckSize(spec, layers, pages, out long bytes);
        Device = device;
        Spec = spec;
        Layers = layers;
        TotalPages = pages;
        Kernels = device.Kernels(spec);
        Kernels.BeginAppend();
        PageElements = (long)spec.PageSize * spec.KvHeads * spec.HeadDim;
        _layerElements = pages * PageElements;
        _memory = new DeviceMemory(device, bytes);
        try
        {
            _scales = spec.Shape.IsQuantised ? Ones(device, 2L * layers * ScaleStride) : null;
            _table = new PageTable(device, pages);
            _appends = new AppendList(this, $"{nameof(PagedKvCache)}.{nameof(Append)}");
            Streams = device.Backend.CreateStreamCheck();
        }
        catch
        {
            _appends?.Dispose();
            _table?.Dispose();
            _scales?.Dispose();
            _memory.Dispose();
            throw;
        }

        _holders = new int[pages];
        _freePages = new Stack<int>(pages);
        for (int page = pages - 1; page >= 0; page--)
        {
            _freePages.Push(page);
        }

        Telemetry.Track(this);
    }

    /// <summary>The device that holds the cache.</summary>
    public Device Device { get; }

    /// <summary>The attention configuration.</summary>
    public AttentionSpec Spec { get; }

    /// <summary>Layers of the model.</summary>
    public int Layers { get; }

    /// <summary>Pages of the cache.</summary>
    public int TotalPages { get; }

    /// <summary>Pages that no sequence holds.</summary>
    public int FreePages => _freePages.Count;

    /// <summary>Device memory that the cache takes, page table and scales included.</summary>
    public long Bytes => _memory.Bytes + _table.Bytes + (_scales?.Bytes ?? 0);

    internal AttentionKernels Kernels { get; }

    /// <summary>Finds misuse of streams, of the cache and all its wrappers; null when the device is not in checked mode.</summary>
    internal StreamCheck? Streams { get; }

    internal PageTable Table => _table;

    /// <summary>Elements between two pages.</summary>
    internal long PageElements { get; }

    /// <summary>Elements between two tokens of a page.</summary>
    internal long TokenElements => Spec.KvLayout == KvLayout.Nhd ? (long)Spec.KvHeads * Spec.HeadDim : Spec.HeadDim;

    /// <summary>Elements between two heads of a page.</summary>
    internal long HeadElements => Spec.KvLayout == KvLayout.Nhd ? Spec.HeadDim : (long)Spec.PageSize * Spec.HeadDim;

    /// <summary>Goes up with every change that may make a plan stale: an unchanged value spares the look at each sequence.</summary>
    internal int Revision { get; private set; }

    /// <summary>Goes up with every EndForward: an unchanged value says that forwards which were open still are.</summary>
    internal int Commits { get; private set; }

    /// <summary>Makes an empty sequence; it holds no page until its first forward.</summary>
    public Sequence NewSequence()
    {
        ThrowIfDisposed();
        return new Sequence(this, Interlocked.Increment(ref _nextId));
    }

    /// <summary>Reserves room for new tokens of one sequence.</summary>
    /// <param name="sequence">A sequence of this cache with no forward open.</param>
    /// <param name="tokens">New tokens, 1 or more.</param>
    /// <exception cref="OutOfPagesException">Too few pages are free; nothing was reserved.</exception>
    /// <exception cref="ArgumentException">The sequence is another cache's or was freed.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number of tokens is below 1.</exception>
    /// <exception cref="InvalidOperationException">A forward is open already.</exception>
    public void BeginForward(Sequence sequence, int tokens) =>
        BeginForward(new ReadOnlySpan<Sequence>(in sequence), new ReadOnlySpan<int>(in tokens));

    /// <summary>Reserves room for new tokens of a batch: for all of it or none.</summary>
    /// <param name="sequences">Different sequences of this cache with no forward open.</param>
    /// <param name="tokens">New tokens of each, 1 or more.</param>
    /// <exception cref="OutOfPagesException">Too few pages are free; nothing was reserved.</exception>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice; or there is not one number for each.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number of tokens is below 1.</exception>
    /// <exception cref="InvalidOperationException">A forward is open already.</exception>
    public void BeginForward(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens)
    {
        if (!TryBegin(sequences, tokens, out int needed))
        {
            throw new OutOfPagesException(needed, FreePages, TotalPages);
        }
    }

    /// <summary>Reserves room for as many new tokens of each sequence of a batch, one each in a step of decode: for all of it or none.</summary>
    /// <param name="sequences">Different sequences of this cache with no forward open.</param>
    /// <param name="tokens">New tokens of each, 1 or more.</param>
    /// <exception cref="OutOfPagesException">Too few pages are free; nothing was reserved.</exception>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The number of tokens is below 1.</exception>
    /// <exception cref="InvalidOperationException">A forward is open already.</exception>
    public void BeginForward(ReadOnlySpan<Sequence> sequences, int tokens) => BeginForward(sequences, Each(sequences.Length, tokens));

    /// <summary>As <see cref="BeginForward(Sequence, int)"/>, but says <see langword="false"/> when too few pages are free.</summary>
    /// <param name="sequence">A sequence of this cache with no forward open.</param>
    /// <param name="tokens">New tokens, 1 or more.</param>
    /// <exception cref="ArgumentException">The sequence is another cache's or was freed.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number of tokens is below 1.</exception>
    /// <exception cref="InvalidOperationException">A forward is open already.</exception>
    public bool TryBeginForward(Sequence sequence, int tokens) =>
        TryBegin(new ReadOnlySpan<Sequence>(in sequence), new ReadOnlySpan<int>(in tokens), out _);

    /// <summary>As <see cref="BeginForward(ReadOnlySpan{Sequence}, ReadOnlySpan{int})"/>, but says <see langword="false"/> when too few pages are free.</summary>
    /// <param name="sequences">Different sequences of this cache with no forward open.</param>
    /// <param name="tokens">New tokens of each, 1 or more.</param>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice; or there is not one number for each.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number of tokens is below 1.</exception>
    /// <exception cref="InvalidOperationException">A forward is open already.</exception>
    public bool TryBeginForward(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens) => TryBegin(sequences, tokens, out _);

    /// <summary>As <see cref="BeginForward(ReadOnlySpan{Sequence}, int)"/>, but says <see langword="false"/> when too few pages are free.</summary>
    /// <param name="sequences">Different sequences of this cache with no forward open.</param>
    /// <param name="tokens">New tokens of each, 1 or more.</param>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The number of tokens is below 1.</exception>
    /// <exception cref="InvalidOperationException">A forward is open already.</exception>
    public bool TryBeginForward(ReadOnlySpan<Sequence> sequences, int tokens) => TryBegin(sequences, Each(sequences.Length, tokens), out _);

    /// <summary>Commits the open forward of one sequence.</summary>
    /// <param name="sequence">A sequence with a forward open.</param>
    /// <exception cref="ArgumentException">The sequence is another cache's or was freed.</exception>
    /// <exception cref="InvalidOperationException">No forward is open.</exception>
    public void EndForward(Sequence sequence) => EndForward(new ReadOnlySpan<Sequence>(in sequence));

    /// <summary>Commits the open forwards of a batch. Plans that counted them stay right.</summary>
    /// <param name="sequences">Different sequences with a forward open.</param>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice.</exception>
    /// <exception cref="InvalidOperationException">A sequence has no forward open; none was changed.</exception>
    public void EndForward(ReadOnlySpan<Sequence> sequences)
    {
        using UseGuard.Use use = Enter();
        CheckBatch(sequences, inForward: true);
        foreach (Sequence sequence in sequences)
        {
            sequence.Length += sequence.ForwardTokens;
            sequence.ForwardTokens = 0;
        }

        Commits++;
    }

    /// <summary>Commits the first tokens of one sequence's open forward and rolls the others back: drafted tokens that were refused, say.</summary>
    /// <param name="sequence">A sequence with a forward open.</param>
    /// <param name="acceptedTokens">Tokens that stay, 0 to those of the forward.</param>
    /// <exception cref="ArgumentException">The sequence is another cache's or was freed.</exception>
    /// <exception cref="ArgumentOutOfRangeException">More tokens are to stay than a forward has, or fewer than 0.</exception>
    /// <exception cref="InvalidOperationException">No forward is open.</exception>
    public void EndForward(Sequence sequence, int acceptedTokens) =>
        EndForward(new ReadOnlySpan<Sequence>(in sequence), new ReadOnlySpan<int>(in acceptedTokens));

    /// <summary>
    /// Commits the first tokens of each of a batch's open forwards and rolls the others back: their pages are free again. Plans that counted
    /// a sequence stay right only where all of its tokens stay.
    /// </summary>
    /// <param name="sequences">Different sequences with a forward open.</param>
    /// <param name="acceptedTokens">Tokens of each that stay, 0 to those of its forward.</param>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice; or there is not one number for each.</exception>
    /// <exception cref="ArgumentOutOfRangeException">More tokens are to stay than a forward has, or fewer than 0.</exception>
    /// <exception cref="InvalidOperationException">A sequence has no forward open; none was changed.</exception>
    public void EndForward(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> acceptedTokens)
    {
        using UseGuard.Use use = Enter();
        CheckCounts(sequences, acceptedTokens, nameof(acceptedTokens));
        CheckBatch(sequences, inForward: true);
        for (int i = 0; i < sequences.Length; i++)
        {
            if ((uint)acceptedTokens[i] > (uint)sequences[i].ForwardTokens)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(acceptedTokens),
                    acceptedTokens[i],
                    $"{acceptedTokens[i]} tokens of sequence {i} of the batch ({sequences[i]}) are to stay; expected 0 to {sequences[i].ForwardTokens}, those of its forward."
                );
            }
        }

        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            bool all = acceptedTokens[i] == sequence.ForwardTokens;
            sequence.Length += acceptedTokens[i];
            sequence.ForwardTokens = 0;
            if (!all)
            {
                ReleasePagesBeyond(sequence, PagesFor(sequence.Length));
                Touch(sequence);
            }
        }

        Commits++;
    }

    /// <summary>Rolls the open forward of one sequence back.</summary>
    /// <param name="sequence">A sequence with a forward open.</param>
    /// <exception cref="ArgumentException">The sequence is another cache's or was freed.</exception>
    /// <exception cref="InvalidOperationException">No forward is open.</exception>
    public void AbandonForward(Sequence sequence) => AbandonForward(new ReadOnlySpan<Sequence>(in sequence));

    /// <summary>Rolls the open forwards of a batch back: their pages are free again, and plans that counted them are stale.</summary>
    /// <param name="sequences">Different sequences with a forward open.</param>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice.</exception>
    /// <exception cref="InvalidOperationException">A sequence has no forward open; none was changed.</exception>
    public void AbandonForward(ReadOnlySpan<Sequence> sequences)
    {
        using UseGuard.Use use = Enter();
        CheckBatch(sequences, inForward: true);
        foreach (Sequence sequence in sequences)
        {
            sequence.ForwardTokens = 0;
            ReleasePagesBeyond(sequence, PagesFor(sequence.Length));
            Touch(sequence);
        }
    }

    /// <summary>Gives all pages of a sequence back, an open forward's too, but those that a fork still holds; the sequence can't be used any more.</summary>
    /// <param name="sequence">A sequence of this cache that was not freed.</param>
    /// <exception cref="ArgumentException">The sequence is another cache's or was freed.</exception>
    public void Free(Sequence sequence) => Free(new ReadOnlySpan<Sequence>(in sequence));

    /// <summary>Gives all pages of a batch of sequences back, as of one.</summary>
    /// <param name="sequences">Different sequences of this cache that were not freed.</param>
    /// <exception cref="ArgumentException">A sequence is another cache's, was freed, or stands in the batch twice; none was freed.</exception>
    public void Free(ReadOnlySpan<Sequence> sequences)
    {
        using UseGuard.Use use = Enter();
        CheckBatch(sequences, inForward: null);
        foreach (Sequence sequence in sequences)
        {
            ReleasePagesBeyond(sequence, 0);
            sequence.Length = 0;
            sequence.ForwardTokens = 0;
            sequence.IsFreed = true;
            Touch(sequence);
        }
    }

    /// <summary>
    /// Writes the keys and values of the open forwards of a batch into one layer. Needs no plan; in a step that decodes, the wrapper's
    /// <c>Append</c> does it.
    /// </summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="sequences">Different sequences with a forward open.</param>
    /// <param name="key">[tokens, kvHeads, headDim] of <see cref="AttentionSpec.Dtype"/>: the new tokens of the first sequence, then of the second, ...</param>
    /// <param name="value">As <paramref name="key"/>.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="ArgumentException">A sequence, the layer, or shape, element type or device of a tensor does not fit.</exception>
    /// <exception cref="InvalidOperationException">A sequence has no forward open; nothing was written.</exception>
    /// <exception cref="FlashInferException">The kernel can't be compiled or loaded, which a wrapper's constructor says before.</exception>
    public void Append(int layer, ReadOnlySpan<Sequence> sequences, TensorView key, TensorView value, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        CheckLayer(layer);
        CheckBatch(sequences, inForward: true);
        int tokens = 0;
        foreach (Sequence sequence in sequences)
        {
            tokens += sequence.ForwardTokens;
        }

        AppendParams args = AppendArguments(layer, tokens, key, value, stream);
        if (tokens == 0)
        {
            return;
        }

        _appends.Check?.Before(stream);
        if (!_appends.Covers(sequences))
        {
            _appends.Fill(sequences, tokens, stream);
        }

        _table.Flush(Kernels, stream);
        _appends.Run(layer, args, Kernels, stream);
    }

    /// <summary>Keys of one layer: [pages, pageSize, kvHeads, headDim], or [pages, kvHeads, pageSize, headDim] when HND.</summary>
    /// <param name="layer">The layer, from 0.</param>
    public TensorView KeyPages(int layer) => Pages(layer, 0);

    /// <summary>Values of one layer, shaped as <see cref="KeyPages"/>.</summary>
    /// <param name="layer">The layer, from 0.</param>
    public TensorView ValuePages(int layer) => Pages(layer, 1);

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the cache's memory.</summary>
    /// <param name="disposing">Whether <see cref="Dispose()"/> was called.</param>
    protected virtual void Dispose(bool disposing)
    {
        if (_disposed || !disposing)
        {
            return;
        }

        _disposed = true;
        Telemetry.Forget(this);
        _appends.Dispose();
        _table.Dispose();
        _scales?.Dispose();
        _memory.Dispose();
        Streams?.Dispose();
    }

    internal void ThrowIfDisposed()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Device.ThrowIfDisposed();
    }

    internal UseGuard.Use Enter()
    {
        ThrowIfDisposed();
        return _guard.Enter();
    }

    internal ReadOnlySpan<int> PagesOf(Sequence sequence) => _table.PagesOf(sequence);

    internal nint KeyAddress(int layer) => LayerAddress(layer, 0);

    internal nint ValueAddress(int layer) => LayerAddress(layer, 1);

    internal AppendParams AppendArguments(int layer, int tokens, TensorView key, TensorView value, CudaStream? stream)
    {
        Device.CheckStream(stream);
        KernelTensor.Check(key, nameof(key), Device, "cache", Spec.Dtype, tokens, Spec.KvHeads, Spec.HeadDim);
        KernelTensor.Check(value, nameof(value), Device, "cache", Spec.Dtype, tokens, Spec.KvHeads, Spec.HeadDim);
        return new AppendParams
        {
            Key = key.Address,
            Value = value.Address,
            KeyCache = KeyAddress(layer),
            ValueCache = ValueAddress(layer),
            Pages = _table.Address,
            KeyRowStride = key.Stride(0),
            KeyHeadStride = key.Stride(1),
            ValueRowStride = value.Stride(0),
            ValueHeadStride = value.Stride(1),
            PageStride = PageElements,
            TokenStride = TokenElements,
            HeadStride = HeadElements,
            PageCount = TotalPages,
            KeyScales = KeyScaleAddress(layer),
            ValueScales = ValueScaleAddress(layer),
        };
    }

    private bool TryBegin(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens, out int needed)
    {
        using UseGuard.Use use = Enter();
        CheckCounts(sequences, tokens, nameof(tokens));
        CheckBatch(sequences, inForward: false);
        long pages = 0;
        bool forks = false;
        for (int i = 0; i < sequences.Length; i++)
        {
            if (tokens[i] < 1)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(tokens),
                    tokens[i],
                    $"Sequence {i} of the batch begins {tokens[i]} tokens; expected 1 or more."
                );
            }

            pages += PagesFor((long)sequences[i].Length + tokens[i]) - sequences[i].PageCount;
            forks |= sequences[i].IsFork;
        }

        needed = (int)Math.Min(pages, int.MaxValue);
        if (pages > _freePages.Count)
        {
            return false;
        }

        if (forks)
        {
            _table.ReserveForks(sequences, tokens, Spec.PageSize);
        }

        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            sequence.ForwardTokens = tokens[i];
            for (long count = PagesFor(sequence.KvLength); sequence.PageCount < count; )
            {
                _table.Add(sequence, TakePage());
            }

            Touch(sequence);
        }

        return true;
    }

    /// <summary>The same number for each of a batch.</summary>
    private ReadOnlySpan<int> Each(int count, int tokens)
    {
        if (_each.Length < count)
        {
            _each = new int[count];
        }

        Span<int> each = _each.AsSpan(0, count);
        each.Fill(tokens);
        return each;
    }

    private void ReleasePagesBeyond(Sequence sequence, long pages)
    {
        while (sequence.PageCount > pages)
        {
            int page = _table.RemoveLast(sequence);
            if (--_holders[page] == 0)
            {
                _freePages.Push(page);
            }
        }
    }

    private int TakePage()
    {
        int page = _freePages.Pop();
        _holders[page] = 1;
        return page;
    }

    private void Touch(Sequence sequence)
    {
        sequence.Revision++;
        Revision++;
    }

    private long PagesFor(long tokens) => (tokens + Spec.PageSize - 1) / Spec.PageSize;

    private nint LayerAddress(int layer, int part) =>
        _memory.Address + checked((nint)(((2 * (long)layer) + part) * _layerElements * Spec.KvDtype.Size()));

    private TensorView Pages(int layer, int part)
    {
        ThrowIfDisposed();
        CheckLayer(layer);
        TensorShape shape =
            Spec.KvLayout == KvLayout.Nhd
                ? new TensorShape(TotalPages, Spec.PageSize, Spec.KvHeads, Spec.HeadDim)
                : new TensorShape(TotalPages, Spec.KvHeads, Spec.PageSize, Spec.HeadDim);
        return new TensorView(Device, _memory, LayerAddress(layer, part), Spec.KvDtype, shape, TensorStrides.Contiguous(shape));
    }
}
