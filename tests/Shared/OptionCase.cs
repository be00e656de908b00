using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>Options and the arguments of a plan, with what they mean in fp64.</summary>
internal sealed class OptionCase : VariantCase
{
    private readonly AttentionOptions _options;
    private readonly int[] _queryTokens;
    private readonly int[] _lengths;
    private readonly float _cap;
    private readonly int _window;
    private readonly float[] _slopes;
    private readonly float[] _sinks;

    // Of each sequence, [query tokens, tokens].
    private readonly bool[][] _masks;

    /// <summary>Each option alone, all pairs that go together, and all at once.</summary>
    public static IReadOnlyList<AttentionOptions> Sets { get; } =
    [
        .. Enumerable
            .Range(1, 63)
            .Select(bits => (AttentionOptions)bits)
            .Where(options => !options.HasFlag(AttentionOptions.CustomMask | AttentionOptions.PackedCustomMask))
            .Where(options => int.PopCount((int)options) is 1 or 2 or 5),
    ];

    public OptionCase(AttentionOptions options, DecodeCase of, float? cap = null, int? window = null)
    {
        Random random = new(of.Seed * 43);
        _options = options;
        _lengths = of.Lengths;
        _queryTokens = of.QueryTokens ?? [.. of.Lengths.Select(_ => 1)];
        _cap = cap ?? 0.5f + (3 * random.NextSingle());
        _window = window ?? random.Next(-1, 150);
        _slopes = [.. Enumerable.Range(0, of.Heads).Select(_ => random.NextSingle() * 0.5f)];
        _sinks = [.. Enumerable.Range(0, of.Heads).Select(_ => (random.NextSingle() * 6) - 3)];
        _masks =
        [
            .. _lengths.Select((length, i) => Enumerable.Range(0, length * _queryTokens[i]).Select(_ => random.Next(3) != 0).ToArray()),
        ];
    }

    public override AttentionVariant Variant => AttentionVariant.Of(_options)!;

    public override bool ReplacesCausality => Has(AttentionOptions.CustomMask | AttentionOptions.PackedCustomMask);

    private VariantArguments<OptionArguments> Arguments =>
        new(
            new OptionArguments
            {
                LogitsSoftCap = Has(AttentionOptions.LogitsSoftCap) ? _cap : 0,
                WindowLeft = Has(AttentionOptions.SlidingWindow) ? _window : -1,
                AlibiSlopes = Has(AttentionOptions.Alibi) ? _slopes : [],
                Sinks = Has(AttentionOptions.Sinks) ? _sinks : [],
                CustomMask = Has(AttentionOptions.CustomMask) ? _masks.SelectMany(mask => mask).ToArray() : [],
                PackedCustomMask = Has(AttentionOptions.PackedCustomMask) ? _masks.SelectMany(Pack).ToArray() : [],
            }
        );

    public override void Plan(IPagedWrapper wrapper, Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal) =>
        wrapper.Plan(sequences, queryTokens, Arguments, smScale, causal);

    public override void Plan(BatchPrefillWithRaggedKvCache wrapper, int[] qoIndptr, int[] kvIndptr, float? smScale, bool causal) =>
        wrapper.Plan(qoIndptr, kvIndptr, Arguments, smScale, causal);

    public override void Run(SinglePrefill single, in RaggedTensors tensors, float? smScale, bool causal) =>
        single.Run(tensors.Query, tensors.Key, tensors.Value, Arguments, tensors.Output, tensors.Lse, smScale, causal);

    public override void Run(SingleDecode single, in RaggedTensors tensors, float? smScale) =>
        single.Run(tensors.Query, tensors.Key, tensors.Value, Arguments, tensors.Output, tensors.Lse, smScale);

    public override OracleVariant Oracle(int kvHeads, int sequence, int qoIndex, int qoLen, int kvLen)
    {
        int position = _lengths[sequence] - _queryTokens[sequence] + qoIndex;
        return new OracleVariant(
            (logit, head, token) =>
            {
                logit += Has(AttentionOptions.Alibi) ? (double)_slopes[head] * (token - qoIndex) : 0;
                logit = Has(AttentionOptions.LogitsSoftCap) ? _cap * Math.Tanh(logit / _cap) : logit;
                bool isSeen = !Has(AttentionOptions.SlidingWindow) || _window < 0 || token >= position - _window;
                isSeen &= !ReplacesCausality || _masks[sequence][(qoIndex * _lengths[sequence]) + token];
                return isSeen ? logit : double.NegativeInfinity;
            },
            head => Has(AttentionOptions.Sinks) ? _sinks[head] : double.NegativeInfinity
        );
    }

    public override string ToString() => $"{_options} (cap {_cap}, window {_window})";

    private static byte[] Pack(bool[] mask)
    {
        byte[] bytes = new byte[(mask.Length + 7) / 8];
        for (int i = 0; i < mask.Length; i++)
        {
            bytes[i / 8] |= (byte)(mask[i] ? 1 << (i % 8) : 0);
        }

        return bytes;
    }

    private bool Has(AttentionOptions options) => (_options & options) != 0;
}
