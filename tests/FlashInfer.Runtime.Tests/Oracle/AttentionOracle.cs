namespace FlashInfer.Tests.Oracle;

/// <summary>Attention as a textbook writes it, in fp64, on one sequence's contiguous keys and values. Slow and dumb on purpose.</summary>
internal static class AttentionOracle
{
    /// <summary>One query token over all tokens of a sequence.</summary>
    /// <param name="query">[heads, headDim].</param>
    /// <param name="keys">[kvLen, kvHeads, headDim].</param>
    /// <param name="values">[kvLen, kvHeads, headDim].</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    /// <param name="heads">Query heads.</param>
    /// <param name="kvHeads">Key/value heads.</param>
    /// <param name="headDim">Elements of a head.</param>
    /// <param name="smScale">Factor of the logits.</param>
    /// <param name="output">Receives [heads, headDim].</param>
    /// <param name="lse2">Receives the base-2 LSE, [heads].</param>
    public static void Decode(
        ReadOnlySpan<float> query,
        ReadOnlySpan<float> keys,
        ReadOnlySpan<float> values,
        int kvLen,
        int heads,
        int kvHeads,
        int headDim,
        double smScale,
        Span<double> output,
        Span<double> lse2
    )
    {
        double[] logits = new double[kvLen];
        for (int head = 0; head < heads; head++)
        {
            int kvHead = head / (heads / kvHeads);
            double max = double.NegativeInfinity;
            for (int token = 0; token < kvLen; token++)
            {
                double dot = 0;
                for (int d = 0; d < headDim; d++)
                {
                    dot += (double)query[(head * headDim) + d] * keys[(((token * kvHeads) + kvHead) * headDim) + d];
                }

                logits[token] = dot * smScale;
                max = Math.Max(max, logits[token]);
            }

            Span<double> row = output.Slice(head * headDim, headDim);
            row.Clear();
            double sum = 0;
            for (int token = 0; token < kvLen; token++)
            {
                double weight = Math.Exp(logits[token] - max);
                sum += weight;
                for (int d = 0; d < headDim; d++)
                {
                    row[d] += weight * values[(((token * kvHeads) + kvHead) * headDim) + d];
                }
            }

            for (int d = 0; d < headDim && kvLen > 0; d++)
            {
                row[d] /= sum;
            }

            lse2[head] = kvLen == 0 ? double.NegativeInfinity : (max + Math.Log(sum)) / Math.Log(2);
        }
    }
}
