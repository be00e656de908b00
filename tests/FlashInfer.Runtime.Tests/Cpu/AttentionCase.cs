using FlashInfer.Attention;
using FlashInfer.Cpu;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests.Cpu;

/// <summary>
/// A batch for decode or prefill, built by hand in native memory: random queries, keys and values, pages scattered over a cache whose unused
/// slots and pages hold NaN, or ragged rows with NaN between them, poisoned outputs, random scales of quantised keys and values, and the
/// oracle's answer. Everything follows from the seed.
/// </summary>
internal sealed unsafe class AttentionCase : IDisposable
{
    private readonly CpuBackend _memory = new(1);
    private readonly Random _random;
    private readonly float[] _query;
    private readonly nint _queryAddress;
    private readonly KvTensor _keys;
    private readonly KvTensor _values;
    private readonly nint _pagesAddress;
    private readonly int[][] _pages = [];
    private readonly int[] _kvStarts;

    public AttentionCase(
        AttentionSpec spec,
        int[] kvLens,
        int seed,
        bool strided = false,
        float queryScale = 1f,
        float queryOffset = 0f,
        Func<int, float>? keyOverride = null,
        int[]? queryTokens = null,
        bool causal = true,
        bool ragged = false
    )
    {
        Spec = spec;
        KvLens = kvLens;
        QueryTokens = queryTokens ?? [.. kvLens.Select(_ => 1)];
        Causal = causal;
        IsRagged = ragged;
        Seed = seed;
        _random = new Random(seed);
        QueryHeadStride = spec.HeadDim + (strided ? 8 : 0);
        QueryRowStride = (spec.Heads * QueryHeadStride) + (strided ? 24 : 0);
        OutputHeadStride = spec.HeadDim + (strided ? 5 : 0);
        OutputRowStride = (spec.Heads * OutputHeadStride) + (strided ? 3 : 0);
        SmScale = 1f / MathF.Sqrt(spec.HeadDim);

        if (ragged)
        {
            (_kvStarts, int rows) = ScatterRows();
            long keyHead = spec.HeadDim + (strided ? 8 : 0);
            _keys = AllocateKv(0, (spec.KvHeads * keyHead) + (strided ? 3 : 0), keyHead, rows * ((spec.KvHeads * keyHead) + 3));
            // Strided values lie head by head.
            _values = strided
                ? AllocateKv(0, spec.HeadDim + 1, (spec.HeadDim + 1L) * rows, (spec.HeadDim + 1L) * rows * spec.KvHeads)
                : AllocateKv(0, spec.KvHeads * spec.HeadDim, spec.HeadDim, (long)rows * spec.KvHeads * spec.HeadDim);
        }
        else
        {
            (_pages, _kvStarts, PageCount, int tableLength) = ScatterPages();
            _pagesAddress = _memory.Allocate(tableLength * sizeof(int));
            Span<int> table = new((void*)_pagesAddress, tableLength);
            table.Fill(int.MinValue);
            for (int sequence = 0; sequence < kvLens.Length; sequence++)
            {
                _pages[sequence].CopyTo(table[_kvStarts[sequence]..]);
            }

            (long page, long token, long head) = Strides(spec, strided ? 16 : 0);
            _keys = AllocateKv(page, token, head, page * PageCount);
            _values = AllocateKv(page, token, head, page * PageCount);
        }

        _queryAddress = _memory.Allocate(QueryRowStride * Rows * 2);
        _memory.Fill(_queryAddress, 0xFF, QueryRowStride * Rows * 2, null);
        _query = new float[Rows * spec.Heads * spec.HeadDim];
        for (int i = 0; i < _query.Length; i++)
        {
            int row = i / spec.HeadDim;
            long at = (row / spec.Heads * QueryRowStride) + (row % spec.Heads * QueryHeadStride) + (i % spec.HeadDim);
            _query[i] = Elements.Write(spec.Dtype, _queryAddress, at, (Normal() * queryScale) + queryOffset);
        }

        Expected = new double[_query.Length];
        ExpectedLse = new double[Rows * spec.Heads];
        for (int sequence = 0; sequence < kvLens.Length; sequence++)
        {
            FillSequence(sequence, keyOverride);
        }
    }

    public AttentionSpec Spec { get; }

    public int[] KvLens { get; }

