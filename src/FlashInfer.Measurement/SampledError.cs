namespace FlashInfer.Measurement;

/// <summary>A sequence of a benchmarked step on the host, to be attended to again.</summary>
/// <param name="FirstRow">Its first query token's row in query and output.</param>
/// <param name="QueryTokens">Its query tokens, the last ones of the sequence.</param>
/// <param name="IsCausal">Whether they see what stands before them, or all.</param>
/// <param name="Keys">[tokens, kvHeads, headDim].</param>
/// <param name="Values">[tokens, kvHeads, valueDim].</param>
internal sealed record SampledSequence(int FirstRow, int QueryTokens, bool IsCausal, float[] Keys, float[] Values);

/// <summary>
/// The error of a benchmarked step against fp64 attention, on a few sequences, query tokens and heads: a fast kernel must be right at full
/// size too. Of any element type that a tensor can be read as floats of.
/// </summary>
/// <param name="Relative">The norm of the difference over that of the result.</param>
/// <param name="MaxAbs">The largest difference of one element.</param>
internal readonly record struct SampledError(double Relative, double MaxAbs)
{
    /// <summary>Compares the first, the middle and the last query token of each sequence, and their first and last head.</summary>
    public static SampledError Of(AttentionSpec spec, TensorView query, TensorView output, IEnumerable<SampledSequence> sequences)
    {
        double error = 0;
        double norm = 0;
        double most = 0;
        foreach (SampledSequence sequence in sequences)
        {
            int length = sequence.Keys.Length / (spec.KvHeads * spec.HeadDim);
            foreach (int token in Few(sequence.QueryTokens))
            {
                int visible = sequence.IsCausal ? length - sequence.QueryTokens + token + 1 : length;
                float[] q = Rows(query, sequence.FirstRow + token, 1);
                float[] o = Rows(output, sequence.FirstRow + token, 1);
                foreach (int head in new[] { 0, spec.Heads - 1 }.Distinct())
                {
                    double[] expected = Attend(spec, q, sequence, head, visible);
                    for (int d = 0; d < spec.ValueDim; d++)
                    {
                        double difference = Math.Abs(o[(head * spec.ValueDim) + d] - expected[d]);
                        // Math.Max, unlike a comparison, lets NaN through.
                        most = Math.Max(most, difference);
                        error += difference * difference;
                        norm += expected[d] * expected[d];
                    }
                }
            }
        }

        return new SampledError(Math.Sqrt(error / norm), most);
    }

    /// <summary>The first, the middle and the last of so many.</summary>
    public static IEnumerable<int> Few(int count) => new[] { 0, count / 2, count - 1 }.Distinct();

    /// <summary>Some rows of a tensor, whatever its other dimensions, on the host.</summary>
    public static float[] Rows(TensorView tensor, int first, int count)
    {
        TensorView some = tensor.WithRows(first, count, tensor.Dtype.Size());
        float[] values = new float[some.Shape.Elements];
        some.CopyTo(values);
        return values;
    }

    private static double[] Attend(AttentionSpec spec, float[] queryRow, SampledSequence sequence, int head, int visible)
    {
        int headDim = spec.HeadDim;
        int kvHead = head / spec.GroupSize;
        ReadOnlySpan<float> query = queryRow.AsSpan(head * headDim, headDim);
        double[] logits = new double[visible];
        for (int token = 0; token < visible; token++)
        {
            ReadOnlySpan<float> key = sequence.Keys.AsSpan(((token * spec.KvHeads) + kvHead) * headDim, headDim);
            for (int d = 0; d < headDim; d++)
            {
                logits[token] += (double)query[d] * key[d];
            }

            logits[token] /= Math.Sqrt(headDim);
        }

        double max = logits.Max();
        double sum = logits.Sum(logit => Math.Exp(logit - max));
        double[] output = new double[spec.ValueDim];
        for (int token = 0; token < visible; token++)
        {
            double weight = Math.Exp(logits[token] - max) / sum;
            ReadOnlySpan<float> value = sequence.Values.AsSpan(((token * spec.KvHeads) + kvHead) * spec.ValueDim, spec.ValueDim);
            for (int d = 0; d < output.Length; d++)
            {
                output[d] += weight * value[d];
            }
        }

        return output;
    }
}
