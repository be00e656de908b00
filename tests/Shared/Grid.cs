namespace FlashInfer.Tests;

/// <summary>The class that a case is driven through.</summary>
internal enum GridApi
{
    Decode,
    Paged,
    Ragged,
    Single,
}

/// <summary>
/// Parameters of which a seeded sample is held against the oracle: those that FlashInfer's own tests run, and some between. Few
/// configurations, since a GPU compiles each, and many lengths.
/// </summary>
/// <param name="Name">What it is about.</param>
/// <param name="Apis">The classes.</param>
/// <param name="Configs">The configurations.</param>
/// <param name="Batches">Sequences of a batch, as many as the size of a case allows.</param>
/// <param name="KvLens">Tokens of a sequence.</param>
/// <param name="QoLens">Query tokens of a sequence; decode has one.</param>
internal sealed record Grid(string Name, GridApi[] Apis, DecodeCase[] Configs, int[] Batches, int[] KvLens, int[] QoLens)
{
    private static readonly GridApi[] s_all = [GridApi.Decode, GridApi.Paged, GridApi.Ragged];

    public AttentionOptions[] Options { get; init; } = [AttentionOptions.None];

    public int[] Windows { get; init; } = [-1];

    public float[] Caps { get; init; } = [30];

    public static IReadOnlyList<Grid> All { get; } =
    [
        new(
            "decode",
            [GridApi.Decode],
            [
                Of(4, 4, 128, 16),
                Of(32, 4, 128, 1),
                Of(32, 4, 128, 8) with
                {
                    KvDtype = DType.Float8E4M3,
                },
                Of(16, 4, 128, 16, DType.BFloat16, KvLayout.Hnd),
                Of(32, 4, 256, 16),
                Of(4, 4, 256, 8, DType.Float16, KvLayout.Hnd) with
                {
                    KvDtype = DType.Float8E4M3,
                },
                Of(64, 8, 64, 64, DType.BFloat16, KvLayout.Hnd),
                Of(12, 4, 192, 16, DType.BFloat16),
                Of(24, 8, 96, 32),
            ],
            [1, 5, 12, 17, 128],
            [1, 54, 97, 512, 999, 2048, 5000, 16_384],
            []
        ),
        new(
            "headDim 512",
            [GridApi.Decode],
            [
                Of(8, 1, 512, 16, DType.BFloat16),
                Of(4, 4, 512, 1),
                Of(32, 2, 512, 16, DType.BFloat16, KvLayout.Hnd),
                Of(12, 4, 512, 8) with
                {
                    KvDtype = DType.Float8E4M3,
                },
            ],
            [1, 5, 17],
            [1, 54, 97, 512, 999, 2048, 5000],
            []
        )
        {
            Options =
            [
                AttentionOptions.None,
                AttentionOptions.LogitsSoftCap,
                AttentionOptions.SlidingWindow | AttentionOptions.Sinks,
                AttentionOptions.Alibi,
            ],
            Windows = [13, 533],
        },
        new("paged prefill", [GridApi.Paged], [.. Prefills], [1, 12, 17, 128], [54, 97, 512, 2048], [1, 17, 37, 127, 577]),
        new(
            "ragged prefill",
            [GridApi.Ragged],
            [.. Prefills.Where(config => config.PageSize == 16)],
            [1, 4, 12, 17],
            [11, 54, 97, 512, 1763, 2048],
            [1, 17, 37, 127, 577]
        ),
        new(
            "values of another size",
            [GridApi.Ragged, GridApi.Single],
            [
                Of(4, 4, 192, 16) with
                {
                    ValueDim = 128,
                },
                Of(8, 8, 192, 16, DType.BFloat16) with
                {
                    ValueDim = 128,
                },
                Of(6, 2, 192, 16, DType.BFloat16) with
                {
                    ValueDim = 128,
                },
                Of(8, 1, 192, 16) with
                {
                    ValueDim = 128,
                },
            ],
            [1, 3, 12, 17],
            [1, 33, 128, 544, 977, 2048],
            [1, 64, 177, 377]
        ),
        new(
            "single sequence",
            [GridApi.Single],
            [Of(4, 1, 64, 16), Of(7, 1, 128, 16), Of(4, 1, 256, 16), Of(8, 4, 128, 16, DType.BFloat16), Of(32, 4, 64, 16, DType.BFloat16)],
            [1],
            [7, 54, 128, 501, 999, 2042, 3771, 4932],
            [1, 37, 127, 577, 1024]
        ),
        new(
            "fp8",
            [GridApi.Decode, GridApi.Paged],
            [
                Of(4, 4, 64, 1, DType.Float16, KvLayout.Nhd, DType.Float8E4M3),
                Of(32, 4, 128, 8, DType.Float16, KvLayout.Hnd, DType.Float8E5M2),
                Of(4, 4, 256, 16, DType.BFloat16, KvLayout.Nhd, DType.Float8E4M3),
                Of(16, 4, 96, 16, DType.Float16, KvLayout.Nhd, DType.Float8E4M3),
                Of(6, 2, 192, 5, DType.BFloat16, KvLayout.Nhd, DType.Float8E5M2),
            ],
            [1, 4, 12, 17],
            [7, 19, 39, 54, 97, 117, 509, 1170],
            [1, 7, 53, 97]
        ),
        new(
            "sliding window",
            s_all,
            [Of(4, 1, 64, 1), Of(8, 4, 128, 16), Of(8, 1, 256, 16, DType.BFloat16), Of(4, 4, 128, 1, DType.BFloat16)],
            [1, 3, 12, 13, 17, 32],
            [1, 3, 19, 54, 99, 199, 397, 1177, 1999],
            [1, 37, 47, 99]
        )
        {
            Options = [AttentionOptions.SlidingWindow],
            Windows = [0, 3, 13, 23, 33, 37, 43, 111, 127, 533, 1 << 20],
        },
        new(
            "soft cap and ALiBi",
            s_all,
            [Of(4, 4, 128, 16), Of(8, 2, 256, 16), Of(32, 8, 64, 5, DType.BFloat16)],
            [1, 4],
            [1, 9, 17, 81, 729, 987, 3001],
            [1, 17, 81, 987]
        )
        {
            Options = [AttentionOptions.LogitsSoftCap, AttentionOptions.Alibi],
            Caps = [1, 30, 50],
        },
        new(
            "custom mask",
            s_all,
            [Of(4, 4, 128, 1), Of(32, 4, 128, 16, DType.BFloat16), Of(4, 4, 256, 16)],
            [1, 4, 12],
            [1, 54, 97, 129, 512],
            [1, 17, 37, 127]
        )
        {
            Options = [AttentionOptions.CustomMask, AttentionOptions.PackedCustomMask],
        },
        new(
            "sinks",
            s_all,
            [Of(32, 8, 64, 16), Of(32, 32, 64, 1, DType.BFloat16), Of(32, 8, 128, 16, DType.BFloat16)],
            [1, 4, 16],
            [1, 4, 16, 128, 384, 512, 768],
            [1, 4, 16, 128, 256]
        )
        {
            Options = [AttentionOptions.Sinks, AttentionOptions.Sinks | AttentionOptions.SlidingWindow],
            Windows = [-1, 128],
        },
        new(
            "odd groups",
            s_all,
            [
                Of(3, 1, 128, 16),
                Of(10, 2, 64, 1, DType.BFloat16),
                Of(6, 1, 128, 8, DType.BFloat16, KvLayout.Hnd),
                Of(14, 2, 128, 16, DType.BFloat16),
                Of(12, 1, 64, 16),
                Of(16, 1, 128, 16, DType.BFloat16),
                Of(71, 1, 64, 16, DType.BFloat16),
            ],
            [1, 5, 12],
            [1, 54, 97, 110, 512, 1500],
            [1, 2, 17, 65]
        ),
    ];

