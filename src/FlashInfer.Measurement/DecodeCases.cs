namespace FlashInfer.Measurement;

/// <summary>One case of the decode benchmark: a configuration, the lengths of its sequences, and what else differs from the default.</summary>
internal sealed record DecodeCase(int Heads, int KvHeads, int[] Lengths, string What)
{
    public int HeadDim { get; init; } = 128;

    public int PageSize { get; init; } = 16;

    public DType Dtype { get; init; } = DType.BFloat16;

    public DType? KvDtype { get; init; }

    public KvLayout KvLayout { get; init; } = KvLayout.Nhd;

    /// <summary>Query tokens of each sequence, its last ones.</summary>
    public int QueryTokens { get; init; } = 1;

    /// <summary>Whether a sequence is cut alike in every batch.</summary>
    public bool IsBatchInvariant { get; init; }

    /// <summary>Whether the kernels are those that every GPU has, where the device has better ones.</summary>
    public bool IsPortable { get; init; }

    /// <summary>What differs from the default and no other parameter of the row says.</summary>
    public string Variant =>
        IsPortable ? "portable"
        : IsBatchInvariant ? "batch-invariant"
        : "default";

    /// <summary>Multiplications and additions of both products over what is visible: the tokens before a query token and itself.</summary>
    public double Flops => 4.0 * Heads * HeadDim * QueryTokens * Lengths.Sum(length => length - ((QueryTokens - 1) / 2.0));

    public AttentionSpec Spec => new(Heads, KvHeads, HeadDim, PageSize, Dtype, KvDtype, KvLayout);

    /// <summary>heads/kvHeads, headDim, page size, layout, element types, batch, variant.</summary>
    public string Name =>
        $"{Heads}/{KvHeads} d{HeadDim} page {PageSize} {KvLayout} {Short(Dtype)}{(KvDtype is { } kv ? $" KV {Short(kv)}" : "")} {What}{(QueryTokens > 1 ? $" qoLen={QueryTokens}" : "")}{(Variant == "default" ? "" : $" {Variant}")}";

    /// <summary>A batch of sequences of one length.</summary>
    public static DecodeCase Uniform(int heads, int kvHeads, int batch, int length) =>
        new(heads, kvHeads, [.. Enumerable.Repeat(length, batch)], $"batch={batch} kvLen={length}");

    public static string Short(DType dtype) =>
        dtype switch
        {
            DType.Float16 => "f16",
            DType.BFloat16 => "bf16",
            DType.Float8E4M3 => "e4m3",
            DType.Float8E5M2 => "e5m2",
            _ => dtype.ToString(),
        };
}

/// <summary>The grid of the decode benchmark.</summary>
internal static class DecodeCases
{
    public static IEnumerable<DecodeCase> All => [.. Lengths(), .. Configurations(), .. Extensions()];

    /// <summary>The default configuration and its neighbours in heads, over lengths and batches.</summary>
    private static IEnumerable<DecodeCase> Lengths()
    {
        foreach (
            (int heads, int kvHeads, int batch, int length) in ((int, int, int, int)[])
                [
                    (32, 8, 1, 512),
                    (32, 8, 1, 2048),
                    (32, 8, 8, 512),
                    (32, 8, 1, 8192),
                    (32, 8, 8, 2048),
                    (32, 8, 32, 512),
                    (32, 8, 1, 32768),
                    (32, 8, 8, 8192),
                    (32, 8, 32, 2048),
                    (32, 8, 128, 512),
                    (32, 8, 256, 512),
                    (32, 8, 32, 8192),
                    (32, 8, 128, 2048),
                    (32, 8, 32, 32768),
                    (32, 32, 1, 2048),
                    (32, 32, 8, 2048),
                    (32, 32, 32, 2048),
                    (64, 8, 32, 2048),
                    (64, 8, 64, 2048),
                    (64, 8, 128, 2048),
                    (16, 1, 512, 2048),
                    (16, 1, 1024, 2048),
                    (16, 1, 1024, 8192),
                ]
        )
        {
            yield return DecodeCase.Uniform(heads, kvHeads, batch, length);
        }

        yield return new DecodeCase(32, 8, [32000, .. Enumerable.Repeat(500, 31)], "mixed=one-32000+31x500");
        Random uniform = new(5);
        yield return new DecodeCase(32, 8, [.. Enumerable.Range(0, 32).Select(_ => uniform.Next(100, 15_600))], "mixed=32x100..15.6k");
        Random normal = new(11);
        yield return new DecodeCase(
            32,
            8,
            [.. Enumerable.Range(0, 128).Select(_ => LogNormal(normal, mean: 1200, sigma: 1))],
            "mixed=128xlog-normal-mean-1.2k"
        );
        yield return DecodeCase.Uniform(32, 8, 1024, 64);
        yield return DecodeCase.Uniform(32, 8, 1024, 200);
    }

