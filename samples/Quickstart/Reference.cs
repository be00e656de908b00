using FlashInfer;
using Config = QuickstartAttention;

namespace Quickstart;

/// <summary>Attention as the textbook has it, in double precision: slow, and what the kernels are measured against.</summary>
internal static class Reference
{
    /// <summary>What bfloat16 inputs and outputs allow: the output's own rounding is about 1.7e-3.</summary>
    public const double Tolerance = 4e-3;

    /// <summary>‖output - reference‖ / ‖reference‖ for one query token over all keys.</summary>
    public static double RelativeError(
        ReadOnlySpan<BFloat16> output,
        ReadOnlySpan<BFloat16> query,
        ReadOnlySpan<BFloat16> keys,
        ReadOnlySpan<BFloat16> values
    )
    {
        double[] reference = Attend(query, keys, values);
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < reference.Length; i++)
        {
            difference += Math.Pow(output[i] - reference[i], 2);
            norm += Math.Pow(reference[i], 2);
        }

        return Math.Sqrt(difference / norm);
    }

    /// <summary>softmax(q · K / sqrt(headDim)) · V for each head; keys and values are [tokens, kvHeads, headDim].</summary>
    private static double[] Attend(ReadOnlySpan<BFloat16> query, ReadOnlySpan<BFloat16> keys, ReadOnlySpan<BFloat16> values)
    {
        const int Row = Config.KvHeads * Config.HeadDim;
        int tokens = keys.Length / Row;
        double[] output = new double[Config.Heads * Config.HeadDim];
        double[] weights = new double[tokens];
        for (int head = 0; head < Config.Heads; head++)
        {
            int kvHead = head / Config.GroupSize;
            double sum = 0;
            for (int token = 0; token < tokens; token++)
            {
                double dot = 0;
                for (int i = 0; i < Config.HeadDim; i++)
                {
                    dot += (double)query[(head * Config.HeadDim) + i] * keys[(token * Row) + (kvHead * Config.HeadDim) + i];
                }

                // Inputs lie in [-1, 1], so the exponent is at most sqrt(128) and needs no maximum taken off.
                weights[token] = Math.Exp(dot / Math.Sqrt(Config.HeadDim));
                sum += weights[token];
            }

            for (int token = 0; token < tokens; token++)
            {
                for (int i = 0; i < Config.HeadDim; i++)
                {
                    output[(head * Config.HeadDim) + i] += weights[token] / sum * values[(token * Row) + (kvHead * Config.HeadDim) + i];
                }
            }
        }

        return output;
    }
}
