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
/// <remarks>
/// Ranges are counted in tiles of query tokens, of which most batches have far more than sequences: the causal tiles of one sequence then fall
/// into buckets one behind the other, so that counting takes a sequence at a time, and only writing an item at a time.
/// </remarks>
internal ref struct PrefillEmitter
{
    private readonly PrefillBatch _batch;
    private readonly PrefillPlanLimits _limits;
    private readonly Span<WorkItem> _items;
    private readonly Span<int> _places;
    private readonly int _chunk;
    private readonly int _heads;
    private readonly int _shift;
    private readonly int _whole;
    private readonly int _step;
    private readonly Divisor _tileTokens;
    private readonly Divisor _blockTokens;

    // From a tile to the next: so many tokens more, which are so many blocks more, or one more than that; and what that is in an item.
    private readonly int _stride;
    private readonly int _strideBlocks;
    private readonly Vector256<int> _next;
    private readonly bool _invariant;

    // Mixed steps: so many streaming items, spread over the first so many of the others, which stand so far apart (32 bits behind the point).
    private readonly int _streaming;
    private readonly int _spread = int.MaxValue;
    private readonly ulong _distance = 1UL << 32;
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
    /// <param name="places">Scratch, <see cref="PrefillPlanner.SortBuckets"/> and two more.</param>
    public PrefillEmitter(
        in PrefillBatch batch,
        in PrefillPlanLimits limits,
        in PrefillWork work,
        int chunk,
        int heads,
        bool mixed,
        Span<WorkItem> items,
        Span<int> places
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
        _step = batch.Causal ? 1 : 0;
        _tileTokens = new Divisor(limits.TileTokens);
        _blockTokens = new Divisor(limits.BlockTokens);
        _stride = limits.TileTokens * _step;
        _strideBlocks = _blockTokens.Quotient(_stride) * limits.BlockTokens;
        _next = Vector256.Create(limits.TileTokens, 0, 0, 0, 0, 0, 0, _stride);

        // A tile is as close as the order has to be; longer sequences fill the buckets.
        int longest = (Math.Min(work.Longest, _invariant ? int.MaxValue : chunk) / limits.TileTokens) + 1;
        _shift = Math.Max(0, 24 - int.LeadingZeroCount(longest));
        _places = places[..((longest >> _shift) + 3)];
        if (mixed)
        {
            int groups = limits.HeadTiles / heads;
            _streaming = StreamingItems() * groups;

            // The last streaming item to be taken must not be the last to end. Long ones stand first, so that the end of the list is worked
            // through faster than its beginning: hence the square.
            double load = Math.Max(1, work.Tokens * (double)limits.HeadTiles / limits.Blocks);
            double before = Math.Max(0, 1 - (Math.Min(work.LongestStreaming, chunk) / load));
            _spread = (int)Math.Ceiling((work.Tiles - work.Streaming) * groups * before * before);
            _distance = (((ulong)(_streaming + _spread) << 32) + (uint)_spread - 1) / Math.Max(1, (uint)_spread);
        }
    }

    /// <summary>
    /// Writes the items of some sequences for some heads, the longest first, behind those of their kind that were written before: of as many
    /// sequences as have so many tokens together, at least of one.
    /// </summary>
    /// <param name="first">The first sequence; receives the one behind the last.</param>
    /// <param name="head">The first head tile.</param>
    /// <param name="kind">Which of the sequences.</param>
    /// <param name="tokens">Tokens.</param>
    public void Emit(scoped ref int first, int head, PrefillKind kind, long tokens)
    {
        _places.Clear();
        int items = 0;
        int end = first;
        for (; end < _batch.Lengths.Length; end++)
        {
            if (Takes(_batch.QueryTokens[end], kind))
            {
                tokens -= _batch.Lengths[end];
                if (tokens < 0 && end > first)
                {
                    break;
                }

                items += Count(end);
            }
        }

        ref int placed = ref kind == PrefillKind.Streaming ? ref _streamed : ref _reused;
        placed += items;
        Order(placed);
        for (; first < end; first++)
        {
            if (Takes(_batch.QueryTokens[first], kind))
            {
                if (!IsWhole(first))
                {
                    EmitParts(first, head, kind);
                }
                else if (kind == PrefillKind.Streaming)
                {
                    EmitStreaming(first, head);
                }
                else
                {
                    EmitWhole(first, head);
                }
            }
        }
    }

    /// <summary>What was written.</summary>
    public readonly PrefillPlan Plan() => new(_streamed + _reused, _heads, _slots, _longest, _splitSequences, _totalTokens);

    /// <summary>Whether a sequence with so many query tokens is of the kind and has any.</summary>
    private readonly bool Takes(int queryTokens, PrefillKind kind) =>
        queryTokens > 0 && (kind == PrefillKind.Any || queryTokens <= _limits.TileTokens == (kind == PrefillKind.Streaming));

    /// <summary>Whether nothing cuts a sequence's tiles, and each of them sees tokens, from the first on.</summary>
    private readonly bool IsWhole(int sequence)
    {
        int before = _batch.Before(sequence);
        return _batch.SeesBeginnings && before >= 0 && before + (_batch.QueryTokens[sequence] * _step) <= _whole;
    }

    /// <summary>Notes where the number of items of a bucket differs from that of the bucket before.</summary>
    /// <returns>Items of the sequence.</returns>
    private readonly int Count(int sequence)
    {
        Span<int> differences = _places;
        int queryTokens = _batch.QueryTokens[sequence];
        if (!IsWhole(sequence))
        {
            int items = 0;
            for (int token = 0; token < queryTokens; token += _limits.TileTokens)
            {
                int range = _batch.Range(sequence, token, _limits).Tokens;
                int parts = Parts(queryTokens, range);
                int bucket = Bucket(range, parts);
                differences[bucket] += parts;
                differences[bucket + 1] -= parts;
                items += parts;
            }

            return items;
        }

        int tiles = _tileTokens.Ceiling(queryTokens);
        int tile = FirstTile(sequence);
        int first = tile >> _shift;
        int last = (tile + ((tiles - 1) * _step)) >> _shift;
        if (first == last)
        {
            differences[first] += tiles;
            differences[first + 1] -= tiles;
            return tiles;
        }

        // Some in the first bucket, as many as fit in those between, and the others in the last.
        int most = 1 << _shift;
        int some = ((first + 1) << _shift) - tile;
        int others = tile + tiles - (last << _shift);
        differences[first] += some;
        differences[first + 1] += most - some;
        differences[last] += others - most;
        differences[last + 1] -= others;
        return tiles;
    }

    /// <summary>Turns differences into where the items of each bucket begin, the longest first and all before the end.</summary>
    private readonly void Order(int end)
    {
        int count = 0;
        foreach (ref int place in _places)
        {
            count += place;
            end -= count;
            place = end;
        }
    }

    private void EmitParts(int sequence, int head, PrefillKind kind)
    {
        int row = _batch.Rows[sequence];
        int queryTokens = _batch.QueryTokens[sequence];
        int start = _batch.Starts[sequence];
        int tileTokens = _limits.TileTokens;
        int before = _batch.Before(sequence);
        Span<WorkItem> items = _items;
        int slots = _slots;
        int longest = _longest;
        for (int token = 0; token < queryTokens; token += tileTokens)
        {
            int tokens = Math.Min(tileTokens, queryTokens - token);
            TileRange range = _batch.Range(sequence, token, _limits);
            int parts = Parts(queryTokens, range.Tokens);
            ref int place = ref _places[Bucket(range.Tokens, parts)];
            int at = place;
            place += parts;
            int visible = before + ((token + 1) * _step);
            int blocks = _blockTokens.Ceiling(range.Tokens);

            // The sequence's tokens behind what is seen, but in the last block, belong to the range: a kernel must clear what is no token's.
            int last = Math.Min(_batch.Lengths[sequence], range.EndOf(blocks * _limits.BlockTokens));
            int begin = range.Begin;
            for (int part = 0; part < parts; part++)
            {
                // Member by member: a structure put together first would be copied while its stores are still on their way.
                int end = part == parts - 1 ? last : range.EndOf((int)((long)blocks * (part + 1) / parts) * _limits.BlockTokens);
                ref WorkItem item = ref items[kind == PrefillKind.Streaming ? StreamingPlace(at) : Place(at)];
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
    /// As <see cref="EmitParts"/> for a sequence that nothing cuts: one tile differs from the next by so many rows and tokens, and is one
    /// store.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)] // the loop needs all registers
    private void EmitWhole(int sequence, int head)
    {
        int tileTokens = _limits.TileTokens;
        int blockTokens = _limits.BlockTokens;
        int step = _step;
        int shift = _shift;
        int length = _batch.Lengths[sequence];
        int tile = FirstTile(sequence);
        Span<WorkItem> items = _items;
        Span<int> places = _places;

        int stride = _stride;
        int strideBlocks = _strideBlocks;
        Vector256<int> next = _next;
        Vector256<int> item = Item(sequence, head);
        int range = _batch.Before(sequence);
        int end = _blockTokens.Ceiling(range) * blockTokens;
        int left = _batch.QueryTokens[sequence];
        for (; left >= tileTokens; left -= tileTokens)
        {
            range += stride;
            end += strideBlocks;
            end += end < range ? blockTokens : 0;
            ref WorkItem place = ref items[Place(places[tile >> shift]++)];
            tile += step;
            Unsafe.As<WorkItem, Vector256<int>>(ref place) = item;
            place.End = Math.Min(length, end);
            item += next;
        }

        if (left > 0)
        {
            end = _blockTokens.Ceiling(range + (left * step)) * blockTokens;
            ref WorkItem place = ref items[Place(places[tile >> shift]++)];
            Unsafe.As<WorkItem, Vector256<int>>(ref place) = item;
            place.End = Math.Min(length, end);
            place.QueryTokens = (ushort)left;
        }

        _longest = Math.Max(_longest, Math.Min(length, end));
    }

    /// <summary>The same for a sequence of one tile.</summary>
    private void EmitStreaming(int sequence, int head)
    {
        int queryTokens = _batch.QueryTokens[sequence];
        int range = _batch.Before(sequence) + (queryTokens * _step);
        int end = Math.Min(_batch.Lengths[sequence], _blockTokens.Ceiling(range) * _limits.BlockTokens);
        ref WorkItem place = ref _items[StreamingPlace(_places[FirstTile(sequence) >> _shift]++)];
        Unsafe.As<WorkItem, Vector256<int>>(ref place) = Item(sequence, head);
        place.End = end;
        place.QueryTokens = (ushort)queryTokens;
        _longest = Math.Max(_longest, end);
    }

    /// <summary>The members of an uncut sequence's first item but for its end, the four of 16 bits in pairs.</summary>
    private readonly Vector256<int> Item(int sequence, int head)
    {
        const int Uncut = 1 << 16;
        int heads = (head << 16) | _limits.TileTokens;
        return Vector256.Create(
            _batch.Rows[sequence],
            0,
            0,
            _batch.Starts[sequence],
            _slots,
            Uncut,
            heads,
            _batch.Before(sequence) + _step
        );
    }

    /// <summary>What the first tile of a sequence that nothing cuts sees, in tiles: its others see one more each, or as much without a mask.</summary>
    private readonly int FirstTile(int sequence) => _tileTokens.Quotient(_batch.Before(sequence)) + _step;

    /// <summary>
    /// Where an item stands that comes in this order. Of the first places, as many as all streaming items and their share of the others take,
    /// those others have i * places / others (rounded down) and the streaming ones (i + 1) * places / streaming - 1 (rounded up), which
    /// together are all places, each once; also when places / others is rounded up to 32 bits behind the point.
    /// </summary>
    private readonly int Place(int rank) => rank < _spread ? (int)(((ulong)rank * _distance) >> 32) : rank + _streaming;

    /// <summary>The same of a streaming item.</summary>
    private readonly int StreamingPlace(int rank)
    {
        ulong over = _distance - (1UL << 32);
        return _spread == 0 ? rank : (int)(((((ulong)rank + 1) * _distance) + over - 1) / over) - 1;
    }

    private readonly int StreamingItems()
    {
        int items = 0;
        for (int i = 0; i < _batch.Lengths.Length; i++)
        {
            if (Takes(_batch.QueryTokens[i], PrefillKind.Streaming))
            {
                items += Parts(_batch.QueryTokens[i], _batch.Range(i, 0, _limits).Tokens);
            }
        }

        return items;
    }

    private readonly int Parts(int queryTokens, int range) =>
        range <= _whole ? 1
        : _invariant ? PrefillPlanner.InvariantParts(range, queryTokens, _limits)
        : PrefillPlanner.Parts(range, _chunk);

    private readonly int Bucket(int range, int parts) =>
        _tileTokens.Quotient(parts == 1 ? range : (int)((uint)range / (uint)parts)) >> _shift;
}
