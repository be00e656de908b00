using FlashInfer.Attention;

namespace FlashInfer;

/// <summary>
/// The library's own options as a variant of attention, composed as <c>flashinfer::Compose</c> of kernels/attention/variants.cuh composes
/// them: the arguments of each begin at a multiple of 16 bytes.
/// </summary>
internal sealed class OptionVariant(AttentionOptions options, int rotaryDim)
    : AttentionVariant<OptionArguments>(HooksOf(options), OptionUnits.Cuda(options, rotaryDim), NamesOf(options))
{
    // Of Plan, whose caller gave the arguments.
    private static readonly string s_parameter = "arguments";

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

    public override void Write(scoped in OptionArguments arguments, VariantWriter writer) =>
        throw new InvalidOperationException("Options are written for the batch that they are planned with.");

    internal override void Write(scoped in OptionArguments arguments, in BatchShape batch, VariantWriter writer)
    {
        Check(arguments, batch);
        if (Has(AttentionOptions.SlidingWindow))
        {
            writer.Align();
            writer.Write(arguments.WindowLeft);
        }

        if (Has(AttentionOptions.Alibi))
        {
            writer.Align();
            writer.Write(arguments.AlibiSlopes);
        }

        if (Has(AttentionOptions.LogitsSoftCap))
        {
            writer.Align();
            writer.Write(arguments.LogitsSoftCap);
        }

        if (Has(AttentionOptions.Sinks))
        {
            writer.Align();
            writer.Write(arguments.Sinks);
        }

        if (Has(Masks))
        {
            writer.Align();
            Span<int> starts = writer.Reserve<int>(batch.QueryTokens.Length);
            long start = 0;
            for (int i = 0; i < starts.Length; i++)
            {
                starts[i] = checked((int)start);
                start += Length(batch, i);
            }

            if (Has(AttentionOptions.CustomMask))
            {
                writer.Write(arguments.CustomMask);
            }
            else
            {
                writer.Write(arguments.PackedCustomMask);
            }
        }

        if (Has(Ropes))
        {
            writer.Align();
            Span<uint> angles = writer.Reserve<uint>(arguments.RopeFrequencies.Length);
            for (int i = 0; i < angles.Length; i++)
            {
                angles[i] = Angle(arguments.RopeFrequencies[i]);
            }
        }

        if (Has(AttentionOptions.MultiItemScoring))
        {
            writer.Align();
            writer.Write(arguments.PrefixLengths);
            Span<int> starts = writer.Reserve<int>(batch.Lengths.Length);
            int start = 0;
            for (int i = 0; i < starts.Length; i++)
            {
                starts[i] = start;
                start += batch.Lengths[i] - arguments.PrefixLengths[i];
            }

            writer.Write(arguments.ItemPositions);
        }
    }

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

    /// <summary>A frequency in 2^-32 turns; whole turns are none.</summary>
    private static uint Angle(double frequency) =>
        unchecked((uint)(long)Math.Round(Math.IEEERemainder(frequency / (2 * Math.PI), 1) * 4294967296.0));

    private bool Has(AttentionOptions some) => (options & some) != 0;

    /// <summary>Elements or bytes of a sequence's mask.</summary>
    private long Length(in BatchShape batch, int sequence)
    {
        long pairs = (long)batch.QueryTokens[sequence] * batch.Lengths[sequence];
        return Has(AttentionOptions.CustomMask) ? pairs : (pairs + 7) / 8;
    }

    private void Check(in OptionArguments arguments, in BatchShape batch)
    {
        long mask = 0;
        for (int i = 0; i < batch.QueryTokens.Length && Has(Masks); i++)
        {
            mask += Length(batch, i);
        }

        Option(
            AttentionOptions.SlidingWindow,
            nameof(arguments.WindowLeft),
            arguments.WindowLeft != -1,
            isLegal: true,
            arguments.WindowLeft,
            ""
        );
        Option(
            AttentionOptions.LogitsSoftCap,
            nameof(arguments.LogitsSoftCap),
            arguments.LogitsSoftCap != 0,
            float.IsFinite(arguments.LogitsSoftCap) && arguments.LogitsSoftCap > 0,
            arguments.LogitsSoftCap,
            "a number above 0"
        );
        Lengths(
            AttentionOptions.Alibi,
            nameof(arguments.AlibiSlopes),
            arguments.AlibiSlopes.Length,
            batch.Heads,
            "one for each query head"
        );
        Lengths(AttentionOptions.Sinks, nameof(arguments.Sinks), arguments.Sinks.Length, batch.Heads, "one for each query head");
        Lengths(
            AttentionOptions.CustomMask,
            nameof(arguments.CustomMask),
            arguments.CustomMask.Length,
            mask,
            "query tokens times tokens, of all sequences of the batch"
        );
        Lengths(
            AttentionOptions.PackedCustomMask,
            nameof(arguments.PackedCustomMask),
            arguments.PackedCustomMask.Length,
            mask,
            "query tokens times tokens in bits, rounded up to bytes, of all sequences of the batch"
        );
        Lengths(
            Has(Ropes) ? Options & Ropes : Ropes,
            nameof(arguments.RopeFrequencies),
            arguments.RopeFrequencies.Length,
            (RotaryDim == 0 ? batch.HeadDim : RotaryDim) / 2,
            "one for each pair of elements that turns"
        );
        CheckItems(arguments, batch);
        foreach (double frequency in arguments.RopeFrequencies)
        {
            Option(Ropes, nameof(arguments.RopeFrequencies), isGiven: true, double.IsFinite(frequency), frequency, "finite numbers");
        }
    }

    private void CheckItems(in OptionArguments arguments, in BatchShape batch)
    {
        const AttentionOptions Option = AttentionOptions.MultiItemScoring;
        ReadOnlySpan<int> prefixes = arguments.PrefixLengths;
        Lengths(Option, nameof(arguments.PrefixLengths), prefixes.Length, batch.Lengths.Length, "one for each sequence");
        long behind = 0;
        for (int i = 0; i < prefixes.Length; i++)
        {
            if (prefixes[i] < 0 || prefixes[i] > batch.Lengths[i])
            {
                throw new ArgumentException(
                    $"PrefixLengths[{i}] is {prefixes[i]}; expected 0 to {batch.Lengths[i]}, the tokens of the sequence.",
                    s_parameter
                );
            }

            behind += batch.Lengths[i] - prefixes[i];
        }

        ReadOnlySpan<int> places = arguments.ItemPositions;
        Lengths(Option, nameof(arguments.ItemPositions), places.Length, behind, "one for each token behind a prefix");
        for (int i = 0, at = 0; i < prefixes.Length; i++)
        {
            // The delimiter of the first item stands behind the prefix, or is its last token. None goes back behind one before it: kernels
            // leave out what lies between the prefix and the first item of some query tokens.
            for (int token = 0, most = 1; token < batch.Lengths[i] - prefixes[i]; token++, at++)
            {
                if (places[at] < 0 || places[at] > most)
                {
                    throw new ArgumentException(
                        $"ItemPositions[{at}] is {places[at]}, of token {token} behind the prefix of sequence {i}; expected 0 for a delimiter, or up to {most}, one more than the place before it.",
                        s_parameter
                    );
                }

                most = places[at] + 1;
            }
        }
    }

    private void Lengths(AttentionOptions option, string name, int length, long expected, string what) =>
        Option(option, $"{name}.Length", length > 0, length == expected, length, $"{expected}, {what}");

    private void Option<T>(AttentionOptions option, string name, bool isGiven, bool isLegal, T value, string expected)
    {
        if (!Has(option) && isGiven)
        {
            throw new ArgumentException(
                $"{name} is {value}, but the configuration has no {option}; its options are {Options}. Add the option to the configuration.",
                s_parameter
            );
        }

        if (Has(option) && !isLegal)
        {
            throw new ArgumentException($"{name} is {value}; expected {expected}.", s_parameter);
        }
    }

    /// <summary>The arguments as they lie in memory.</summary>
    private readonly ref struct Values
    {
        public readonly int WindowLeft;
        public readonly ReadOnlySpan<float> AlibiSlopes;
        public readonly float LogitsSoftCap;
        public readonly ReadOnlySpan<float> Sinks;
        public readonly ReadOnlySpan<int> MaskStarts;
        public readonly ReadOnlySpan<bool> Mask;
        public readonly ReadOnlySpan<byte> PackedMask;
        public readonly ReadOnlySpan<uint> RopeAngles;
        public readonly ReadOnlySpan<int> PrefixLengths;
        public readonly ReadOnlySpan<int> ItemStarts;
        public readonly ReadOnlySpan<int> ItemPositions;

        public Values(AttentionOptions options, VariantReader reader)
        {
            if ((options & AttentionOptions.SlidingWindow) != 0)
            {
                reader.Align();
                WindowLeft = reader.ReadInt32();
            }

            if ((options & AttentionOptions.Alibi) != 0)
            {
                reader.Align();
                AlibiSlopes = reader.ReadSpan<float>();
            }

            if ((options & AttentionOptions.LogitsSoftCap) != 0)
            {
                reader.Align();
                LogitsSoftCap = reader.ReadSingle();
            }

            if ((options & AttentionOptions.Sinks) != 0)
            {
                reader.Align();
                Sinks = reader.ReadSpan<float>();
            }

            if ((options & Masks) != 0)
            {
                reader.Align();
                MaskStarts = reader.ReadSpan<int>();
                if ((options & AttentionOptions.CustomMask) != 0)
                {
                    Mask = reader.ReadSpan<bool>();
                }
                else
                {
                    PackedMask = reader.ReadSpan<byte>();
                }
            }

            if ((options & Ropes) != 0)
            {
                reader.Align();
                RopeAngles = reader.ReadSpan<uint>();
            }

            if ((options & AttentionOptions.MultiItemScoring) != 0)
            {
                reader.Align();
                PrefixLengths = reader.ReadSpan<int>();
                ItemStarts = reader.ReadSpan<int>();
                ItemPositions = reader.ReadSpan<int>();
            }
        }
    }
}
