using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>Which sequences of a mixed step.</summary>
internal enum PrefillKind
{
    /// <summary>All: the step is not mixed.</summary>
    Any,

    /// <summary>Those of one tile: their keys and values are read once.</summary>
    Streaming,

    /// <summary>Those of several tiles, which share what they read.</summary>
    Reusing,
}

/// <summary>Writes the items of a plan, section by section, each sorted by counting.</summary>
internal ref struct PrefillEmitter
{
    private readonly PrefillBatch _batch;
    private readonly PrefillPlanLimits _limits;
    private readonly Span<WorkItem> _items;
    private readonly int _chunk;
    private readonly int _heads;
    private readonly int _shift;
    private readonly int _buckets;
    private readonly int _whole;
    private readonly bool _invariant;

    // Mixed steps: so many streaming items, spread over the first so many of the others.
    private readonly int _streaming;
    private readonly int _spread;
    private int _streamed;
    private int _reused;
    private int _slots;
    private int _longest;
    private int _splitSequences;
    private readonly long _totalTokens;

    /// <param name="batch">The sequences.</param>
    /// <param name="limits">Machine and kernel.</param>
    /// <param name="work">What the batch comes to.</param>
    /// <param name="chunk">Tokens of a part at most; batch-invariant plans do not ask.</param>
    /// <param name="heads">Head tiles that an item expands to.</param>
    /// <param name="mixed">Whether streaming sequences are spread among the others.</param>
    /// <param name="items">Receives the items.</param>
    public PrefillEmitter(
        in PrefillBatch batch,
        in PrefillPlanLimits limits,
        in PrefillWork work,
        int chunk,
        int heads,
        bool mixed,
        Span<WorkItem> items
    )
    {
        _batch = batch;
        _limits = limits;
        _items = items;
        _chunk = chunk;
        _heads = heads;
        _totalTokens = work.TotalTokens;
        _invariant = limits.Determinism == Determinism.BatchInvariant;

        _whole = _invariant ? PrefillPlanner.InvariantChunkTokens : chunk;

        // 32 tokens are as close as the order has to be; longer sequences fill the buckets.
        int longest = Math.Min(work.Longest, _invariant ? int.MaxValue : chunk);
        _shift = Math.Max(5, 24 - int.LeadingZeroCount(longest));
        _buckets = (longest >> _shift) + 1;
        if (mixed)
        {
            int groups = limits.HeadTiles / heads;
            _streaming = StreamingItems() * groups;

            // The last streaming item to be taken must not be the last to end. Long ones stand first, so that the end of the list is worked
            // through faster than its beginning: hence the square.
            double load = Math.Max(1, work.Tokens * (double)limits.HeadTiles / limits.Blocks);
            double before = Math.Max(0, 1 - (Math.Min(work.LongestStreaming, chunk) / load));
            _spread = (int)Math.Ceiling((work.Tiles - work.Streaming) * groups * before * before);
        }
    }

    /// <summary>Whether a sequence is of the kind and has query tokens.</summary>
    public readonly bool Takes(int sequence, PrefillKind kind)
    {
        int queryTokens = _batch.QueryTokens[sequence];
        return queryTokens > 0 && (kind == PrefillKind.Any || queryTokens <= _limits.TileTokens == (kind == PrefillKind.Streaming));
    }

    /// <summary>Writes the items of some sequences for some heads, the longest first, behind those of their kind that were written before.</summary>
    /// <param name="first">The first sequence.</param>
    /// <param name="end">One past the last sequence.</param>
    /// <param name="row">The first row of the first sequence.</param>
    /// <param name="head">The first head tile.</param>
    /// <param name="kind">Which of the sequences.</param>
    /// <param name="places">Scratch, <see cref="PrefillPlanner.SortBuckets"/>.</param>
    public void Emit(int first, int end, int row, int head, PrefillKind kind, Span<int> places)
    {
        places = places[.._buckets];
        places.Clear();
        for (int i = first; i < end; i++)
        {
            if (Takes(i, kind))
            {
                Count(i, places);
            }
        }

        ref int placed = ref kind == PrefillKind.Streaming ? ref _streamed : ref _reused;
        for (int bucket = places.Length - 1; bucket >= 0; bucket--)
        {
            int count = places[bucket];
            places[bucket] = placed;
            placed += count;
        }

        for (int i = first; i < end; i++)
        {
            int queryTokens = _batch.QueryTokens[i];
            if (Takes(i, kind))
            {
                Emit(i, row, head, kind, places);
            }

            row += queryTokens;
        }
    }

    /// <summary>What was written.</summary>
    public readonly PrefillPlan Plan() => new(_streamed + _reused, _heads, _slots, _longest, _splitSequences, _totalTokens);

    private readonly void Count(int sequence, Span<int> places)
    {
        int queryTokens = _batch.QueryTokens[sequence];
        int tileTokens = _limits.TileTokens;
        int before = _batch.Before(sequence);
        int step = _batch.Causal ? 1 : 0;
        if (_batch.SeesBeginnings && before + (queryTokens * step) <= _whole)
        {
            for (int token = 0; token < queryTokens; token += tileTokens)
            {
                int range = Math.Max(0, before + (Math.Min(token + tileTokens, queryTokens) * step));
                places[range >> _shift]++;
            }

            return;
        }

        for (int token = 0; token < queryTokens; token += tileTokens)
        {
            (int first, int last) = _batch.Range(sequence, token, _limits);
            int range = last - first;
            int parts = Parts(queryTokens, range);
            places[Bucket(range, parts)] += parts;
        }
    }

    private void Emit(int sequence, int row, int head, PrefillKind kind, Span<int> places)
    {
        int queryTokens = _batch.QueryTokens[sequence];
        int start = _batch.Starts[sequence];
        int tileTokens = _limits.TileTokens;
        int before = _batch.Before(sequence);
        int step = _batch.Causal ? 1 : 0;
        if (_batch.SeesBeginnings && before + (queryTokens * step) <= _whole)
        {
            EmitWhole(sequence, row, head, kind, places);
            return;
        }

        Span<WorkItem> items = _items;
        bool isPlaced = _streaming == 0;
        int slots = _slots;
        int longest = _longest;
        for (int token = 0; token < queryTokens; token += tileTokens)
        {
            int tokens = Math.Min(tileTokens, queryTokens - token);
            (int begin, int last) = _batch.Range(sequence, token, _limits);
            int range = last - begin;
            int parts = Parts(queryTokens, range);
            ref int place = ref places[Bucket(range, parts)];
            int at = place;
            place += parts;
            int visible = before + ((token + 1) * step);
            int blocks = (int)(((uint)range + (uint)_limits.BlockTokens - 1) / (uint)_limits.BlockTokens);

            // The sequence's tokens behind what is seen, but in the last block, belong to the range: a kernel must clear what is no token's.
            last = Math.Min(_batch.Lengths[sequence], begin + (blocks * _limits.BlockTokens));
            int first = begin;
            for (int part = 0; part < parts; part++)
            {
                // Member by member: a structure put together first would be copied while its stores are still on their way.
                int end = part == parts - 1 ? last : first + ((int)((long)blocks * (part + 1) / parts) * _limits.BlockTokens);
                ref WorkItem item = ref items[isPlaced ? at : Place(at, kind)];
                at++;
                item.Row = row + token;
                item.Begin = begin;
                item.End = end;
                item.KvStart = start;
                item.PartOffset = slots;
                item.Part = (ushort)part;
                item.Parts = (ushort)parts;
                item.QueryTokens = (ushort)tokens;
                item.Head = (ushort)head;
                item.Visible = visible;
                longest = Math.Max(longest, end - begin);
                begin = end;
            }

            slots += parts == 1 ? 0 : parts;
        }

        _splitSequences += slots > _slots && head == 0 ? 1 : 0;
        _slots = slots;
        _longest = longest;
    }

    /// <summary>
    /// As <see cref="Emit(int, int, int, PrefillKind, Span{int})"/> for a sequence that nothing cuts: one tile differs from the next by so
    /// many rows and tokens, and is one store.
    /// </summary>
    private void EmitWhole(int sequence, int row, int head, PrefillKind kind, Span<int> places)
    {
        int queryTokens = _batch.QueryTokens[sequence];
        int tileTokens = _limits.TileTokens;
        int before = _batch.Before(sequence);
        int step = _batch.Causal ? 1 : 0;
        int stride = tileTokens * step;
        int start = _batch.Starts[sequence];
        int length = _batch.Lengths[sequence];
        int blockTokens = _limits.BlockTokens;
        Span<WorkItem> items = _items;
        bool isPlaced = _streaming == 0;
        int shift = _shift;
        int range = before;
        int end = Math.Max(0, before) / blockTokens * blockTokens;

        // The members of a WorkItem, the four of 16 bits in pairs.
        const int Uncut = 1 << 16;
        Vector256<int> item = Vector256.Create(row, 0, 0, start, _slots, Uncut, (head << 16) | tileTokens, before + step);
        Vector256<int> next = Vector256.Create(tileTokens, 0, 0, 0, 0, 0, 0, stride);
        for (int token = 0; token < queryTokens; token += tileTokens)
        {
            int tokens = Math.Min(tileTokens, queryTokens - token);
            range += tokens * step;
            while (end < range)
            {
                end += blockTokens;
            }

            int at = places[Math.Max(0, range) >> shift]++;
            ref WorkItem place = ref items[isPlaced ? at : Place(at, kind)];
            Unsafe.As<WorkItem, Vector256<int>>(ref place) = item.WithElement(2, Math.Min(length, end));
            if (tokens < tileTokens)
            {
                place.QueryTokens = (ushort)tokens;
            }

            item += next;
        }

        _longest = Math.Max(_longest, Math.Min(length, end));
    }

    /// <summary>
    /// Where an item of its kind's order stands. Of the first places, as many as all streaming items and their share of the others take,
    /// those others have i * places / others (rounded down) and the streaming ones (i + 1) * places / streaming - 1 (rounded up), which
    /// together are all places, each once.
    /// </summary>
    private readonly int Place(int rank, PrefillKind kind)
    {
        long places = _streaming + _spread;
        return kind == PrefillKind.Streaming ? Quotient(((rank + 1) * places) + _streaming - 1, _streaming) - 1
            : rank < _spread ? Quotient(rank * places, _spread)
            : rank + _streaming;

        // Doubles divide sooner than 64-bit integers, and without error: below 2^52 a quotient is a whole number or further from one than
        // it can be rounded.
        static int Quotient(long dividend, int divisor) => (int)(dividend / (double)divisor);
    }

    private readonly int StreamingItems()
    {
        int items = 0;
        for (int i = 0; i < _batch.Lengths.Length; i++)
        {
            if (Takes(i, PrefillKind.Streaming))
            {
                (int begin, int end) = _batch.Range(i, 0, _limits);
                items += Parts(_batch.QueryTokens[i], end - begin);
            }
        }

        return items;
    }

    private readonly int Parts(int queryTokens, int range) =>
        range <= _whole ? 1
        : _invariant ? PrefillPlanner.InvariantParts(range, queryTokens, _limits)
        : PrefillPlanner.Parts(range, _chunk);

    private readonly int Bucket(int range, int parts) => (parts == 1 ? range : (int)((uint)range / (uint)parts)) >> _shift;
}
