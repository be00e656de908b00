using FlashInfer.Attention;

namespace FlashInfer;

/// <content>What is refused before arguments are written.</content>
internal sealed partial class OptionVariant
{
    // Of Plan, whose caller gave the arguments.
    private static readonly string s_parameter = "arguments";

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
}
