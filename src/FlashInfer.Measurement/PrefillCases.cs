using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>One case of the prefill benchmark: a configuration, its batch, and what else differs from the default.</summary>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key/value heads.</param>
/// <param name="QueryTokens">Query tokens of each sequence, its last ones.</param>
/// <param name="Lengths">Tokens of each sequence.</param>
/// <param name="Batch">The batch, for people to read.</param>
internal sealed record PrefillCase(int Heads, int KvHeads, int[] QueryTokens, int[] Lengths, string Batch)
{
    public int HeadDim { get; init; } = 128;

    /// <summary>Elements of a head of the values; 0 means those of the keys.</summary>
    public int ValueDim
    {
        get => field == 0 ? HeadDim : field;
        init;
    }

    /// <summary>Null for ragged keys and values.</summary>
    public int? PageSize { get; init; }

    public KvLayout KvLayout { get; init; } = KvLayout.Nhd;

    public DType Dtype { get; init; } = DType.BFloat16;

    /// <summary>Of the cache; ragged keys and values have the query's.</summary>
    public DType? KvDtype { get; init; }

    public bool IsCausal { get; init; } = true;

    /// <summary>Whether the kernels are those that every GPU has, where the device has better ones.</summary>
    public bool IsPortable { get; init; }

    public AttentionSpec Spec => new(Heads, KvHeads, HeadDim, PageSize ?? 16, Dtype, KvDtype, KvLayout, valueDim: ValueDim);

    /// <summary>heads/kvHeads, headDim, ragged or page size and layout, element type, mask, batch, variant.</summary>
    public string Name =>
        $"{Heads}/{KvHeads} d{HeadDim}{(ValueDim == HeadDim ? "" : $"/{ValueDim}")} {(PageSize is { } size ? $"page {size} {KvLayout}" : "ragged")} {DecodeCase.Short(Dtype)}{(KvDtype is { } kv ? $" KV {DecodeCase.Short(kv)}" : "")} {(IsCausal ? "causal" : "full")} {Batch}{(IsPortable ? " portable" : "")}";

    /// <summary>
    /// Multiplications and additions of both products over what is visible. A causal token counts as half on the diagonal: so q query
    /// tokens behind n others see q * (n + q / 2) tokens, half of the square when n is 0.
    /// </summary>
    public double Flops =>
        2.0
        * Heads
        * (HeadDim + ValueDim)
        * QueryTokens.Zip(Lengths, (tokens, length) => tokens * (length - (IsCausal ? tokens / 2.0 : 0))).Sum();

    /// <summary>Bytes of query, keys, values and output: what a launch has to move at least.</summary>
    public double Bytes =>
        (HeadDim + ValueDim)
        * (
            ((double)Dtype.Size() * Heads * QueryTokens.Sum(static tokens => (long)tokens))
            + ((double)Spec.KvDtype.Size() * KvHeads * Lengths.Sum(static length => (long)length))
        );

    /// <summary>The case for the results file.</summary>
    public JsonObject Params
    {
        get
        {
            JsonObject values = new()
            {
                ["variant"] = IsPortable ? "portable" : "default",
                ["dtype"] = Dtype.ToString(),
                ["kvDtype"] = Spec.KvDtype.ToString(),
                ["heads"] = Heads,
                ["kvHeads"] = KvHeads,
                ["headDim"] = HeadDim,
            };
            if (ValueDim != HeadDim)
            {
                values["valueDim"] = ValueDim;
            }

            if (PageSize is { } size)
            {
                values["pageSize"] = size;
            }

            values["layout"] = PageSize is null ? "Ragged" : KvLayout.ToString();
            values["batch"] = Lengths.Length;
            values["qoLen"] = QueryTokens.Max();
            values["kvLen"] = Lengths.Max();
            values["causal"] = IsCausal;
            if (Lengths.Distinct().Count() > 1)
            {
                values["lengths"] = "mixed";
            }

            return values;
        }
    }

    /// <summary>As many query tokens as tokens, in every sequence.</summary>
    public static PrefillCase Square(int heads, int kvHeads, int batch, int length) => Uniform(heads, kvHeads, batch, length, length);

    /// <summary>A batch of sequences that are all alike.</summary>
    public static PrefillCase Uniform(int heads, int kvHeads, int batch, int queryTokens, int length) =>
        new(
            heads,
            kvHeads,
            [.. Enumerable.Repeat(queryTokens, batch)],
            [.. Enumerable.Repeat(length, batch)],
            $"batch={batch} qoLen={queryTokens} kvLen={length}"
        );
}

/// <summary>What the cases of a group are compared with.</summary>
internal enum Yardstick
{
    /// <summary>PyTorch's cuDNN backend, on contiguous keys and values of the same shape.</summary>
    CuDnn,

    /// <summary>PyTorch's own FlashAttention-2.</summary>
    Flash,

    /// <summary>The group's first case, at its rate.</summary>
    First,
}

/// <summary>Cases that are timed in turn.</summary>
internal sealed record PrefillGroup(Yardstick Yardstick, params PrefillCase[] Cases);

