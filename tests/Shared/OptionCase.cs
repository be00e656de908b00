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
            .Range(1, 511)
            .Select(bits => (AttentionOptions)bits)
            .Where(options => !options.HasFlag(AttentionOptions.CustomMask | AttentionOptions.PackedCustomMask))
            .Where(options => !options.HasFlag(AttentionOptions.Rope | AttentionOptions.RopeInterleaved))
            .Where(options => int.PopCount((int)options) is 1 or 2 or 7),
    ];

    private readonly int _rotaryDim;
    private readonly double[] _frequencies;
    private readonly int[] _prefixes;

    // Of each sequence's tokens behind the prefix.
    private readonly int[][] _places;

    public OptionCase(AttentionOptions options, DecodeCase of, float? cap = null, int? window = null, int? rotaryDim = null)
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
        _rotaryDim = rotaryDim ?? (Has(Ropes) && random.Next(2) == 0 ? 8 * random.Next(1, (of.HeadDim / 8) + 1) : 0);
        int turning = _rotaryDim == 0 ? of.HeadDim : _rotaryDim;
        _frequencies =
            random.Next(2) == 0
                ? RopeFrequencies.Llama(turning, scale: 1 + random.Next(2))
                : RopeFrequencies.Llama31(turning, oldContextLength: 200);
        _prefixes = [.. _lengths.Select(length => random.Next(length + 1))];
        _places = [.. _lengths.Select((length, i) => Places(random, length - _prefixes[i]))];
    }

    private static AttentionOptions Ropes => AttentionOptions.Rope | AttentionOptions.RopeInterleaved;

    public override AttentionVariant Variant => AttentionVariant.Of(_options, _rotaryDim)!;

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
                RopeFrequencies = Has(Ropes) ? _frequencies : [],
                PrefixLengths = Has(AttentionOptions.MultiItemScoring) ? _prefixes : [],
                ItemPositions = Has(AttentionOptions.MultiItemScoring) ? _places.SelectMany(places => places).ToArray() : [],
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
                isSeen &= !Has(AttentionOptions.MultiItemScoring) || SeesItem(sequence, position, token);
                return isSeen ? logit : double.NegativeInfinity;
            },
            head => Has(AttentionOptions.Sinks) ? _sinks[head] : double.NegativeInfinity,
            Has(Ropes) ? Turn : null,
            position
        );
    }

    public override string ToString() => $"{_options} (cap {_cap}, window {_window}, rotary dim {_rotaryDim})";

    /// <summary>Items of up to 40 tokens, a delimiter before each; the first may have its own at the end of the prefix.</summary>
    private static int[] Places(Random random, int tokens)
    {
        int[] places = new int[tokens];
        int place = random.Next(2);
        for (int i = 0; i < tokens; i++)
        {
            places[i] = place;
            place = random.Next(20) == 0 ? 0 : place + 1;
        }

        return places;
    }

    private bool SeesItem(int sequence, int position, int token)
    {
        int behind = position - _prefixes[sequence];
        return token < _prefixes[sequence] || behind < 0 || token > position - _places[sequence][behind];
    }

    private void Turn(double[] row, int position)
    {
        bool neighbours = Has(AttentionOptions.RopeInterleaved);
        for (int i = 0; i < _frequencies.Length; i++)
        {
            int first = neighbours ? 2 * i : i;
            int second = neighbours ? first + 1 : first + _frequencies.Length;
            (double sin, double cos) = Math.SinCos(position * _frequencies[i]);
            (row[first], row[second]) = ((row[first] * cos) - (row[second] * sin), (row[second] * cos) + (row[first] * sin));
        }
    }

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