    /// <summary>Other configurations at 1 GB of keys and values, or where one KV head serves all, as many sequences as the others' bytes would give.</summary>
    private static IEnumerable<DecodeCase> Configurations() =>
        [
            Full(32, 8) with
            {
                PageSize = 1,
            },
            Full(32, 8) with
            {
                PageSize = 8,
            },
            Full(32, 8) with
            {
                PageSize = 64,
            },
            DecodeCase.Uniform(32, 8, 8, 2048) with
            {
                PageSize = 1,
            },
            DecodeCase.Uniform(32, 8, 8, 2048) with
            {
                PageSize = 8,
            },
            DecodeCase.Uniform(32, 8, 8, 2048) with
            {
                PageSize = 64,
            },
            Full(32, 8) with
            {
                KvLayout = KvLayout.Hnd,
            },
            Full(32, 8, 64),
            Full(32, 8, 256),
            Full(32, 8) with
            {
                Dtype = DType.Float16,
            },
            Full(128, 8),
            Full(71, 1),
        ];

    /// <summary>
    /// Wider groups, the portable kernels, several query tokens, batch-invariant cuts, quantised caches: <c>DecodeBench</c> says what
    /// it leaves out and why.
    /// </summary>
    private static IEnumerable<DecodeCase> Extensions() =>
        [
            Full(32, 1),
            Full(32, 1, 256),
            DecodeCase.Uniform(32, 1, 256, 8192),
            DecodeCase.Uniform(71, 1, 256, 8192),
            DecodeCase.Uniform(128, 4, 64, 8192),
            Full(32, 8) with
            {
                QueryTokens = 8,
            },
            Full(32, 8) with
            {
                IsPortable = true,
            },
            DecodeCase.Uniform(32, 8, 8, 2048) with
            {
                IsPortable = true,
            },
            Full(32, 8) with
            {
                QueryTokens = 4,
            },
            DecodeCase.Uniform(32, 8, 32, 2048) with
            {
                QueryTokens = 4,
            },
            Full(32, 8) with
            {
                IsBatchInvariant = true,
            },
            DecodeCase.Uniform(32, 8, 8, 2048) with
            {
                IsBatchInvariant = true,
            },
            Full(32, 8, 96),
            DecodeCase.Uniform(32, 8, 340, 2048) with
            {
                HeadDim = 96,
            },
            Full(32, 8, 96) with
            {
                KvLayout = KvLayout.Hnd,
            },
            Full(32, 8, 192),
            Full(32, 8, 512),
            DecodeCase.Uniform(16, 1, 1, 8192),
            DecodeCase.Uniform(16, 1, 1, 32768),
            Full(32, 8) with
            {
                KvDtype = DType.Float8E4M3,
            },
            Full(32, 8) with
            {
                KvDtype = DType.Float8E5M2,
            },
            Full(32, 8, 64) with
            {
                KvDtype = DType.Float8E4M3,
            },
            DecodeCase.Uniform(32, 8, 1, 512) with
            {
                HeadDim = 64,
            },
        ];

    private static DecodeCase Full(int heads, int kvHeads, int headDim = 128) =>
        DecodeCase.Uniform(heads, kvHeads, 1024 / kvHeads * 128 / headDim, 2048) with
        {
            HeadDim = headDim,
        };

    private static int LogNormal(Random random, double mean, double sigma)
    {
        double normal = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
        return Math.Max(1, (int)Math.Exp(Math.Log(mean) - (sigma * sigma / 2) + (sigma * normal)));
    }
}
