namespace FlashInfer.Tests;

/// <summary>One randomised shape of batch decode, or of prefill; <see cref="Seed"/> fixes its data too.</summary>
internal sealed record DecodeCase(
    int Heads,
    int KvHeads,
    int HeadDim,
    int PageSize,
    DType Dtype,
    KvLayout KvLayout,
    int Layers,
    int[] Lengths,
    float? SmScale,
    float Amplitude,
    int Seed,
    DType? KvDtype = null
)
{
    private static readonly int[] s_groups = [1, 1, 2, 3, 4, 4, 5, 7, 8, 8, 12, 16, 24, 32, 71, 128];
    private static readonly int[] s_pageSizes = [1, 2, 5, 16, 16, 16, 24, 32, 64, 128, 1024];
    private static readonly int[] s_headDims = [64, 96, 128, 128, 192, 256, 512];
    private static readonly int[] s_edges = [0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 257];

    /// <summary>Query tokens of each sequence, its last ones; one each when null.</summary>
    public int[]? QueryTokens { get; init; }

    public bool Causal { get; init; } = true;

    public Determinism Determinism { get; init; }

    /// <summary>Whether decode plans for the kernel of many columns, where there is one; null leaves the choice to it.</summary>
    public bool? Wide { get; init; }

    /// <summary>Whether prefill stages keys and values, where it can; null leaves the choice to it.</summary>
    public bool? Stages { get; init; }

    /// <summary>Tokens that there is room for to stage; all when null.</summary>
    public int? MaxStagedTokens { get; init; }

    /// <summary>Elements of a head of value and output; as many as of query and key when null.</summary>
    public int? ValueDim { get; init; }

    /// <summary>A variant of attention.</summary>
    public VariantCase? Variant { get; init; }

    /// <summary>Whether queries or keys are rounded to 16 bits once more before their product, or logits are not much better than that.</summary>
    public bool RoundsTwice(Device device) =>
        Variant is { Variant: var variant, IsApproximate: var isApproximate }
        && ((device.Kind == DeviceKind.Cuda && (variant.Rotates || isApproximate)) || variant.Hooks.HasFlag(VariantHooks.QueryTransform));

    public AttentionSpec Spec => new(Heads, KvHeads, HeadDim, PageSize, Dtype, KvDtype, KvLayout, Variant?.Variant, ValueDim);

    /// <summary>The case with a variant and arguments drawn for it.</summary>
    public DecodeCase With(TestVariant variant) => With(new TestVariantCase(variant, this));

    /// <summary>The case with a variant of the catalogue and arguments drawn for it.</summary>
    public DecodeCase WithCatalogue(string name) => With(CatalogueCase.Of(name, this));

    /// <summary>The case with options and arguments drawn for them, but those given.</summary>
    public DecodeCase With(AttentionOptions options, float? cap = null, int? window = null, int? rotaryDim = null) =>
        With(new OptionCase(options, this, cap, window, rotaryDim));

    /// <summary>
    /// Beside a sink, or a gate that follows the log-sum-exp, logits stay small: else there are rows whose outputs are all below the smallest
    /// half. Where keys turn or queries are replaced, too: what is lost when they are rounded once more grows with the logits.
    /// </summary>
    private DecodeCase With(VariantCase variant)
    {
        DecodeCase varied = this with { Variant = variant, Causal = Causal && !variant.ReplacesCausality };
        const VariantHooks Small = VariantHooks.Sink | VariantHooks.QueryTransform | VariantHooks.OutputTransform;
        return (variant.Variant.Hooks & Small) != 0 || variant.Variant.Rotates ? varied with { Amplitude = 1, SmScale = null } : varied;
    }

    /// <summary>Draws a case whose sequences have about this many tokens together.</summary>
    public static DecodeCase Draw(int seed, int tokens)
    {
        Random random = new(seed);
        int group = s_groups[random.Next(s_groups.Length)];
        int kvHeads = group > 16 ? 1 : random.Next(1, 5);
        int sequences = random.Next(1, 9);
        int[] lengths = new int[sequences];
        for (int i = 0; i < sequences; i++)
        {
            // Half of the lengths stand at a tile's edge, the others anywhere (log-uniform).
            lengths[i] =
                random.Next(2) == 0
                    ? s_edges[random.Next(s_edges.Length)]
                    : (int)Math.Exp(random.NextDouble() * Math.Log(Math.Max(2, tokens * 2 / sequences)));
        }

        return new DecodeCase(
            group * kvHeads,
            kvHeads,
            s_headDims[random.Next(s_headDims.Length)],
            s_pageSizes[random.Next(s_pageSizes.Length)],
            random.Next(2) == 0 ? DType.Float16 : DType.BFloat16,
            random.Next(2) == 0 ? KvLayout.Nhd : KvLayout.Hnd,
            random.Next(1, 3),
            lengths,
            random.Next(3) == 0 ? 0.03f + (random.NextSingle() * 0.3f) : null,
            random.Next(4) == 0 ? 4 : 1,
            seed,
            random.Next(4) switch
            {
                0 => DType.Float8E4M3,
                1 => DType.Float8E5M2,
                _ => null,
            }
        )
        {
            QueryTokens = random.Next(2) == 0 ? null : [.. lengths.Select((_, i) => random.Next(i == 0 ? 1 : 0, 9))],
            Causal = random.Next(4) != 0,
            Determinism = random.Next(3) == 0 ? Determinism.BatchInvariant : Determinism.Reproducible,
            Wide = random.Next(2) == 0 ? true : null,
        };
    }

    /// <summary>Some cases, of which two at a time have one configuration, whose kernels are then compiled once.</summary>
    /// <param name="seed">Fixes them.</param>
    /// <param name="count">How many.</param>
    /// <param name="draw">Draws one.</param>
    public static IEnumerable<DecodeCase> DrawPairs(int seed, int count, Func<int, DecodeCase> draw) =>
        Enumerable.Range(seed, count).Select((one, i) => i % 2 == 0 ? draw(one) : draw(one).ConfiguredAs(draw(one - 1)));

    private DecodeCase ConfiguredAs(DecodeCase other) =>
        this with
        {
            Heads = other.Heads,
            KvHeads = other.KvHeads,
            HeadDim = other.HeadDim,
            PageSize = other.PageSize,
            Dtype = other.Dtype,
            KvLayout = other.KvLayout,
            KvDtype = other.KvDtype,
        };

    public override string ToString() =>
        $"seed {Seed}: {Spec}, {Layers} layers, lengths [{string.Join(", ", Lengths)}], smScale {SmScale?.ToString() ?? "default"}, amplitude {Amplitude}, query tokens [{string.Join(", ", QueryTokens ?? [])}], {(Causal ? "causal" : "not causal")}, {Determinism}{(Wide is { } wide ? $", wide {wide}" : "")}{(Stages is { } stages ? $", stages {stages}" : "")}{(MaxStagedTokens is { } room ? $" up to {room}" : "")}{(Variant is null ? "" : $", {Variant}")}";
}
