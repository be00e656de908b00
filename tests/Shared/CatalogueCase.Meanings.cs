using FlashInfer.Tests.Variants;

namespace FlashInfer.Tests;

/// <content>The catalogue, each variant said once more: in fp64, and without a look at how it is written for kernels.</content>
internal abstract partial class CatalogueCase
{
    private static readonly Dictionary<string, AttentionSpec> s_specs = new()
    {
        [nameof(AlibiAttention)] = SpecOf<AlibiAttention>(),
        [nameof(ChunkedAttention)] = SpecOf<ChunkedAttention>(),
        [nameof(DilatedAttention)] = SpecOf<DilatedAttention>(),
        [nameof(DocumentAttention)] = SpecOf<DocumentAttention>(),
        [nameof(DocumentMaskAttention)] = SpecOf<DocumentMaskAttention>(),
        [nameof(GatedAttention)] = SpecOf<GatedAttention>(),
        [nameof(ItemsAttention)] = SpecOf<ItemsAttention>(),
        [nameof(LocalGlobalAttention)] = SpecOf<LocalGlobalAttention>(),
        [nameof(PrefixLmAttention)] = SpecOf<PrefixLmAttention>(),
        [nameof(QueryScaleAttention)] = SpecOf<QueryScaleAttention>(),
        [nameof(QuietAttention)] = SpecOf<QuietAttention>(),
        [nameof(RelativeBiasAttention)] = SpecOf<RelativeBiasAttention>(),
        [nameof(SinkAttention)] = SpecOf<SinkAttention>(),
        [nameof(SlidingWindowAttention)] = SpecOf<SlidingWindowAttention>(),
        [nameof(SlopedAttention)] = SpecOf<SlopedAttention>(),
        [nameof(SoftCapAttention)] = SpecOf<SoftCapAttention>(),
        [nameof(TemperatureAttention)] = SpecOf<TemperatureAttention>(),
        [nameof(TreeMaskAttention)] = SpecOf<TreeMaskAttention>(),
    };

    /// <summary>All of them.</summary>
    public static IReadOnlyCollection<string> Names => s_specs.Keys;

    /// <summary>The configuration of one.</summary>
    public static AttentionSpec Spec(string name) => s_specs[name];

    /// <summary>Prompts and chunks, and single tokens on sequences that are split.</summary>
    public static DecodeCase Prefill(string name, int seed) => Shape(name, seed, [300, 1, 29, 3, 1], [300, 0, 700, Long(name), 64]);

    /// <summary>Up to four query tokens a sequence.</summary>
    public static DecodeCase Decode(string name, int seed) => Shape(name, seed, [1, 4, 2, 1, 1], [Long(name), 33, 700, 0, 1]);

    /// <summary>Longer than windows and chunks are.</summary>
    private static int Long(string name) => name is nameof(ChunkedAttention) or nameof(TemperatureAttention) ? 9000 : 2500;

    private static DecodeCase Shape(string name, int seed, int[] queryTokens, int[] lengths)
    {
        AttentionSpec spec = Spec(name);
        // A tree has no more than 32 tokens.
        int most = name == nameof(TreeMaskAttention) ? 32 : int.MaxValue;
        return new DecodeCase(spec.Heads, spec.KvHeads, spec.HeadDim, spec.PageSize, spec.Dtype, spec.KvLayout, 1, lengths, null, 1, seed)
        {
            QueryTokens = [.. queryTokens.Select(tokens => Math.Min(tokens, most))],
        }.WithCatalogue(name);
    }