    /// <summary>Query tokens of each sequence, its last ones.</summary>
    public int[] QueryTokens { get; }

    public bool Causal { get; }

    public bool IsRagged { get; }

    /// <summary>Element type of keys and values: ragged ones are never quantised.</summary>
    public DType KvDtype => IsRagged ? Spec.Dtype : Spec.KvDtype;

    /// <summary>Pages of the cache; 0 when keys and values are ragged.</summary>
    public int PageCount { get; }

    public int Rows => QueryTokens.Sum();

    public int Seed { get; }

    public float SmScale { get; }

    public long QueryRowStride { get; }

    public long QueryHeadStride { get; }

    public long OutputRowStride { get; }

    public long OutputHeadStride { get; }

    /// <summary>The oracle's output, [rows, heads, headDim].</summary>
    public double[] Expected { get; }

    /// <summary>The oracle's base-2 LSE, [rows, heads].</summary>
    public double[] ExpectedLse { get; }

    public override string ToString() =>
        $"{Spec}{(IsRagged ? " ragged" : "")}, kvLen [{string.Join(", ", KvLens)}], query tokens [{string.Join(", ", QueryTokens)}], {(Causal ? "causal" : "not causal")}, seed {Seed}";

    /// <summary>For decode: one item for each sequence.</summary>
    public WorkItem[] WholeItems() => Items(int.MaxValue, 1, _ => []);

    /// <summary>For decode: sequences cut at random multiples of 16, items in random order.</summary>
    public WorkItem[] SplitItems() => Shuffled(Items(int.MaxValue, 1, kvLen => RandomCuts(kvLen, 16)));

    /// <summary>For prefill: tiles of query tokens, whole or cut at random multiples of a block, each for some of the KV heads, in random order.</summary>
    /// <param name="kernel">The kernel.</param>
    /// <param name="heads">Head tiles of an item.</param>
    /// <param name="split">Whether items are cut.</param>
    public WorkItem[] PrefillItems(PrefillKernel kernel, int heads, bool split) =>
        Shuffled(Items(kernel.TileTokens, kernel.HeadTiles / heads, kvLen => split ? RandomCuts(kvLen, kernel.BlockTokens) : [], heads));

    /// <summary>Runs the decode kernel and reads the results. The bits between strided rows and heads, and the counters, are checked too.</summary>
    public AttentionResult Run(AttentionKernels kernels, WorkItem[] items, bool withLse = true)
    {
        DecodeKernel kernel = kernels.Decode(QueryTokens.DefaultIfEmpty(1).Max());
        AttentionResult? result = null;
        Prepare(
            items,
            kernel.UnitsPerItem,
            kernel.ColumnsPerUnit,
            args =>
            {
                args.Lse = withLse ? args.Lse : 0;
                kernel.Run(ForDecode(args), new ListLaunch(items.Length, items.Length, 1, false), null);
                result = ReadResult(args);
            }
        );
        return result!;
    }

    /// <summary>As <see cref="Run(AttentionKernels, WorkItem[], bool)"/>, for prefill.</summary>
    public AttentionResult Run(PrefillKernel kernel, WorkItem[] items, int heads, bool withLse = true)
    {
        AttentionResult? result = null;
        Prepare(
            items,
            heads,
            kernel.TileRows,
            args =>
            {
                args.Lse = withLse ? args.Lse : 0;
                kernel.Run(ref args, new ListLaunch(items.Length * heads, items.Length * heads, 1, false), null);
                result = ReadResult(args);
            }
        );
        return result!;
    }

