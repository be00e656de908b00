using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using FlashInfer.Attention;

namespace FlashInfer.Planning;

/// <summary>Writes the items of a plan, section by section, each sorted by counting.</summary>
/// <remarks>
/// Ranges are counted in tiles of query tokens, of which most batches have far more than sequences: the causal tiles of one sequence then fall
/// into buckets one behind the other, so that counting takes a sequence at a time, and only writing an item at a time.
/// </remarks>
internal ref struct PrefillEmitter
{
    // Up to here a float tells a block's end from the tokens beside it, also after a multiplication by a reciprocal: longer ones go the long way.
    private const int MostWhole = 1 << 20;

    // Eights that are prepared before they are written: what is written then waits neither for what it is made of nor for an eight before it.
    private const int Eights = 16;

    private readonly PrefillBatch _batch;
    private readonly PrefillPlanLimits _limits;
    private readonly Span<WorkItem> _items;
    private readonly Span<WorkItem> _streamingItems;
    private readonly Span<int> _places;
    private readonly int _chunk;
    private readonly int _heads;
    private readonly int _shift;
    private readonly int _whole;
    private readonly int _step;
    private readonly Divisor _tileTokens;
    private readonly Divisor _blockTokens;
    private readonly bool _invariant;

    // Streaming items, spread over the first so many of the others, so many for each of those (32 bits behind the point), or ahead of them all.
    private readonly int _spread;
    private readonly long _between;
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
    /// <param name="streaming">The sequences that are spread among the others.</param>
    /// <param name="items">Receives the items.</param>
    /// <param name="places">Scratch, <see cref="PrefillPlanner.Places"/> long.</param>
    public PrefillEmitter(
        in PrefillBatch batch,
        in PrefillPlanLimits limits,
        in PrefillWork work,
        int chunk,
        int heads,
        ReadOnlySpan<TiledSequence> streaming,
        Span<WorkItem> items,
        Span<int> places
    )
    {
        _batch = batch;
        _limits = limits;
        _items = items;
        _streamingItems = items;
        _chunk = chunk;
        _heads = heads;
        _totalTokens = work.TotalTokens;
        _invariant = limits.Determinism == Determinism.BatchInvariant;

        _whole =
            !batch.SeesBeginnings ? -1
            : _invariant ? PrefillPlanner.InvariantChunkTokens
            : Math.Min(chunk, MostWhole);
        _step = batch.Causal ? 1 : 0;
        _tileTokens = new Divisor(limits.TileTokens);
        _blockTokens = new Divisor(limits.BlockTokens);

        // A tile is as close as the order has to be; longer sequences fill the buckets.
        int longest = (Math.Min(work.Longest, _invariant ? int.MaxValue : chunk) / limits.TileTokens) + 1;
        _shift = Math.Max(0, 24 - int.LeadingZeroCount(longest));
        _places = places[..((longest >> _shift) + 3 + EightTiles.Most)];
        if (streaming.Length > 0)
        {
            int groups = limits.HeadTiles / heads;
            int count = (work.LongestStreaming <= _whole ? streaming.Length : Items(streaming)) * groups;

            // The last streaming item to be taken must not be the last to end. Long ones stand first, so that the end of the list is worked
            // through faster than its beginning: hence the square.
            double load = Math.Max(1, work.Tokens * (double)limits.HeadTiles / limits.Blocks);
            double before = Math.Max(0, 1 - (Math.Min(work.LongestStreaming, chunk) / load));
            _spread = (int)Math.Ceiling((work.Tiles - work.Streaming) * groups * before * before);
            _between = _spread == 0 ? 0 : (((long)count << 32) + _spread - 1) / _spread;
            _items = _spread == 0 ? items[count..] : items;
        }
    }

    /// <summary>
    /// Writes the items of sequences for the first head tiles, behind those of their kind that were written before. They stand section by
    /// section, in each the longest first: of as many sequences as have so many tokens together, at least of one.
    /// </summary>
    /// <param name="sequences">The sequences.</param>
    /// <param name="sectionTokens">Tokens.</param>
    /// <param name="areStreaming">Whether they are those that are spread among the others.</param>
    public void Emit(ReadOnlySpan<TiledSequence> sequences, long sectionTokens, bool areStreaming)
    {
        ref int placed = ref areStreaming ? ref _streamed : ref _reused;
        while (!sequences.IsEmpty)
        {
            long tokens = sectionTokens - sequences[0].Length;
            int count = 1;
            while (count < sequences.Length && tokens >= sequences[count].Length)
            {
                tokens -= sequences[count++].Length;
            }

            ReadOnlySpan<TiledSequence> section = sequences[..count];
            sequences = sequences[count..];
            _places.Clear();
            (int items, bool areWhole) = Count(section);
            placed += items;
            Order(placed);
            while (!section.IsEmpty)
            {
                // What nothing cuts together, up to a sequence that something does.
                int whole = areWhole ? section.Length : 0;
                while (whole < section.Length && IsWhole(section[whole]))
                {
                    whole++;
                }

                if (areStreaming)
                {
                    EmitSingle(section[..whole]);
                }
                else
                {
                    EmitWhole(section[..whole]);
                }

                section = section[whole..];
                if (!section.IsEmpty)
                {
                    EmitParts(section[0], areStreaming);
                    section = section[1..];
                }
            }
        }
    }

    /// <summary>Writes the same items for all other heads: in their order behind those that were written.</summary>
    public void Repeat()
    {
        // Of a group of heads to the next: other slots, other heads.
        Vector256<int> next = Vector256.Create(0, 0, 0, 0, _slots, 0, _heads << 16, 0);
        int groups = _limits.HeadTiles / _heads;
        for (int rank = _reused; rank < _reused * groups; rank++)
        {
            Members(ref _items[Place(rank)]) = Members(ref _items[Place(rank - _reused)]) + next;
        }

        for (int rank = _streamed; rank < _streamed * groups; rank++)
        {
            Members(ref _streamingItems[StreamingPlace(rank)]) = Members(ref _streamingItems[StreamingPlace(rank - _streamed)]) + next;
        }

        _reused *= groups;
        _streamed *= groups;
        _slots *= groups;
    }

    /// <summary>What was written.</summary>
    public readonly PrefillPlan Plan() => new(_streamed + _reused, _heads, _slots, _longest, _splitSequences, _totalTokens);

    /// <summary>An item as what a vector register holds.</summary>
    private static ref Vector256<int> Members(ref WorkItem item) => ref Unsafe.As<WorkItem, Vector256<int>>(ref item);

    /// <summary>
    /// The first item of a sequence that nothing cuts, as if it were a whole tile or the only one; members of 16 bits in pairs. Most are where they
    /// are in the sequence.
    /// </summary>
    private readonly Vector256<int> First(in TiledSequence sequence) =>
        (Unsafe.As<TiledSequence, Vector256<int>>(ref Unsafe.AsRef(in sequence)) & Vector256.Create(-1, 0, -1, -1, 0, 0, -1, -1))
        + Vector256.Create(0, 0, 0, 0, 0, 1 << 16, 0, _step);

    /// <summary>Whether nothing cuts a sequence's tiles, and each of them sees tokens, from the first on.</summary>
    private readonly bool IsWhole(in TiledSequence sequence) => sequence.Length <= _whole & sequence.Before >= 0;

    /// <summary>Notes where the number of items of a bucket differs from that of the bucket before.</summary>
    /// <returns>Items of the sequences, and whether none is cut.</returns>
    private readonly (int Items, bool AreWhole) Count(ReadOnlySpan<TiledSequence> sequences)
    {
        Span<int> differences = _places;
        int shift = _shift;
        int most = 1 << shift;
        int items = 0;
        bool areWhole = true;
        foreach (ref readonly TiledSequence sequence in sequences)
        {
            if (!IsWhole(sequence))
            {
                areWhole = false;
                items += CountParts(sequence);
                continue;
            }

            int tiles = sequence.Tiles;
            int tile = sequence.FirstTile;
            items += tiles;
            if (_step == 0)
            {
                differences[tile >> shift] += tiles;
                differences[(tile >> shift) + 1] -= tiles;
                continue;
            }

            // Some in the first bucket, as many as fit in those between, and the others in the last. For a single bucket it comes to all of them.
            int first = tile >> shift;
            int last = (tile + tiles - 1) >> shift;
            int some = ((first + 1) << shift) - tile;
            int others = tile + tiles - (last << shift);
            differences[first] += some;
            differences[first + 1] += most - some;
            differences[last] += others - most;
            differences[last + 1] -= others;
        }

        return (items, areWhole);
    }

    private readonly int CountParts(in TiledSequence sequence)
    {
        int items = 0;
        for (int token = 0; token < sequence.QueryTokens; token += _limits.TileTokens)
        {
            int range = _batch.Range(sequence.Index, token, _limits).Tokens;
            int parts = Parts(sequence.QueryTokens, range);
            int bucket = Bucket(range, parts);
            _places[bucket] += parts;
            _places[bucket + 1] -= parts;
            items += parts;
        }

        return items;
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

    private void EmitParts(in TiledSequence sequence, bool isStreaming)
    {
        int queryTokens = sequence.QueryTokens;
        int tileTokens = _limits.TileTokens;
        Span<WorkItem> items = isStreaming ? _streamingItems : _items;
        int slots = _slots;
        int longest = _longest;
        for (int token = 0; token < queryTokens; token += tileTokens)
        {
            int tokens = Math.Min(tileTokens, queryTokens - token);
            TileRange range = _batch.Range(sequence.Index, token, _limits);
            int parts = Parts(queryTokens, range.Tokens);
            ref int place = ref _places[Bucket(range.Tokens, parts)];
            int at = place;
            place += parts;
            int visible = sequence.Before + ((token + 1) * _step);
            int blocks = _blockTokens.Ceiling(range.Tokens);

            // The sequence's tokens behind what is seen, but in the last block, belong to the range: a kernel must clear what is no token's.
            int last = Math.Min(sequence.Length, range.EndOf(blocks * _limits.BlockTokens));
            int begin = range.Begin;
            for (int part = 0; part < parts; part++)
            {
                // Member by member: a structure put together first would be copied while its stores are still on their way.
                int end = part == parts - 1 ? last : range.EndOf((int)((long)blocks * (part + 1) / parts) * _limits.BlockTokens);
                ref WorkItem item = ref items[isStreaming ? StreamingPlace(at) : Place(at)];
                at++;
                item.Row = sequence.Row + token;
                item.Begin = begin;
                item.End = end;
                item.KvStart = sequence.Start;
                item.PartOffset = slots;
                item.Part = (ushort)part;
                item.Parts = (ushort)parts;
                item.QueryTokens = (ushort)tokens;
                item.Head = 0;
                item.Visible = visible;
                longest = Math.Max(longest, end - begin);
                begin = end;
            }

            slots += parts == 1 ? 0 : parts;
        }

        _splitSequences += slots > _slots ? 1 : 0;
        _slots = slots;
        _longest = longest;
    }

    /// <summary>
    /// As <see cref="EmitParts"/> for sequences that nothing cuts: where eight tiles stand and end is found at once, and one differs from the next
    /// by so many rows and tokens.
    /// </summary>
    [SkipLocalsInit]
    private unsafe void EmitWhole(ReadOnlySpan<TiledSequence> sequences)
    {
        int tileTokens = _limits.TileTokens;
        int blockTokens = _limits.BlockTokens;
        int step = _step;
        int stride = tileTokens * step;
        int shift = _shift;
        Span<int> places = _places;

        // The stack is aligned to 16 bytes only: every other vector would lie across two cache lines.
        EightTiles* room = stackalloc EightTiles[Eights + 1];
        Span<EightTiles> eights = new((EightTiles*)(((nint)room + 63) & ~63), Eights);

        // Ends are rounded up to blocks. Half a token more, so that no quotient is close to a whole number, where a reciprocal might miss it.
        Vector256<float> strides =
            Vector256.ConvertToSingle(Vector256<int>.Indices * stride) + Vector256.Create(stride + blockTokens - 0.5f);
        Vector256<float> eightStrides = Vector256.Create((float)(EightTiles.Most * stride));
        Vector256<float> reciprocal = Vector256.Create(1f / blockTokens);
        Vector256<int> block = Vector256.Create(blockTokens);
        Vector256<int> toNext = Vector256.Create(tileTokens, 0, 0, 0, 0, 0, 0, stride);
        Vector256<int> eightNext = toNext * EightTiles.Most;
        Vector256<int> isTokens = Vector256<int>.Zero.WithElement(6, -1);
        Vector256<int> isEnd = Vector256<int>.Zero.WithElement(2, -1);
        int prepared = 0;
        foreach (ref readonly TiledSequence sequence in sequences)
        {
            int tile = sequence.FirstTile;
            Vector256<int> item = Vector256.ConditionalSelect(
                isTokens,
                Vector256.Create(tileTokens),
                Vector256.AndNot(First(sequence), isEnd)
            );
            Vector256<float> seen = Vector256.Create((float)sequence.Before) + strides;
            for (int left = sequence.Tiles; left > 0; left -= EightTiles.Most)
            {
                ref EightTiles eight = ref eights[prepared++];
                int count = Math.Min(left, EightTiles.Most);
                if (step == 0)
                {
                    // All in one bucket.
                    ref int place = ref places[tile >> shift];
                    eight.Ranks = Vector256.Create(place) + Vector256<int>.Indices;
                    place += count;
                }
                else if (shift == 0)
                {
                    // A bucket each, one behind the other.
                    eight.Ranks = Vector256.Create<int>(places[tile..]);
                    (eight.Ranks - Vector256.LessThan(Vector256<int>.Indices, Vector256.Create(count))).CopyTo(places[tile..]);
                    tile += count;
                }
                else
                {
                    foreach (ref int rank in eight.RankOf[..count])
                    {
                        rank = places[tile++ >> shift]++;
                    }
                }

                Vector256<int> ends = Vector256.ConvertToInt32Native(seen * reciprocal) * block;
                eight.Ends = Vector256.Min(ends, Vector256.Create(sequence.Length));
                eight.Item = item;
                eight.Count = count;
                eight.LastTokens = Math.Min(tileTokens, sequence.QueryTokens - ((sequence.Tiles - left + count - 1) * tileTokens));
                seen += eightStrides;
                item += eightNext;
                if (prepared == Eights)
                {
                    Write(eights, toNext);
                    prepared = 0;
                }
            }

            _longest = Math.Max(_longest, sequence.Length);
        }

        Write(eights[..prepared], toNext);
    }

    /// <summary>Writes the items of tiles, each a store.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)] // the loop needs all registers
    private readonly void Write(Span<EightTiles> eights, Vector256<int> toNext)
    {
        Span<WorkItem> items = _items;
        int spread = _spread;
        long between = _between;
        Vector256<int> isEnd = Vector256<int>.Zero.WithElement(2, -1);
        foreach (ref EightTiles eight in eights)
        {
            Vector256<int> item = eight.Item;
            ReadOnlySpan<int> ranks = eight.RankOf;
            ReadOnlySpan<int> ends = eight.EndOf;
            int place = 0;
            for (int i = 0; i < eight.Count; i++)
            {
                place = Place(ranks[i], spread, between);
                Members(ref items[place]) = item | (Vector256.Create(ends[i]) & isEnd);
                item += toNext;
            }

            items[place].QueryTokens = (ushort)eight.LastTokens;
        }
    }

    /// <summary>As <see cref="EmitWhole"/> for sequences of one tile.</summary>
    private void EmitSingle(ReadOnlySpan<TiledSequence> sequences)
    {
        foreach (ref readonly TiledSequence sequence in sequences)
        {
            int place = StreamingPlace(_places[sequence.FirstTile >> _shift]++);
            Members(ref _streamingItems[place]) = First(sequence);
            _longest = Math.Max(_longest, sequence.Length);
        }
    }

    /// <summary>
    /// Where an item stands that comes in this order. Before item i of those that streaming ones are spread over stand i * streaming / spread
    /// of them (rounded down), and before streaming item i (i + 1) * spread / streaming of the others (rounded up), which together are all
    /// places, each once; also when streaming / spread is rounded up to 32 bits behind the point.
    /// </summary>
    private readonly int Place(int rank) => Place(rank, _spread, _between);

    private static int Place(int rank, int spread, long between) => rank + (int)((Math.Min(rank, spread) * between) >> 32);

    /// <summary>The same of a streaming item. A quotient of doubles, which has 53 bits, is as exact as one of integers of 52, and sooner there.</summary>
    private readonly int StreamingPlace(int rank) => _spread == 0 ? rank : rank + (int)Math.Ceiling((rank + 1) * 4294967296.0 / _between);

    private readonly int Items(ReadOnlySpan<TiledSequence> sequences)
    {
        int items = 0;
        foreach (ref readonly TiledSequence sequence in sequences)
        {
            items += Parts(sequence.QueryTokens, _batch.Range(sequence.Index, 0, _limits).Tokens);
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
