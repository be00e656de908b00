using System.Diagnostics.CodeAnalysis;
using FlashInfer.KvCache;

namespace FlashInfer;

// What is refused before anything changes.
public partial class PagedKvCache
{
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

    /// <summary>Throws unless all sequences are this cache's, different from each other, and in (or not in) a forward; null when it may be either.</summary>
    internal void CheckBatch(ReadOnlySpan<Sequence> sequences, bool? inForward)
    {
        _mark++;
        for (int i = 0; i < sequences.Length; i++)
        {
            CheckSequence(sequences[i], i);
            if (sequences[i].Mark == _mark)
            {
                throw new ArgumentException(
                    $"Sequence {i} of the batch ({sequences[i]}) stands in it twice; expected different ones.",
                    nameof(sequences)
                );
            }

            sequences[i].Mark = _mark;
            if (inForward is { } expected && sequences[i].IsInForward != expected)
            {
                throw new InvalidOperationException(
                    expected
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

    private static void CheckCounts(ReadOnlySpan<Sequence> sequences, ReadOnlySpan<int> tokens, string name)
    {
        if (sequences.Length != tokens.Length)
        {
            throw new ArgumentException(
                $"{sequences.Length} sequences but {tokens.Length} token counts were given; expected one for each.",
                name
            );
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

        Int128 needed = (Int128)layers * pages * spec.PageBytes;
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
}