    /// <summary>Builds the arguments, poisoned outputs among them, and hands them to an action; afterwards all counters must be 0.</summary>
    /// <param name="items">The list.</param>
    /// <param name="units">Units that an item expands to.</param>
    /// <param name="columns">Columns, or rows of a tile, that a unit has room for.</param>
    /// <param name="action">Runs the kernel.</param>
    public void Prepare(WorkItem[] items, int units, int columns, Action<PrefillParams> action)
    {
        using CpuBackend memory = new(1);
        nint plan = memory.Allocate(sizeof(ListHeader) + (items.Length * sizeof(WorkItem)));
        *(ListHeader*)plan = new ListHeader
        {
            Count = items.Length,
            ScaleLog2 = SmScale * 1.44269504f,
            Heads = units,
        };
        items.CopyTo(new Span<WorkItem>((ListHeader*)plan + 1, items.Length));
        nint Filled(long bytes, byte value = 0xFF)
        {
            nint address = memory.Allocate(bytes);
            memory.Fill(address, value, bytes, null);
            return address;
        }

        int slots = items.Max(item => (int?)(item.Parts == 1 ? 0 : item.PartOffset + item.Parts)) ?? 0;
        PrefillParams args = new()
        {
            Query = _queryAddress,
            Key = _keys.Address,
            Value = _values.Address,
            Output = Filled(OutputRowStride * Rows * 2),
            Lse = Filled(ExpectedLse.Length * sizeof(float)),
            Pages = _pagesAddress,
            Plan = plan,
            PartialOutput = Filled((long)slots * units * columns * Spec.HeadDim * sizeof(float)),
            PartialState = Filled((long)slots * units * columns * 2 * sizeof(float)),
            Counters = Filled(slots * units * sizeof(int), 0),
            QueryRowStride = QueryRowStride,
            QueryHeadStride = QueryHeadStride,
            OutputRowStride = OutputRowStride,
            OutputHeadStride = OutputHeadStride,
            KeyPageStride = _keys.PageStride,
            KeyTokenStride = _keys.TokenStride,
            KeyHeadStride = _keys.HeadStride,
            ValuePageStride = _values.PageStride,
            ValueTokenStride = _values.TokenStride,
            ValueHeadStride = _values.HeadStride,
            KeyScales = _keys.Scales,
            ValueScales = _values.Scales,
            PageCount = PageCount,
        };
        action(args);
        Assert.False(
            new ReadOnlySpan<int>((void*)args.Counters, slots * units).ContainsAnyExcept(0),
            $"A counter was left above 0: {this}"
        );
    }

    /// <summary>The same arguments for decode.</summary>
    public static DecodeParams ForDecode(in PrefillParams args) =>
        new()
        {
            Query = args.Query,
            Key = args.Key,
            Value = args.Value,
            Output = args.Output,
            Lse = args.Lse,
            Pages = args.Pages,
            Plan = args.Plan,
            PartialOutput = args.PartialOutput,
            PartialState = args.PartialState,
            Counters = args.Counters,
            QueryRowStride = args.QueryRowStride,
            QueryHeadStride = args.QueryHeadStride,
            OutputRowStride = args.OutputRowStride,
            OutputHeadStride = args.OutputHeadStride,
            PageStride = args.KeyPageStride,
            TokenStride = args.KeyTokenStride,
            HeadStride = args.KeyHeadStride,
            KeyScales = args.KeyScales,
            ValueScales = args.ValueScales,
        };

    /// <summary>Sets one element of every query; the oracle's answer no longer applies.</summary>
    public void SetQuery(int index, float value)
    {
        for (int row = 0; row < Rows * Spec.Heads; row++)
        {
            Elements.Write(
                Spec.Dtype,
                _queryAddress,
                (row / Spec.Heads * QueryRowStride) + (row % Spec.Heads * QueryHeadStride) + index,
                value
            );
        }
    }

    /// <summary>Writes an entry of the page table.</summary>
    public void SetPage(int sequence, int index, int page) => ((int*)_pagesAddress)[_kvStarts[sequence] + index] = page;

    /// <summary>Sets one element of every key of the first sequence; the oracle's answer no longer applies.</summary>
    public void SetKeys(int index, float value)
    {
        for (int token = 0; token < KvLens[0]; token++)
        {
            Elements.Write(KvDtype, _keys.Address, At(_keys, 0, token) + index, value);
        }
    }

    /// <summary>Compares a result with the oracle's.</summary>
    /// <param name="result">The result.</param>
    /// <param name="how">What made it.</param>
    public void Check(AttentionResult result, string how)
    {
        bool isHalf = Spec.Dtype == DType.Float16;
        double relative = ErrorNorms.Relative(result.Output, Expected);
        Assert.True(relative <= (isHalf ? 1e-3 : 4e-3), $"Relative error {relative:g3}: {how}, {this}");
        double row = ErrorNorms.WorstRow(result.Output, Expected, Spec.HeadDim);
        Assert.True(row <= (isHalf ? 4e-3 : 1.5e-2), $"Worst row {row:g3}: {how}, {this}");
        // Close to 0 an LSE is the difference of larger numbers: there 1e-5 absolute.
        double lse = ErrorNorms.WorstRelative(result.Lse, ExpectedLse, 0.1);
        Assert.True(lse <= 1e-4, $"LSE {lse:g3}: {how}, {this}");
    }

