using System.Diagnostics.CodeAnalysis;
using FlashInfer.Cuda;
using FlashInfer.KvCache;

namespace FlashInfer;

// Sequences that begin alike: whole pages are held by several, and never written again, since only committed tokens are shared.
public partial class PagedKvCache
{
    /// <summary>Makes a sequence that begins with all committed tokens of another; as the overload with a number of tokens.</summary>
    /// <param name="sequence">A sequence of this cache that was not freed.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public Sequence Fork(Sequence sequence, CudaStream? stream = null)
    {
        ThrowIfDisposed();
        CheckSequence(sequence, 0);
        return Fork(sequence, sequence.Length, stream);
    }

    /// <summary>
    /// Makes a sequence that begins with the first tokens of another: a prompt that several requests share, or one request that goes on in
    /// several ways. Whole pages are shared, for as long as one of the sequences holds them; tokens behind the last whole page are copied, of
    /// all layers, into a page of the new sequence's own. From there on both go their own ways.
    /// </summary>
    /// <param name="sequence">A sequence of this cache that was not freed. Its open forward, if there is one, is not part of the fork.</param>
    /// <param name="tokens">Tokens to begin with, 0 to its <see cref="Sequence.Length"/>. A multiple of the page size copies nothing.</param>
    /// <param name="stream">The stream that copies, which has to wait for what wrote these tokens; the device's own when null.</param>
    /// <returns>The new sequence, with these tokens committed.</returns>
    /// <exception cref="OutOfPagesException">Tokens have to be copied and no page is free.</exception>
    /// <exception cref="InvalidOperationException">The page table has to grow, but a captured graph holds its address.</exception>
    public Sequence Fork(Sequence sequence, int tokens, CudaStream? stream = null) =>
        TryFork(sequence, tokens, out Sequence? fork, stream) ? fork : throw new OutOfPagesException(1, FreePages, TotalPages);

    /// <summary>As <see cref="Fork(Sequence, CudaStream?)"/>, but says <see langword="false"/> when a page is needed and none is free.</summary>
    /// <param name="sequence">A sequence of this cache that was not freed.</param>
    /// <param name="fork">The new sequence, with all committed tokens of the other.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public bool TryFork(Sequence sequence, [NotNullWhen(true)] out Sequence? fork, CudaStream? stream = null)
    {
        ThrowIfDisposed();
        CheckSequence(sequence, 0);
        return TryFork(sequence, sequence.Length, out fork, stream);
    }

    /// <summary>As <see cref="Fork(Sequence, int, CudaStream?)"/>, but says <see langword="false"/> when a page is needed and none is free.</summary>
    /// <param name="sequence">A sequence of this cache that was not freed. Its open forward, if there is one, is not part of the fork.</param>
    /// <param name="tokens">Tokens to begin with, 0 to its <see cref="Sequence.Length"/>. A multiple of the page size needs no page.</param>
    /// <param name="fork">The new sequence, with these tokens committed.</param>
    /// <param name="stream">The stream that copies, which has to wait for what wrote these tokens; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The page table has to grow, but a captured graph holds its address.</exception>
    public bool TryFork(Sequence sequence, int tokens, [NotNullWhen(true)] out Sequence? fork, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        Device.CheckStream(stream);
        CheckSequence(sequence, 0);
        if ((uint)tokens > (uint)sequence.Length)
        {
            throw new ArgumentOutOfRangeException(
                nameof(tokens),
                tokens,
                $"The fork is to begin with {tokens} tokens; expected 0 to {sequence.Length}, those committed of {sequence}."
            );
        }

        int shared = tokens / Spec.PageSize;
        bool copies = tokens % Spec.PageSize != 0;
        if (copies && FreePages == 0)
        {
            fork = null;
            return false;
        }

        fork = new Sequence(this, Interlocked.Increment(ref _nextId)) { Origin = sequence.Id, SharedPages = shared };
        _table.ReserveForks(new ReadOnlySpan<Sequence>(in fork), new ReadOnlySpan<int>(in tokens), Spec.PageSize);
        _table.Share(sequence, fork, shared);
        foreach (int page in fork.Pages)
        {
            _holders[page]++;
        }

        fork.Length = tokens;
        if (copies)
        {
            int page = TakePage();
            _table.Add(fork, page);
            CopyPage(sequence.Pages[shared], page, stream);
        }

        return true;
    }

    private void CopyPage(int from, int to, CudaStream? stream)
    {
        long bytes = PageElements * Spec.KvDtype.Size();
        _appends.Check?.Before(stream);
        for (int layer = 0; layer < Layers; layer++)
        {
            Copy(KeyAddress(layer));
            Copy(ValueAddress(layer));
        }

        Streams?.After(stream);

        void Copy(nint pages) => Device.Backend.Copy(pages + (nint)(to * bytes), pages + (nint)(from * bytes), bytes, stream);
    }
}
