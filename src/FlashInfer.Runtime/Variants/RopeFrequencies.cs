namespace FlashInfer;

/// <summary>
/// How far each pair of elements turns from a position to the next, in radians, as models make it: values for
/// <see cref="OptionArguments.RopeFrequencies"/>. Make them once and give them to every plan.
/// </summary>
public static class RopeFrequencies
{
    /// <summary>Those of Llama and most models: pair i of n turns by <c>theta^(-i / n) / scale</c>.</summary>
    /// <param name="rotaryDim">Elements of a head that turn, two for each pair.</param>
    /// <param name="theta">The base, <c>rope_theta</c> of a checkpoint.</param>
    /// <param name="scale">What positions are divided by.</param>
    public static double[] Llama(int rotaryDim, double theta = 10_000, double scale = 1)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rotaryDim);
        if (rotaryDim % 2 != 0)
        {
            throw new ArgumentException(
                $"rotaryDim is {rotaryDim}; expected an even number, for elements turn in pairs.",
                nameof(rotaryDim)
            );
        }

        CheckPositive(theta, nameof(theta));
        CheckPositive(scale, nameof(scale));
        double[] frequencies = new double[rotaryDim / 2];
        for (int i = 0; i < frequencies.Length; i++)
        {
            frequencies[i] = Math.Pow(theta, -2.0 * i / rotaryDim) / scale;
        }

        return frequencies;
    }

    /// <summary>
    /// Those of Llama 3.1: pairs that turn slowly, less than <paramref name="lowFrequencyFactor"/> times in the context that the model was
    /// first trained for, are slowed down by <paramref name="factor"/>; those that turn more than <paramref name="highFrequencyFactor"/>
    /// times are left alone; between the two it is a mixture.
    /// </summary>
    /// <param name="rotaryDim">Elements of a head that turn, two for each pair.</param>
    /// <param name="theta">The base, <c>rope_theta</c> of a checkpoint.</param>
    /// <param name="factor">How much longer the context became.</param>
    /// <param name="lowFrequencyFactor"><c>low_freq_factor</c> of a checkpoint.</param>
    /// <param name="highFrequencyFactor"><c>high_freq_factor</c> of a checkpoint, above <paramref name="lowFrequencyFactor"/>.</param>
    /// <param name="oldContextLength"><c>original_max_position_embeddings</c> of a checkpoint.</param>
    public static double[] Llama31(
        int rotaryDim,
        double theta = 500_000,
        double factor = 8,
        double lowFrequencyFactor = 1,
        double highFrequencyFactor = 4,
        int oldContextLength = 8192
    )
    {
        CheckPositive(factor, nameof(factor));
        CheckPositive(lowFrequencyFactor, nameof(lowFrequencyFactor));
        CheckPositive(highFrequencyFactor - lowFrequencyFactor, $"{nameof(highFrequencyFactor)} - {nameof(lowFrequencyFactor)}");
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(oldContextLength);
        double[] frequencies = Llama(rotaryDim, theta);
        foreach (ref double frequency in frequencies.AsSpan())
        {
            double turns = oldContextLength * frequency / (2 * Math.PI);
            double kept = Math.Clamp((turns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor), 0, 1);
            frequency *= kept + ((1 - kept) / factor);
        }

        return frequencies;
    }

    private static void CheckPositive(double value, string name)
    {
        if (!double.IsFinite(value) || value <= 0)
        {
            throw new ArgumentOutOfRangeException(name, value, $"{name} is {value}; expected a number above 0.");
        }
    }
}