    public void Dispose() => _memory.Dispose();

    private AttentionResult ReadResult(in PrefillParams args)
    {
        ReadOnlySpan<ushort> bits = new((void*)args.Output, checked((int)(OutputRowStride * Rows)));
        bool[] written = new bool[bits.Length];
        float[] output = new float[Expected.Length];
        for (int i = 0; i < output.Length; i++)
        {
            int row = i / Spec.HeadDim;
            long at = (row / Spec.Heads * OutputRowStride) + (row % Spec.Heads * OutputHeadStride) + (i % Spec.HeadDim);
            output[i] = Elements.Read(Spec.Dtype, args.Output, at);
            written[at] = true;
        }

        for (int i = 0; i < bits.Length; i++)
        {
            Assert.True(written[i] || bits[i] == 0xFFFF, $"Wrote between rows or heads, at element {i}: {this}");
        }

        float[] lse = args.Lse == 0 ? [] : new ReadOnlySpan<float>((void*)args.Lse, ExpectedLse.Length).ToArray();
        return new AttentionResult(output, lse);
    }

    private (int[][] Pages, int[] Offsets, int TotalPages, int TableLength) ScatterPages()
    {
        int[] counts = [.. KvLens.Select(length => (length + Spec.PageSize - 1) / Spec.PageSize)];
        int[] ids = [.. Enumerable.Range(0, counts.Sum() + 3)];
        _random.Shuffle(ids);
        int taken = 0;
        int offset = 0;
        int[][] pages = new int[counts.Length][];
        int[] offsets = new int[counts.Length];
        for (int i = 0; i < counts.Length; i++)
        {
            pages[i] = ids[taken..(taken + counts[i])];
            taken += counts[i];
            offset += _random.Next(3);
            offsets[i] = offset;
            offset += counts[i];
        }

        return (pages, offsets, ids.Length, offset);
    }

    /// <summary>Ragged keys and values: every sequence somewhere, with rows between them that belong to none.</summary>
    private (int[] Starts, int Rows) ScatterRows()
    {
        int row = 0;
        int[] starts = new int[KvLens.Length];
        for (int i = 0; i < starts.Length; i++)
        {
            row += _random.Next(3);
            starts[i] = row;
            row += KvLens[i];
        }

        return (starts, row + 1);
    }

    /// <summary>Keys or values that are all NaN, with scales if they are quantised.</summary>
    private KvTensor AllocateKv(long pageStride, long tokenStride, long headStride, long elements)
    {
        long bytes = elements * KvDtype.Size();
        nint address = _memory.Allocate(bytes);
        _memory.Fill(address, 0xFF, bytes, null);
        return new KvTensor(address, pageStride, tokenStride, headStride, Scales());
    }

    /// <summary>Where a token's first element of its first head is.</summary>
    private long At(in KvTensor tensor, int sequence, int token) =>
        IsRagged
            ? (_kvStarts[sequence] + token) * tensor.TokenStride
            : (_pages[sequence][token / Spec.PageSize] * tensor.PageStride) + (token % Spec.PageSize * tensor.TokenStride);

    private void FillSequence(int sequence, Func<int, float>? keyOverride)
    {
        int kvLen = KvLens[sequence];
        int tokenLength = Spec.KvHeads * Spec.HeadDim;
        float[] keys = new float[kvLen * tokenLength];
        float[] values = new float[keys.Length];
        for (int i = 0; i < keys.Length; i++)
        {
            int token = i / tokenLength;
            int head = i / Spec.HeadDim % Spec.KvHeads;
            int d = i % Spec.HeadDim;
            float key = keyOverride is null ? Normal() : keyOverride(token);
            keys[i] =
                Elements.Write(KvDtype, _keys.Address, At(_keys, sequence, token) + (head * _keys.HeadStride) + d, key)
                * Scale(_keys.Scales, head);
            values[i] =
                Elements.Write(KvDtype, _values.Address, At(_values, sequence, token) + (head * _values.HeadStride) + d, Normal())
                * Scale(_values.Scales, head);
        }

        int rowLength = Spec.Heads * Spec.HeadDim;
        for (int token = 0; token < QueryTokens[sequence]; token++)
        {
            int row = FirstRow(sequence) + token;
            AttentionOracle.Decode(
                _query.AsSpan(row * rowLength, rowLength),
                keys,
                values,
                Causal ? Math.Max(0, kvLen - QueryTokens[sequence] + 1 + token) : kvLen,
                Spec.Heads,
                Spec.KvHeads,
                Spec.HeadDim,
                SmScale,
                Expected.AsSpan(row * rowLength, rowLength),
                ExpectedLse.AsSpan(row * Spec.Heads, Spec.Heads)
            );
        }
    }

