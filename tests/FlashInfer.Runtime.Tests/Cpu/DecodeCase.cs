using FlashInfer.Attention;
using FlashInfer.Cpu;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests.Cpu;

/// <summary>
/// A batch for decode, built by hand in native memory: random queries, keys and values, pages scattered over a cache whose unused slots
/// and pages hold NaN, poisoned outputs, random scales of a quantised cache, and the oracle's answer. Everything follows from the seed.
/// </summary>
internal sealed unsafe class DecodeCase : IDisposable
{
    private readonly CpuBackend _memory = new(1);
    private readonly Random _random;
    private readonly float[] _query;
    private readonly nint _queryAddress;
    private readonly nint _keyAddress;
    private readonly nint _valueAddress;
    private readonly nint _keyScales;
    private readonly nint _valueScales;
    private readonly nint _pagesAddress;
    private readonly int[][] _pages;
    private readonly int[] _pageOffsets;

    public DecodeCase(
        AttentionSpec spec,
        int[] kvLens,
        int seed,
        bool strided = false,
        float queryScale = 1f,
        float queryOffset = 0f,
        Func<int, float>? keyOverride = null,
        int[]? queryTokens = null,
        bool causal = true
    )
    {
        Spec = spec;
        KvLens = kvLens;
        QueryTokens = queryTokens ?? [.. kvLens.Select(_ => 1)];
        Causal = causal;
        Seed = seed;
        _random = new Random(seed);
        QueryHeadStride = spec.HeadDim + (strided ? 8 : 0);
        QueryRowStride = (spec.Heads * QueryHeadStride) + (strided ? 24 : 0);
        OutputHeadStride = spec.HeadDim + (strided ? 5 : 0);
        OutputRowStride = (spec.Heads * OutputHeadStride) + (strided ? 3 : 0);
        SmScale = 1f / MathF.Sqrt(spec.HeadDim);

        (_pages, _pageOffsets, int totalPages, int tableLength) = ScatterPages();
        (PageStride, TokenStride, HeadStride) = Strides(spec, strided ? 16 : 0);
        _pagesAddress = _memory.Allocate(tableLength * sizeof(int));
        Span<int> table = new((void*)_pagesAddress, tableLength);
        table.Fill(int.MinValue);
        long cacheBytes = PageStride * totalPages * spec.KvDtype.Size();
        _keyAddress = _memory.Allocate(cacheBytes);
        _valueAddress = _memory.Allocate(cacheBytes);
        _memory.Fill(_keyAddress, 0xFF, cacheBytes, null);
        _memory.Fill(_valueAddress, 0xFF, cacheBytes, null);
        (_keyScales, _valueScales) = (Scales(), Scales());
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
            _pages[sequence].CopyTo(table[_pageOffsets[sequence]..]);
            FillSequence(sequence, keyOverride);
        }
    }

    public AttentionSpec Spec { get; }

    public int[] KvLens { get; }

    /// <summary>Query tokens of each sequence, its last ones.</summary>
    public int[] QueryTokens { get; }

    public bool Causal { get; }

    public int Rows => QueryTokens.Sum();

    public int Seed { get; }

    public float SmScale { get; }

    public long QueryRowStride { get; }

    public long QueryHeadStride { get; }

    public long OutputRowStride { get; }

    public long OutputHeadStride { get; }

    public long PageStride { get; }

    public long TokenStride { get; }

    public long HeadStride { get; }

    /// <summary>The oracle's output, [rows, heads, headDim].</summary>
    public double[] Expected { get; }

    /// <summary>The oracle's base-2 LSE, [rows, heads].</summary>
    public double[] ExpectedLse { get; }

    public override string ToString() =>
        $"{Spec}, kvLen [{string.Join(", ", KvLens)}], query tokens [{string.Join(", ", QueryTokens)}], {(Causal ? "causal" : "not causal")}, seed {Seed}";

    /// <summary>One item for each sequence.</summary>
    public WorkItem[] WholeItems() => Items(_ => []);

    /// <summary>Sequences cut at random multiples of 16, items in random order.</summary>
    public WorkItem[] SplitItems()
    {
        WorkItem[] items = Items(kvLen =>
        {
            SortedSet<int> cuts = [];
            for (int i = _random.Next(8); i > 0 && kvLen > 16; i--)
            {
                cuts.Add(16 * _random.Next(1, ((kvLen - 1) / 16) + 1));
            }

            return [.. cuts];
        });
        _random.Shuffle(items);
        return items;
    }

    /// <summary>Runs the kernel and reads the results. The bits between strided rows and heads, and the counters, are checked too.</summary>
    public DecodeResult Run(AttentionKernels kernels, WorkItem[] items, bool withLse = true)
    {
        DecodeResult? result = null;
        Prepare(
            items,
            args =>
            {
                args.Lse = withLse ? args.Lse : 0;
                kernels.Decode(QueryTokens.DefaultIfEmpty(1).Max()).Run(args, new ListLaunch(items.Length, items.Length, 1, false), null);
                result = ReadResult(args);
            }
        );
        return result!;
    }

    /// <summary>Builds the arguments, poisoned outputs among them, and hands them to an action; afterwards all counters must be 0.</summary>
    public void Prepare(WorkItem[] items, Action<DecodeParams> action)
    {
        using CpuBackend memory = new(1);
        nint plan = memory.Allocate(sizeof(ListHeader) + (items.Length * sizeof(WorkItem)));
        *(ListHeader*)plan = new ListHeader { Count = items.Length, ScaleLog2 = SmScale * 1.44269504f };
        items.CopyTo(new Span<WorkItem>((ListHeader*)plan + 1, items.Length));
        nint Filled(long bytes, byte value = 0xFF)
        {
            nint address = memory.Allocate(bytes);
            memory.Fill(address, value, bytes, null);
            return address;
        }

        // As many columns of a unit as the kernel is made for.
        int columns = CudaUnits.QueryTokens.First(tokens => tokens >= QueryTokens.DefaultIfEmpty(1).Max()) * Spec.Heads;
        int slots = items.Max(item => (int?)(item.Parts == 1 ? 0 : item.PartOffset + item.Parts)) ?? 0;
        DecodeParams args = new()
        {
            Query = _queryAddress,
            Key = _keyAddress,
            Value = _valueAddress,
            Output = Filled(OutputRowStride * Rows * 2),
            Lse = Filled(ExpectedLse.Length * sizeof(float)),
            Pages = _pagesAddress,
            Plan = plan,
            PartialOutput = Filled((long)slots * columns * Spec.HeadDim * sizeof(float)),
            PartialState = Filled((long)slots * columns * 2 * sizeof(float)),
            Counters = Filled(slots * Spec.KvHeads * sizeof(int), 0),
            QueryRowStride = QueryRowStride,
            QueryHeadStride = QueryHeadStride,
            OutputRowStride = OutputRowStride,
            OutputHeadStride = OutputHeadStride,
            PageStride = PageStride,
            TokenStride = TokenStride,
            HeadStride = HeadStride,
            KeyScales = _keyScales,
            ValueScales = _valueScales,
        };
        action(args);
        Assert.False(
            new ReadOnlySpan<int>((void*)args.Counters, slots * Spec.KvHeads).ContainsAnyExcept(0),
            $"A counter was left above 0: {this}"
        );
    }

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

    /// <summary>Sets one element of every key of the first sequence; the oracle's answer no longer applies.</summary>
    public void SetKeys(int index, float value)
    {
        for (int token = 0; token < KvLens[0]; token++)
        {
            long at = (_pages[0][token / Spec.PageSize] * PageStride) + (token % Spec.PageSize * TokenStride) + index;
            Elements.Write(Spec.KvDtype, _keyAddress, at, value);
        }
    }

    public void Dispose() => _memory.Dispose();

    private DecodeResult ReadResult(in DecodeParams args)
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
        return new DecodeResult(output, lse);
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
            long at =
                (_pages[sequence][token / Spec.PageSize] * PageStride)
                + (token % Spec.PageSize * TokenStride)
                + (head * HeadStride)
                + (i % Spec.HeadDim);
            keys[i] =
                Elements.Write(Spec.KvDtype, _keyAddress, at, keyOverride is null ? Normal() : keyOverride(token))
                * Scale(_keyScales, head);
            values[i] = Elements.Write(Spec.KvDtype, _valueAddress, at, Normal()) * Scale(_valueScales, head);
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
        if (!Spec.Shape.IsQuantised)
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

    private WorkItem[] Items(Func<int, int[]> cut)
    {
        List<WorkItem> items = [];
        int slots = _random.Next(3);
        for (int sequence = 0; sequence < KvLens.Length; sequence++)
        {
            int[] bounds = [0, .. cut(KvLens[sequence]), KvLens[sequence]];
            int parts = bounds.Length - 1;
            for (int part = 0; part < parts; part++)
            {
                items.Add(
                    new WorkItem
                    {
                        Row = FirstRow(sequence),
                        Begin = bounds[part],
                        End = bounds[part + 1],
                        KvStart = _pageOffsets[sequence],
                        PartOffset = slots,
                        Part = (ushort)part,
                        Parts = (ushort)parts,
                        QueryTokens = (ushort)QueryTokens[sequence],
                        Visible = Causal ? KvLens[sequence] - QueryTokens[sequence] + 1 : KvLens[sequence],
                    }
                );
            }

            slots += parts == 1 ? 0 : parts;
        }

        return [.. items];
    }

    internal static (long Page, long Token, long Head) Strides(AttentionSpec spec, int padding) =>
        spec.KvLayout == KvLayout.Nhd
            ? ((long)spec.PageSize * spec.KvHeads * spec.HeadDim + padding, spec.KvHeads * spec.HeadDim, spec.HeadDim)
            : ((long)spec.PageSize * spec.KvHeads * spec.HeadDim + padding, spec.HeadDim, (long)spec.PageSize * spec.HeadDim);

    private float Normal() => MathF.Sqrt(-2f * MathF.Log(1f - _random.NextSingle())) * MathF.Cos(2f * MathF.PI * _random.NextSingle());
}

/// <summary>What a decode wrote: outputs [rows, heads, headDim] and base-2 LSE [rows, heads] (empty when not asked for).</summary>
internal sealed record DecodeResult(float[] Output, float[] Lse);