    /// <summary>A variant with arguments drawn for a case.</summary>
    public static CatalogueCase Of(string name, DecodeCase of)
    {
        Random random = new(of.Seed * 47);
        int heads = of.Heads;
        int sequences = of.Lengths.Length;
        int most = of.Lengths.Max();
        int[] queryTokens = of.QueryTokens!;
        float[] perHead = Floats(heads, 0.05f, 0.5f);
        int window = random.Next(200);
        switch (name)
        {
            case nameof(AlibiAttention):
                return new Plain(
                    name,
                    new Meaning
                    {
                        Logit = (logit, at) => logit + (Math.Pow(2, -8.0 * (at.Head + 1) / heads) * (at.KvPosition - at.QoPosition)),
                    }
                );
            case nameof(ChunkedAttention):
                return new Plain(name, new Meaning { Keeps = static at => at.KvPosition / 8192 >= at.QoPosition / 8192 });
            case nameof(DilatedAttention):
                return new Plain(name, new Meaning { Keeps = static at => IsOnGrid(at.QoPosition - at.KvPosition) });
            case nameof(DocumentAttention):
            {
                int[][] starts = [.. of.Lengths.Select(length => Starts(length))];
                int[] flat = [.. starts.SelectMany(static one => one)];
                int[] indptr = [0, .. starts.Select((_, i) => starts.Take(i + 1).Sum(static one => one.Length))];
                return new Given<DocumentAttention.Arguments>(
                    name,
                    () => new DocumentAttention.Arguments { Starts = flat, Indptr = indptr },
                    new Meaning { Keeps = at => at.KvPosition >= starts[at.Sequence].Last(start => start <= Math.Max(at.QoPosition, 0)) }
                );
            }

            case nameof(DocumentMaskAttention):
            {
                int[] documents = [.. Enumerable.Range(0, sequences * most).Select(i => i / 100 % 3)];
                return new Given<DocumentMaskAttention.Arguments>(
                    name,
                    () => new DocumentMaskAttention.Arguments { Documents = documents, MaxTokens = most },
                    new Meaning
                    {
                        Keeps = at => documents[(at.Sequence * most) + at.KvPosition] == documents[(at.Sequence * most) + at.QoPosition],
                    }
                );
            }

            case nameof(GatedAttention):
            {
                int[] starts = [.. queryTokens.Select((_, i) => queryTokens.Take(i).Sum())];
                float[] gates = Floats(queryTokens.Sum() * heads, -4, 4);
                return new Given<GatedAttention.Arguments>(
                    name,
                    () => new GatedAttention.Arguments { Gates = gates, Starts = starts },
                    new Meaning
                    {
                        Output = (element, _, at) =>
                            element / (1 + Math.Exp(-gates[((starts[at.Sequence] + at.QoIndex) * heads) + at.Head])),
                    }
                );
            }

            case nameof(ItemsAttention):
            {
                int prompt = random.Next(20);
                int[] items = [0, 40, 40, 140, 140, 900, 900, most];
                byte[] states = [1, 0, 1, 2];
                return new Given<ItemsAttention.Arguments>(
                    name,
                    () =>
                        new ItemsAttention.Arguments
                        {
                            Items = items,
                            States = states,
                            PromptLen = prompt,
                        },
                    new Meaning { Keeps = at => at.KvPosition < prompt || SeesItem(at.QoPosition - prompt, at.KvPosition - prompt) }
                );

                bool SeesItem(int query, int key) =>
                    Enumerable
                        .Range(0, states.Length)
                        .Where(i => query >= items[2 * i] && query < items[(2 * i) + 1])
                        .Any(i => states[i] == 2 || (states[i] == 1 && key >= items[2 * i] && key < items[(2 * i) + 1]));
            }

            case nameof(LocalGlobalAttention):
                return new Given<LocalGlobalAttention.Arguments>(
                    name,
                    () => new LocalGlobalAttention.Arguments { Window = window, AllHeadsSeeAll = false },
                    new Meaning { Keeps = at => at.Head >= heads / 2 || at.KvPosition < 4 || at.KvPosition >= at.QoPosition - window }
                );
            case nameof(PrefixLmAttention):
            {
                int[] prefix = [.. of.Lengths.Select(length => random.Next(length + 1))];
                return new Given<PrefixLmAttention.Arguments>(
                    name,
                    () => new PrefixLmAttention.Arguments { Prefix = prefix },
                    new Meaning { Keeps = at => at.KvPosition <= at.QoPosition || at.KvPosition < prefix[at.Sequence] }
                );
            }

            case nameof(QueryScaleAttention):
            {
                float[] scales = Floats(heads * of.HeadDim, 0.5f, 1.5f);
                return new Given<QueryScaleAttention.Arguments>(
                    name,
                    () => new QueryScaleAttention.Arguments { Scales = scales, TrainedLength = 1024 },
                    new Meaning
                    {
                        Query = (element, at) =>
                            element
                            * scales[(at.Head * of.HeadDim) + at.Element]
                            * Math.Max(1, Math.Log(Math.Max(at.QoPosition, 0) + 1) / Math.Log(1024)),
                    }
                );
            }

            case nameof(QuietAttention):
                return new Plain(name, new Meaning { Output = static (element, lse2, _) => element / (1 + Math.Pow(2, -lse2)) });
            case nameof(RelativeBiasAttention):
            {
                float[] bias = Floats(heads * 32, -2, 2);
                return new Given<RelativeBiasAttention.Arguments>(
                    name,
                    () => new RelativeBiasAttention.Arguments { Bias = bias },
                    new Meaning { Logit = (logit, at) => logit + bias[(at.Head * 32) + Bucket(at.QoPosition - at.KvPosition)] }
                );
            }

            case nameof(SinkAttention):
                return new Given<SinkAttention.Arguments>(
                    name,
                    () => new SinkAttention.Arguments { Sinks = perHead, Window = window },
                    new Meaning { Keeps = at => window == 0 || at.KvPosition > at.QoPosition - window, Sink = head => perHead[head] }
                );
            case nameof(SlidingWindowAttention):
                return new Plain(name, new Meaning { Keeps = static at => at.KvPosition > at.QoPosition - 1024 });
            case nameof(SlopedAttention):
            {
                // One below 0 as well: then the largest score is not the largest logit.
                float temperature = (0.5f + random.NextSingle()) * (of.Seed % 4 == 0 ? -1 : 1);
                return new Given<SlopedAttention.Arguments>(
                    name,
                    () => new SlopedAttention.Arguments { Slopes = perHead, Temperature = temperature },
                    new Meaning
                    {
                        Logit = (logit, at) => (logit / temperature) + (perHead[at.Head] * (at.KvPosition - at.QoPosition)),
                        Keeps = static at => at.KvPosition % 64 < 32 || at.QoPosition - at.KvPosition < 128,
                    }
                );
            }

            case nameof(SoftCapAttention):
            {
                float cap = 0.5f + (3 * random.NextSingle());
                return new Given<SoftCapAttention.Arguments>(
                    name,
                    () => new SoftCapAttention.Arguments { Cap = cap },
                    new Meaning { Logit = (logit, _) => cap * Math.Tanh(logit / cap) }
                );
            }

            case nameof(TemperatureAttention):
            {
                float[] sharpness = Floats(heads, 0.5f, 2);
                return new Given<TemperatureAttention.Arguments>(
                    name,
                    () => new TemperatureAttention.Arguments { Sharpness = sharpness, Growth = 0.1f },
                    new Meaning
                    {
                        Logit = (logit, at) => logit * sharpness[at.Head] * (1 + (0.1f * Math.Log(((at.QoPosition + 1) / 8192) + 1))),
                    }
                );
            }

            default:
            {
                uint[] ancestors = [.. Enumerable.Range(0, sequences * 32).Select(i => (uint)random.Next() | (1u << (i % 32)))];
                return new Given<TreeMaskAttention.Arguments>(
                    name,
                    () => new TreeMaskAttention.Arguments { Ancestors = ancestors },
                    new Meaning
                    {
                        Keeps = at =>
                            at.KvPosition < at.KvLen - at.QoLen
                            || (ancestors[(at.Sequence * 32) + at.QoIndex] & (1u << (at.KvPosition - at.KvLen + at.QoLen))) != 0,
                    }
                );
            }
        }

        float[] Floats(int count, float low, float high) =>
            [.. Enumerable.Range(0, count).Select(_ => low + ((high - low) * random.NextSingle()))];

        int[] Starts(int length) =>
            [
                0,
                .. Enumerable
                    .Range(0, random.Next(1, 6))
                    .Select(_ => random.Next(length + 1))
                    .Distinct()
                    .Where(static at => at > 0)
                    .Order(),
            ];
    }

    private static AttentionSpec SpecOf<TConfig>()
        where TConfig : IAttentionConfig => TConfig.Spec;

    private static bool IsOnGrid(int distance) =>
        distance < 64 || (distance < 256 && distance % 4 == 0) || (distance < 1024 && distance % 16 == 0) || distance % 64 == 0;

    /// <summary>16 of one distance each, and 16 up to 128, which grow alike.</summary>
    private static int Bucket(int distance) =>
        distance < 16 ? Math.Max(distance, 0) : Math.Min(31, 16 + (int)(16 * Math.Log(distance / 16.0, 8)));
}