    /// <summary>One for each KV head, or a null pointer when the cache has none.</summary>
    private nint Scales()
    {
        if (KvDtype == Spec.Dtype)
        {
            return 0;
        }

        nint address = _memory.Allocate(Spec.KvHeads * sizeof(float));
        foreach (ref float scale in new Span<float>((void*)address, Spec.KvHeads))
        {
            scale = 0.5f + _random.NextSingle();
        }

        return address;
    }

    private static float Scale(nint scales, int head) => scales == 0 ? 1f : ((float*)scales)[head];

    private int FirstRow(int sequence) => QueryTokens[..sequence].Sum();

    private int[] RandomCuts(int kvLen, int multiple)
    {
        SortedSet<int> cuts = [];
        for (int i = _random.Next(8); i > 0 && kvLen > multiple; i--)
        {
            cuts.Add(multiple * _random.Next(1, ((kvLen - 1) / multiple) + 1));
        }

        return [.. cuts];
    }

    private WorkItem[] Shuffled(WorkItem[] items)
    {
        _random.Shuffle(items);
        return items;
    }

    /// <summary>The list: tiles of query tokens times groups of head tiles times parts.</summary>
    private WorkItem[] Items(int tileTokens, int groups, Func<int, int[]> cut, int groupHeads = 0)
    {
        List<WorkItem> items = [];
        int slots = _random.Next(3);
        for (int sequence = 0; sequence < KvLens.Length; sequence++)
        {
            for (int done = 0, tokens; done < QueryTokens[sequence]; done += tokens)
            {
                tokens = Math.Min(tileTokens, QueryTokens[sequence] - done);
                for (int group = 0; group < groups; group++)
                {
                    int[] bounds = [0, .. cut(KvLens[sequence]), KvLens[sequence]];
                    int parts = bounds.Length - 1;
                    for (int part = 0; part < parts; part++)
                    {
                        items.Add(
                            new WorkItem
                            {
                                Row = FirstRow(sequence) + done,
                                Begin = bounds[part],
                                End = bounds[part + 1],
                                KvStart = _kvStarts[sequence],
                                PartOffset = slots,
                                Part = (ushort)part,
                                Parts = (ushort)parts,
                                QueryTokens = (ushort)tokens,
                                Head = (ushort)(group * groupHeads),
                                Visible = KvLens[sequence] - (Causal ? QueryTokens[sequence] - done - 1 : 0),
                            }
                        );
                    }

                    slots += parts == 1 ? 0 : parts;
                }
            }
        }

        return [.. items];
    }

    internal static (long Page, long Token, long Head) Strides(AttentionSpec spec, int padding) =>
        spec.KvLayout == KvLayout.Nhd
            ? ((long)spec.PageSize * spec.KvHeads * spec.HeadDim + padding, spec.KvHeads * spec.HeadDim, spec.HeadDim)
            : ((long)spec.PageSize * spec.KvHeads * spec.HeadDim + padding, spec.HeadDim, (long)spec.PageSize * spec.HeadDim);

    private float Normal() => MathF.Sqrt(-2f * MathF.Log(1f - _random.NextSingle())) * MathF.Cos(2f * MathF.PI * _random.NextSingle());
}

/// <summary>Keys or values in memory; strides count elements.</summary>
internal readonly record struct KvTensor(nint Address, long PageStride, long TokenStride, long HeadStride, nint Scales);

/// <summary>What a kernel wrote: outputs [rows, heads, headDim] and base-2 LSE [rows, heads] (empty when not asked for).</summary>
internal sealed record AttentionResult(float[] Output, float[] Lse);
