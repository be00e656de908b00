namespace FlashInfer;

/// <summary>
/// The library's own options as a variant of attention, composed as <c>flashinfer::Compose</c> of kernels/attention/variants.cuh composes
/// them: the arguments of each begin at a multiple of 16 bytes.
/// </summary>
internal sealed partial class OptionVariant(AttentionOptions options, int rotaryDim)
    : AttentionVariant<OptionArguments>(HooksOf(options), OptionUnits.Cuda(options, rotaryDim), NamesOf(options))
{
    private const AttentionOptions Masks = OptionUnits.Masks;
    private const AttentionOptions Ropes = OptionUnits.Ropes;

    /// <summary>The options.</summary>
    public AttentionOptions Options => options;

    /// <summary>Elements of a head that turn, where an option turns them; 0 for all of them.</summary>
    public int RotaryDim => rotaryDim;

    internal override bool Rotates => Has(Ropes);

    /// <summary>A mask says all: causality is not asked beside it.</summary>
    internal override bool ReplacesCausality => Has(Masks);

    internal override bool IsPositionFree => options is AttentionOptions.LogitsSoftCap or AttentionOptions.None;

    public override void Apply(Span<float> logits, LogitsContext first, VariantReader arguments)
    {
        Values values = new(options, arguments);
        if (Has(AttentionOptions.Alibi))
        {
            float slope = values.AlibiSlopes[first.Head];
            for (int i = 0; i < logits.Length; i++)
            {
                logits[i] += slope * (first.KvPosition + i - first.QoIndex);
            }
        }

        if (Has(AttentionOptions.LogitsSoftCap))
        {
            foreach (ref float logit in logits)
            {
                logit = values.LogitsSoftCap * MathF.Tanh(logit / values.LogitsSoftCap);
            }
        }

        if (Has(Masks))
        {
            long at = ((long)first.QoIndex * first.KvLen) + first.KvPosition;
            bool isPacked = Has(AttentionOptions.PackedCustomMask);
            at += values.MaskStarts[first.Sequence] * (isPacked ? 8L : 1);
            for (int i = 0; i < logits.Length; i++, at++)
            {
                bool sees = isPacked ? (values.PackedMask[(int)(at >> 3)] >> (int)(at & 7) & 1) != 0 : values.Mask[(int)at];
                logits[i] = sees ? logits[i] : float.NegativeInfinity;
            }
        }

        (int skipped, int seen) = Skipped(first, values);
        int begin = Math.Max(0, skipped - first.KvPosition);
        int end = Math.Max(0, Math.Min(logits.Length, seen - first.KvPosition));
        logits[Math.Min(begin, end)..end].Fill(float.NegativeInfinity);
    }

    public override int FirstKey(LogitsContext at, VariantReader arguments)
    {
        int left = new Values(options, arguments).WindowLeft;
        return left < 0 ? 0 : at.QoPosition - left;
    }

    internal override bool SkipsKeys => Has(AttentionOptions.MultiItemScoring);

    internal override (int First, int End) Skipped(LogitsContext at, VariantReader arguments) =>
        Skipped(at, new Values(options, arguments));

    public override float Sink(int head, VariantReader arguments) => new Values(options, arguments).Sinks[head];

    internal override Rotation Rotation(VariantReader arguments) =>
        new(new Values(options, arguments).RopeAngles, Has(AttentionOptions.RopeInterleaved));

    public override bool Equals(object? obj) => obj is OptionVariant other && other.Options == Options && other.RotaryDim == RotaryDim;

    public override int GetHashCode() => HashCode.Combine(Options, RotaryDim);

    public override string ToString() => RotaryDim == 0 ? Options.ToString() : $"{Options}, {RotaryDim} elements turn";

    /// <summary>The keys between the prefix and the query token's item, with the item's delimiter.</summary>
    private (int First, int End) Skipped(LogitsContext at, in Values values)
    {
        int prefix = SkipsKeys ? values.PrefixLengths[at.Sequence] : int.MaxValue;
        return at.QoPosition < prefix
            ? default
            : (prefix, at.QoPosition + 1 - values.ItemPositions[values.ItemStarts[at.Sequence] + at.QoPosition - prefix]);
    }

    private static VariantHooks HooksOf(AttentionOptions options)
    {
        if (options == AttentionOptions.None || !OptionUnits.IsLegal(options))
        {
            throw new ArgumentOutOfRangeException(
                nameof(options),
                options,
                $"The options are {options}; expected one or more of {OptionUnits.All}, of {Masks} and of {Ropes} one at most."
            );
        }

        VariantHooks hooks = VariantHooks.None;
        hooks |= (options & (AttentionOptions.Alibi | AttentionOptions.LogitsSoftCap)) != 0 ? VariantHooks.Transform : 0;
        hooks |= (options & (Masks | AttentionOptions.MultiItemScoring)) != 0 ? VariantHooks.Mask : 0;
        hooks |= (options & AttentionOptions.SlidingWindow) != 0 ? VariantHooks.FirstKey : 0;
        hooks |= (options & AttentionOptions.Sinks) != 0 ? VariantHooks.Sink : 0;
        return hooks;
    }

    private static string NamesOf(AttentionOptions options) =>
        options
            .ToString()
            .Replace(nameof(AttentionOptions.SlidingWindow), nameof(OptionArguments.WindowLeft), StringComparison.Ordinal)
            .Replace(nameof(AttentionOptions.Alibi), nameof(OptionArguments.AlibiSlopes), StringComparison.Ordinal)
            .Replace(nameof(AttentionOptions.RopeInterleaved), nameof(AttentionOptions.Rope), StringComparison.Ordinal)
            .Replace(nameof(AttentionOptions.Rope), nameof(OptionArguments.RopeFrequencies), StringComparison.Ordinal)
            .Replace(
                nameof(AttentionOptions.MultiItemScoring),
                $"{nameof(OptionArguments.PrefixLengths)}, {nameof(OptionArguments.ItemPositions)}",
                StringComparison.Ordinal
            );

    private bool Has(AttentionOptions some) => (options & some) != 0;
}
