using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.KvCache;

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
public class PagedKvCache : IDisposable
{
    private readonly Stack<int> _freePages;
    private readonly PageTable _table;
    private readonly AppendList _appends;
    private readonly DeviceMemory _memory;
    private readonly DeviceMemory? _scales;
    private readonly UseGuard _guard = new(nameof(PagedKvCache));
    private readonly long _layerElements;
    private long _nextId;
    private long _mark;
    private bool _disposed;

    /// <summary>Allocates a cache and gets its configuration's kernels ready.</summary>
    /// <param name="device">The device that holds it.</param>
    /// <param name="spec">The attention configuration.</param>
    /// <param name="layers">Layers of the model, 1 or more.</param>
    /// <param name="pages">Pages, 1 or more; each holds <see cref="AttentionSpec.PageSize"/> tokens of every layer.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is below 1, or together they make a cache that no device can hold.</exception>
    /// <exception cref="FlashInferException">The kernels can't be compiled or loaded, or the memory is not there.</exception>
    public PagedKvCache(Device device, AttentionSpec spec, int layers, int pages)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentOutOfRangeException.ThrowIfLessThan(layers, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(pages, 1);
        CheckSize(spec, layers, pages, out long bytes);
        Device = device;
        Spec = spec;
        Layers = layers;
        TotalPages = pages;
        Kernels = device.Kernels(spec);
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

        _freePages = new Stack<int>(pages);
        for (int page = pages - 1; page >= 0; page--)
        {
            _freePages.Push(page);
        }
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

    /// <summary>Floats between the scales of two layers' keys or values: they start at multiples of 16 bytes, as kernels' pointers do.</summary>
    private int ScaleStride => (Spec.KvHeads + 3) & ~3;

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
    public void BeginForward(Sequence sequence, int tokens) =>
        BeginForward(new ReadOnlySpan<Sequence>(in sequence), new ReadOnlySpan<int>(in tokens));

    /// <summary>Reserves room for new tokens of a batch: for all of it or none.</summary>
    /// <param name="sequences">Different sequences of this cache with no forward open.</param>
    /// <param name="tokens">New tokens of each, 1 or more.</param>
    /// <exception cref="OutOfPagesException">Too few pages are free; nothing was reserved.</exception>
    public void BeginForward(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens)
    {
        if (!TryBegin(sequences, tokens, out int needed))
        {
            throw new OutOfPagesException(needed, FreePages, TotalPages);
        }
    }

    /// <summary>As <see cref="BeginForward(Sequence, int)"/>, but says <see langword="false"/> when too few pages are free.</summary>
    /// <param name="sequence">A sequence of this cache with no forward open.</param>
    /// <param name="tokens">New tokens, 1 or more.</param>
    public bool TryBeginForward(Sequence sequence, int tokens) =>
        TryBegin(new ReadOnlySpan<Sequence>(in sequence), new ReadOnlySpan<int>(in tokens), out _);

    /// <summary>As <see cref="BeginForward(ReadOnlySpan{Sequence}, ReadOnlySpan{int})"/>, but says <see langword="false"/> when too few pages are free.</summary>
    /// <param name="sequences">Different sequences of this cache with no forward open.</param>
    /// <param name="tokens">New tokens of each, 1 or more.</param>
    public bool TryBeginForward(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens) => TryBegin(sequences, tokens, out _);

    /// <summary>Commits the open forward of one sequence.</summary>
    /// <param name="sequence">A sequence with a forward open.</param>
    public void EndForward(Sequence sequence) => EndForward(new ReadOnlySpan<Sequence>(in sequence));

    /// <summary>Commits the open forwards of a batch. Plans that counted them stay right.</summary>
    /// <param name="sequences">Different sequences with a forward open.</param>
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
    public void EndForward(Sequence sequence, int acceptedTokens) =>
        EndForward(new ReadOnlySpan<Sequence>(in sequence), new ReadOnlySpan<int>(in acceptedTokens));

    /// <summary>
    /// Commits the first tokens of each of a batch's open forwards and rolls the others back: their pages are free again. Plans that counted
    /// a sequence stay right only where all of its tokens stay.
    /// </summary>
    /// <param name="sequences">Different sequences with a forward open.</param>
    /// <param name="acceptedTokens">Tokens of each that stay, 0 to those of its forward.</param>
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
    public void AbandonForward(Sequence sequence) => AbandonForward(new ReadOnlySpan<Sequence>(in sequence));

    /// <summary>Rolls the open forwards of a batch back: their pages are free again, and plans that counted them are stale.</summary>
    /// <param name="sequences">Different sequences with a forward open.</param>
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

    /// <summary>Gives all pages of a sequence back, an open forward's too; the sequence can't be used any more.</summary>
    /// <param name="sequence">A sequence of this cache that was not freed.</param>
    public void Free(Sequence sequence)
    {
        using UseGuard.Use use = Enter();
        CheckSequence(sequence, 0);
        ReleasePagesBeyond(sequence, 0);
        sequence.Length = 0;
        sequence.ForwardTokens = 0;
        sequence.IsFreed = true;
        Touch(sequence);
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

    /// <summary>Gives one layer of a quantised cache a scale for each KV head, in stream order.</summary>
    /// <remarks>
    /// <para>
    /// <c>Append</c> stores a key or value x as x / scale, divided in single precision, rounded to nearest even, and cut off at the largest
    /// finite value of <see cref="AttentionSpec.KvDtype"/>. Attention multiplies what is stored with the scale: in the logits (and so in the
    /// LSE) for keys, in the output for values. A good scale is the largest magnitude of the head's keys or values over that largest value,
    /// 448 or 57,344.
    /// </para>
    /// <para>
    /// Scales belong to the layer, not to a token. What is stored already is not rewritten and means something else under another scale:
    /// set them before the first token, or only where that is meant.
    /// </para>
    /// </remarks>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="keyScales">Scales of keys, finite and above 0: kvHeads of them, or a single one for all heads.</param>
    /// <param name="valueScales">As <paramref name="keyScales"/>, of values.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised, or the stream is being captured.</exception>
    /// <exception cref="ArgumentException">There are neither 1 nor kvHeads scales.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, or a scale is not finite and above 0.</exception>
    public void SetScales(int layer, ReadOnlySpan<float> keyScales, ReadOnlySpan<float> valueScales, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        RequireQuantised();
        CheckLayer(layer);
        Device.CheckStream(stream);
        CheckScales(keyScales, nameof(keyScales));
        CheckScales(valueScales, nameof(valueScales));

        // Keys and values in one copy: a failure of the device leaves both as they were.
        Span<float> both = stackalloc float[2 * ScaleStride];
        Spread(keyScales, both[..Spec.KvHeads]);
        Spread(valueScales, both.Slice(ScaleStride, Spec.KvHeads));
        Device.Backend.CopyIn(ScaleAddress(layer, 0), MemoryMarshal.AsBytes(both), stream);
    }

    /// <summary>As <see cref="SetScales(int, ReadOnlySpan{float}, ReadOnlySpan{float}, CudaStream?)"/>, with one scale for all heads.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="keyScale">The scale of all keys, finite and above 0.</param>
    /// <param name="valueScale">The scale of all values, finite and above 0.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised, or the stream is being captured.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, or a scale is not finite and above 0.</exception>
    public void SetScales(int layer, float keyScale, float valueScale, CudaStream? stream = null) =>
        SetScales(layer, new ReadOnlySpan<float>(in keyScale), new ReadOnlySpan<float>(in valueScale), stream);

    /// <summary>What stored keys of one layer are multiplied by: [kvHeads]. Set them with <c>SetScales</c>, which checks them.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised.</exception>
    public TensorView<float> KeyScales(int layer) => Scales(layer, 0);

    /// <summary>As <see cref="KeyScales"/>, of values.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised.</exception>
    public TensorView<float> ValueScales(int layer) => Scales(layer, 1);

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

    internal void CheckLayer(int layer)
    {
        if ((uint)layer >= (uint)Layers)
        {
            throw new ArgumentOutOfRangeException(nameof(layer), layer, $"The cache has {Layers} layers; expected 0 to {Layers - 1}.");
        }
    }

    internal void CheckSequence([NotNull] Sequence? sequence, int index)
    {
        if (sequence is null || sequence.Cache != this || sequence.IsFreed)
        {
            Refuse(sequence, index);
        }
    }

    /// <summary>Throws unless all sequences are this cache's, different from each other, and in (or not in) a forward.</summary>
    internal void CheckBatch(ReadOnlySpan<Sequence> sequences, bool inForward)
    {
        _mark++;
        for (int i = 0; i < sequences.Length; i++)
        {
            CheckSequence(sequences[i], i);
            if (sequences[i].Mark == _mark)
            {
                throw new ArgumentException($"Sequence {i} of the batch ({sequences[i]}) stands in it twice.", nameof(sequences));
            }

            sequences[i].Mark = _mark;
            if (sequences[i].IsInForward != inForward)
            {
                throw new InvalidOperationException(
                    inForward
                        ? $"Sequence {i} of the batch ({sequences[i]}) has no forward open; call BeginForward first."
                        : $"Sequence {i} of the batch ({sequences[i]}) has a forward open; call EndForward or AbandonForward first."
                );
            }
        }
    }

    /// <summary>
    /// Throws unless all sequences are this cache's, and those with an open forward stand in the batch once: their new tokens would be
    /// written twice.
    /// </summary>
    /// <returns>Tokens of all open forwards.</returns>
    internal int CheckPlanned(ReadOnlySpan<Sequence> sequences)
    {
        long mark = ++_mark;
        int tokens = 0;
        int twice = -1;
        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            CheckSequence(sequence, i);
            twice = twice < 0 && sequence.Mark == mark && sequence.IsInForward ? i : twice;
            sequence.Mark = mark;
            tokens += sequence.ForwardTokens;
        }

        if (twice >= 0)
        {
            throw new ArgumentException(
                $"Sequence {twice} of the batch ({sequences[twice]}) has a forward open and stands in the batch twice.",
                nameof(sequences)
            );
        }

        return tokens;
    }

    internal nint KeyAddress(int layer) => LayerAddress(layer, 0);

    internal nint ValueAddress(int layer) => LayerAddress(layer, 1);

    /// <summary>Address of a layer's key scales; 0 unless the cache is quantised.</summary>
    internal nint KeyScaleAddress(int layer) => ScaleAddress(layer, 0);

    /// <summary>As <see cref="KeyScaleAddress"/>, of values.</summary>
    internal nint ValueScaleAddress(int layer) => ScaleAddress(layer, 1);

    internal AppendParams AppendArguments(int layer, int tokens, TensorView key, TensorView value, CudaStream? stream)
    {
        Device.CheckStream(stream);
        KernelTensor.Check(key, nameof(key), this, Spec.Dtype, tokens, Spec.KvHeads);
        KernelTensor.Check(value, nameof(value), this, Spec.Dtype, tokens, Spec.KvHeads);
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

    private static DeviceMemory Ones(Device device, long count)
    {
        DeviceMemory memory = new(device, count * sizeof(float));
        try
        {
            float[] ones = new float[count];
            ones.AsSpan().Fill(1f);
            device.Backend.CopyIn(memory.Address, MemoryMarshal.AsBytes(ones.AsSpan()), null);
            // The first launch may go to any stream, which knows nothing of the copy on the device's own.
            device.Synchronize();
            return memory;
        }
        catch
        {
            memory.Dispose();
            throw;
        }
    }

    private static void CheckCounts(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens, string name)
    {
        if (sequences.Length != tokens.Length)
        {
            throw new ArgumentException($"{sequences.Length} sequences but {tokens.Length} token counts were given.", name);
        }
    }

    private static void CheckSize(AttentionSpec spec, int layers, int pages, out long bytes)
    {
        if ((long)pages * spec.PageSize > int.MaxValue)
        {
            throw new ArgumentOutOfRangeException(
                nameof(pages),
                pages,
                $"{pages} pages of {spec.PageSize} tokens are more than {int.MaxValue} tokens, and positions are 32-bit; expected at most {int.MaxValue / spec.PageSize} pages."
            );
        }

        if (PageTable.EntriesFor(pages) > Array.MaxLength)
        {
            throw new ArgumentOutOfRangeException(
                nameof(pages),
                pages,
                $"The page table of {pages} pages would have {PageTable.EntriesFor(pages)} entries; expected at most {Array.MaxLength}. Use fewer pages of more tokens: pageSize is {spec.PageSize}."
            );
        }

        Int128 needed = (Int128)2 * layers * pages * spec.PageSize * spec.KvHeads * spec.HeadDim * spec.KvDtype.Size();
        if (needed > long.MaxValue)
        {
            throw new ArgumentOutOfRangeException(
                nameof(layers),
                layers,
                $"{layers} layers of {pages} pages ({spec}) would take {needed} bytes, which no device has; use fewer of either."
            );
        }

        bytes = (long)needed;
    }

    [DoesNotReturn]
    private void Refuse(Sequence? sequence, int index)
    {
        if (sequence is null)
        {
            throw new ArgumentNullException(nameof(sequence), $"Sequence {index} of the batch is null.");
        }

        if (sequence.Cache != this)
        {
            throw new ArgumentException(
                $"Sequence {index} of the batch ({sequence}) belongs to another cache; pass one that NewSequence of this cache made.",
                nameof(sequence)
            );
        }

        throw new ArgumentException(
            $"Sequence {index} of the batch ({sequence}) was freed; make a new one with NewSequence.",
            nameof(sequence)
        );
    }

    private bool TryBegin(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens, out int needed)
    {
        using UseGuard.Use use = Enter();
        CheckCounts(sequences, tokens, nameof(tokens));
        CheckBatch(sequences, inForward: false);
        long pages = 0;
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
        }

        needed = (int)Math.Min(pages, int.MaxValue);
        if (pages > _freePages.Count)
        {
            return false;
        }

        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            sequence.ForwardTokens = tokens[i];
            for (long count = PagesFor(sequence.KvLength); sequence.PageCount < count; )
            {
                _table.Add(sequence, _freePages.Pop());
            }

            Touch(sequence);
        }

        return true;
    }

