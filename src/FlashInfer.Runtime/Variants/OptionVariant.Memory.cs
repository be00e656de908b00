using FlashInfer.Attention;

namespace FlashInfer;

/// <content>The arguments as they lie in memory: how they are written, and read.</content>
internal sealed partial class OptionVariant
{
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

    /// <summary>A frequency in 2^-32 turns; whole turns are none.</summary>
    private static uint Angle(double frequency) =>
        unchecked((uint)(long)Math.Round(Math.IEEERemainder(frequency / (2 * Math.PI), 1) * 4294967296.0));

    /// <summary>Elements or bytes of a sequence's mask.</summary>
    private long Length(in BatchShape batch, int sequence)
    {
        long pairs = (long)batch.QueryTokens[sequence] * batch.Lengths[sequence];
        return Has(AttentionOptions.CustomMask) ? pairs : (pairs + 7) / 8;
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