    private static DecodeCase[] Prefills =>
        [
            Of(4, 4, 64, 16),
            Of(32, 4, 64, 1),
            Of(32, 4, 128, 16),
            Of(4, 4, 128, 5, DType.BFloat16, KvLayout.Hnd),
            Of(32, 4, 128, 16, DType.BFloat16, KvLayout.Hnd),
            Of(32, 4, 256, 5),
            Of(8, 1, 256, 16, DType.BFloat16),
            Of(8, 2, 96, 16, DType.BFloat16),
            Of(8, 4, 192, 16, DType.BFloat16),
            Of(7, 1, 128, 64, DType.BFloat16),
        ];

    /// <summary>Draws a case.</summary>
    /// <param name="seed">Fixes it.</param>
    /// <param name="keys">Elements of all its keys at most; now and then sixteen times as many.</param>
    /// <param name="queries">Elements of all its queries at most.</param>
    public (GridApi Api, DecodeCase Case) Draw(int seed, int keys, int queries)
    {
        Random random = new(seed);
        DecodeCase config = Pick(Configs);
        GridApi api = Pick(Apis);
        bool isDecode = api == GridApi.Decode;
        int batch = api == GridApi.Single ? 1 : Pick(Batches);
        bool isUniform = random.Next(2) == 0;
        (int kvLen, int qoLen) = (Pick(KvLens), QoLen());
        int tokens = (random.Next(32) == 0 ? 16 : 1) * keys / (config.KvHeads * config.HeadDim);
        int rows = Math.Max(1, queries / (config.Heads * config.HeadDim));
        List<int> lengths = [Math.Clamp(kvLen, 1, Math.Max(1, tokens))];
        List<int> queryTokens = [Math.Min(qoLen, rows)];
        for (int i = 1; i < batch; i++)
        {
            tokens -= lengths[^1];
            rows -= queryTokens[^1];
            int length = isUniform ? kvLen : Math.Max(0, Pick(KvLens) - random.Next(3));
            int own = isUniform ? qoLen : QoLen();
            if (length > tokens || own > rows)
            {
                break;
            }

            lengths.Add(length);
            queryTokens.Add(own);
        }

        DecodeCase drawn = config with
        {
            Lengths = [.. lengths],
            QueryTokens = isDecode || (api == GridApi.Single && queryTokens[0] == 1 && isUniform) ? null : [.. queryTokens],
            SmScale = random.Next(4) == 0 ? 0.03f + (random.NextSingle() * 0.3f) : null,
            Causal = isDecode || random.Next(3) != 0,
            Determinism = random.Next(4) == 0 ? Determinism.BatchInvariant : Determinism.Reproducible,
            Seed = seed,
        };
        AttentionOptions options = Pick(Options);
        return (api, options == AttentionOptions.None ? drawn : drawn.With(options, Pick(Caps), Pick(Windows)));

        T Pick<T>(T[] from) => from[random.Next(from.Length)];

        int QoLen() => isDecode ? 1 : Pick(QoLens);
    }

    /// <summary>Runs a case and holds it against the project's tolerances, which are below FlashInfer's.</summary>
    public static ScenarioErrors Check(Device device, GridApi api, DecodeCase one) =>
        api switch
        {
            GridApi.Decode => DecodeScenario.Check(device, one),
            GridApi.Paged => PrefillScenario.CheckPaged(device, one).Errors,
            GridApi.Ragged => PrefillScenario.CheckRagged(device, one).Errors,
            _ => PrefillScenario.CheckSingle(device, one),
        };

    private static DecodeCase Of(
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        DType dtype = DType.Float16,
        KvLayout kvLayout = KvLayout.Nhd,
        DType? kvDtype = null
    ) => new(heads, kvHeads, headDim, pageSize, dtype, kvLayout, Layers: 1, [], SmScale: null, Amplitude: 1, Seed: 0, kvDtype);
}