    private void ReleasePagesBeyond(Sequence sequence, long pages)
    {
        while (sequence.PageCount > pages)
        {
            _freePages.Push(_table.RemoveLast(sequence));
        }
    }

    private void Touch(Sequence sequence)
    {
        sequence.Revision++;
        Revision++;
    }

    private long PagesFor(long tokens) => (tokens + Spec.PageSize - 1) / Spec.PageSize;

    private nint LayerAddress(int layer, int part) =>
        _memory.Address + checked((nint)(((2 * (long)layer) + part) * _layerElements * Spec.KvDtype.Size()));

    private nint ScaleAddress(int layer, int part) =>
        _scales is null ? 0 : _scales.Address + checked((nint)(((2 * (long)layer) + part) * ScaleStride * sizeof(float)));

    private TensorView<float> Scales(int layer, int part)
    {
        ThrowIfDisposed();
        RequireQuantised();
        CheckLayer(layer);
        TensorShape shape = new(Spec.KvHeads);
        return new TensorView(
            Device,
            _scales,
            ScaleAddress(layer, part),
            DType.Float32,
            shape,
            TensorStrides.Contiguous(shape)
        ).As<float>();
    }

    private void RequireQuantised()
    {
        if (_scales is null)
        {
            throw new InvalidOperationException(
                $"The cache holds {Spec.KvDtype}, which has no scales; only a cache whose KvDtype is Float8E4M3 or Float8E5M2 is quantised."
            );
        }
    }

    private void CheckScales(ReadOnlySpan<float> scales, string name)
    {
        if (scales.Length != 1 && scales.Length != Spec.KvHeads)
        {
            throw new ArgumentException(
                $"{name} has {scales.Length} scales; expected {Spec.KvHeads}, one for each KV head, or 1 for all of them.",
                name
            );
        }

        for (int head = 0; head < scales.Length; head++)
        {
            if (!float.IsFinite(scales[head]) || scales[head] <= 0)
            {
                throw new ArgumentOutOfRangeException(
                    name,
                    scales[head],
                    $"Scale {head} of {name} must be a finite number above 0, such as the largest magnitude of what is stored over the largest {Spec.KvDtype}."
                );
            }
        }
    }

    private static void Spread(ReadOnlySpan<float> scales, Span<float> heads)
    {
        if (scales.Length == 1)
        {
            heads.Fill(scales[0]);
            return;
        }

        scales.CopyTo(heads);
    }

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