/// <summary>The grid of the prefill benchmark. What most figures are of stands first, since a run on a budget leaves out what stands last.</summary>
internal static class PrefillCases
{
    /// <summary>16k tokens in all, and one sequence of 32k.</summary>
    private static readonly (int Batch, int Length)[] s_lengths =
    [
        (32, 512),
        (16, 1024),
        (8, 2048),
        (4, 4096),
        (2, 8192),
        (1, 16384),
        (1, 32768),
    ];

    /// <summary>Of these, what stands for all where the length matters less.</summary>
    private static readonly (int Batch, int Length)[] s_fewLengths = [(32, 512), (8, 2048), (2, 8192)];

    public static IEnumerable<PrefillGroup> All =>
        [
            .. s_lengths.Select(size => Usual(size, causal: true)),
            Variable(),
            Chunked(),
            .. ManyKvHeads(s_lengths, causal: true),
            .. s_lengths.Select(size => Usual(size, causal: false)),
            .. Few(32, 8, 64),
            .. Few(16, 4, 256),
            .. Few(16, 4, 192),
            .. ShorterValues(),
            .. Few(32, 8, 96),
            .. Few(32, 8, 128, DType.Float16),
            .. Portable(),
            .. ManyKvHeads(s_fewLengths, causal: false),
        ];

    /// <summary>A KV head for each query head; over pages it is as the usual.</summary>
    private static IEnumerable<PrefillGroup> ManyKvHeads((int Batch, int Length)[] sizes, bool causal) =>
        sizes.Select(size => new PrefillGroup(
            Yardstick.CuDnn,
            PrefillCase.Square(32, 32, size.Batch, size.Length) with
            {
                IsCausal = causal,
            }
        ));

    /// <summary>The default configuration, ragged and over pages; at a few lengths over all kinds of pages.</summary>
    private static PrefillGroup Usual((int Batch, int Length) size, bool causal)
    {
        PrefillCase ragged = PrefillCase.Square(32, 8, size.Batch, size.Length) with { IsCausal = causal };
        return causal && s_fewLengths.Contains(size)
            ? Group(
                ragged,
                ragged with
                {
                    PageSize = 16,
                    KvLayout = KvLayout.Hnd,
                },
                ragged with
                {
                    PageSize = 64,
                },
                ragged with
                {
                    PageSize = 64,
                    KvLayout = KvLayout.Hnd,
                },
                ragged with
                {
                    PageSize = 1,
                }
            )
            : Group(ragged);
    }

    private static IEnumerable<PrefillGroup> Few(int heads, int kvHeads, int headDim, DType dtype = DType.BFloat16) =>
        from causal in (bool[])[true, false]
        from size in s_fewLengths
        select Group(
            PrefillCase.Square(heads, kvHeads, size.Batch, size.Length) with
            {
                HeadDim = headDim,
                Dtype = dtype,
                IsCausal = causal,
            }
        );

    /// <summary>Keys of 192 and values of 128, a head of keys for each query head, as multi-head latent attention has them in prefill.</summary>
    private static IEnumerable<PrefillGroup> ShorterValues() =>
        from causal in (bool[])[true, false]
        from size in s_fewLengths
        select new PrefillGroup(
            Yardstick.CuDnn,
            PrefillCase.Square(16, 16, size.Batch, size.Length) with
            {
                HeadDim = 192,
                ValueDim = 128,
                IsCausal = causal,
            }
        );

    /// <summary>64 prompts whose lengths are spread evenly on a logarithmic scale, against as many of one length and, together, as many operations.</summary>
    private static PrefillGroup Variable()
    {
        Random random = new(5);
        int[] lengths = [.. Enumerable.Range(0, 64).Select(_ => (int)(64 * Math.Pow(128, random.NextDouble())))];
        int uniform = (int)Math.Round(Math.Sqrt(lengths.Average(length => (double)length * length)));
        PrefillCase ragged = new(32, 8, lengths, lengths, "batch=64 log-uniform=64..8k");
        return new PrefillGroup(Yardstick.First, PrefillCase.Square(32, 8, 64, uniform), ragged, ragged with { PageSize = 16 });
    }

    /// <summary>The last chunk of a long prompt, against the rate of one prompt of 16k.</summary>
    private static PrefillGroup Chunked()
    {
        PrefillCase ragged = PrefillCase.Uniform(32, 8, 1, 512, 32768);
        return new PrefillGroup(Yardstick.First, PrefillCase.Square(32, 8, 1, 16384), ragged, ragged with { PageSize = 16 });
    }

    private static IEnumerable<PrefillGroup> Portable() =>
        from causal in (bool[])[true, false]
        from size in s_fewLengths
        let ragged = PrefillCase.Square(32, 8, size.Batch, size.Length) with
        {
            IsCausal = causal,
            IsPortable = true,
        }
        select new PrefillGroup(Yardstick.Flash, ragged, ragged with { PageSize = 16 });

    /// <summary>A ragged case, the same over pages of 16 tokens, and others.</summary>
    private static PrefillGroup Group(PrefillCase ragged, params PrefillCase[] others) =>
        new(Yardstick.CuDnn, [ragged, ragged with { PageSize = 16 }, .. others]);
}
