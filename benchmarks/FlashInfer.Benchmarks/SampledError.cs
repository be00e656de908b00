namespace FlashInfer.Benchmarks;

/// <summary>
/// The error of a benchmarked step against fp64 attention, on a few sequences and heads: a fast kernel must be right at full size too.
/// Of any element type that a tensor can be read as floats of.
/// </summary>
/// <param name="Relative">The norm of the difference over that of the result.</param>
/// <param name="MaxAbs">The largest difference of one element.</param>
internal readonly record struct SampledError(double Relative, double MaxAbs)
{
    public static SampledError Of(Workload workload, TensorView query, TensorView output, int queryTokens)
    {
        AttentionSpec spec = workload.Spec;
        int batch = workload.Lengths.Length;
        double error = 0;
        double norm = 0;
        double most = 0;
        foreach (int row in new[] { 0, batch / 2, batch - 1 }.Distinct())
        {
            // A sequence's last query token, which sees all of its tokens.
            float[] q = Row(query, ((row + 1) * queryTokens) - 1);
            float[] o = Row(output, ((row + 1) * queryTokens) - 1);
            foreach (int kvHead in new[] { 0, spec.KvHeads - 1 }.Distinct())
            {
                float[] keys = Gather(workload, workload.Cache.KeyPages(0), row, kvHead);
                float[] values = Gather(workload, workload.Cache.ValuePages(0), row, kvHead);
                // The first head of the first KV head, the last of the last; both when there is only one.
                int first = kvHead == 0 ? 0 : spec.Heads - 1;
                foreach (int head in spec.KvHeads > 1 ? [first] : new[] { 0, spec.Heads - 1 }.Distinct())
                {
                    double[] expected = Attend(q.AsSpan(head * spec.HeadDim, spec.HeadDim), keys, values);
                    for (int d = 0; d < spec.HeadDim; d++)
                    {
                        double difference = Math.Abs(o[(head * spec.HeadDim) + d] - expected[d]);
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

    private static double[] Attend(ReadOnlySpan<float> query, float[] keys, float[] values)
    {
        int headDim = query.Length;
        double[] logits = new double[keys.Length / headDim];
        for (int token = 0; token < logits.Length; token++)
        {
            for (int d = 0; d < headDim; d++)
            {
                logits[token] += (double)query[d] * keys[(token * headDim) + d];
            }

            logits[token] /= Math.Sqrt(headDim);
        }

        double max = logits.Max();
        double sum = logits.Sum(logit => Math.Exp(logit - max));
        double[] output = new double[headDim];
        for (int token = 0; token < logits.Length; token++)
        {
            double weight = Math.Exp(logits[token] - max) / sum;
            for (int d = 0; d < headDim; d++)
            {
                output[d] += weight * values[(token * headDim) + d];
            }
        }

        return output;
    }

    private static float[] Gather(Workload workload, TensorView pages, int row, int kvHead)
    {
        AttentionSpec spec = workload.Spec;
        int length = workload.Lengths[row];
        float[] gathered = new float[length * spec.HeadDim];
        int[] ids = workload.Sequences[row].Pages.ToArray();
        for (int p = 0; p < ids.Length; p++)
        {
            float[] page = Row(pages, ids[p]);
            for (int slot = 0; slot < spec.PageSize && (p * spec.PageSize) + slot < length; slot++)
            {
                int at = spec.KvLayout == KvLayout.Nhd ? (slot * spec.KvHeads) + kvHead : (kvHead * spec.PageSize) + slot;
                page.AsSpan(at * spec.HeadDim, spec.HeadDim).CopyTo(gathered.AsSpan(((p * spec.PageSize) + slot) * spec.HeadDim));
            }
        }

        return gathered;
    }

    private static float[] Row(TensorView tensor, int row)
    {
        TensorView one = tensor.WithRows(row, 1, tensor.Dtype.Size());
        float[] values = new float[one.Shape.Elements];
        one.CopyTo(values);
        return values;
    }
}
