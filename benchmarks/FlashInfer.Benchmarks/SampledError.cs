namespace FlashInfer.Benchmarks;

/// <summary>The error of a benchmarked step against fp64 attention, on a few sequences and heads: a fast kernel must be right at full size too.</summary>
internal static class SampledError
{
    public static double Of(Workload workload, TensorView<BFloat16> query, TensorView<BFloat16> output)
    {
        AttentionSpec spec = workload.Spec;
        int batch = workload.Lengths.Length;
        double error = 0;
        double norm = 0;
        foreach (int row in new[] { 0, batch / 2, batch - 1 }.Distinct())
        {
            int length = workload.Lengths[row];
            BFloat16[] q = query.Rows(row, 1).ToArray();
            BFloat16[] o = output.Rows(row, 1).ToArray();
            foreach (int head in new[] { 0, spec.Heads - 1 }.Distinct())
            {
                double[] expected = Attend(workload, row, head, q, length);
                for (int d = 0; d < spec.HeadDim; d++)
                {
                    double actual = (float)o[(head * spec.HeadDim) + d];
                    error += Math.Pow(actual - expected[d], 2);
                    norm += expected[d] * expected[d];
                }
            }
        }

        return Math.Sqrt(error / norm);
    }

    private static double[] Attend(Workload workload, int row, int head, BFloat16[] query, int length)
    {
        AttentionSpec spec = workload.Spec;
        BFloat16[] keys = Gather(workload, workload.Cache.KeyPages(0).As<BFloat16>(), row, head / spec.GroupSize, length);
        BFloat16[] values = Gather(workload, workload.Cache.ValuePages(0).As<BFloat16>(), row, head / spec.GroupSize, length);
        double[] logits = new double[length];
        for (int token = 0; token < length; token++)
        {
            for (int d = 0; d < spec.HeadDim; d++)
            {
                logits[token] += (double)(float)query[(head * spec.HeadDim) + d] * (float)keys[(token * spec.HeadDim) + d];
            }

            logits[token] /= Math.Sqrt(spec.HeadDim);
        }

        double max = logits.Max();
        double sum = logits.Sum(logit => Math.Exp(logit - max));
        double[] output = new double[spec.HeadDim];
        for (int token = 0; token < length; token++)
        {
            double weight = Math.Exp(logits[token] - max) / sum;
            for (int d = 0; d < spec.HeadDim; d++)
            {
                output[d] += weight * (float)values[(token * spec.HeadDim) + d];
            }
        }

        return output;
    }

    private static BFloat16[] Gather(Workload workload, TensorView<BFloat16> pages, int row, int kvHead, int length)
    {
        AttentionSpec spec = workload.Spec;
        BFloat16[] gathered = new BFloat16[length * spec.HeadDim];
        int[] ids = workload.Sequences[row].Pages.ToArray();
        for (int p = 0; p < ids.Length; p++)
        {
            BFloat16[] page = pages.Rows(ids[p], 1).ToArray();
            for (int slot = 0; slot < spec.PageSize && (p * spec.PageSize) + slot < length; slot++)
            {
                int at = spec.KvLayout == KvLayout.Nhd ? (slot * spec.KvHeads) + kvHead : (kvHead * spec.PageSize) + slot;
                page.AsSpan(at * spec.HeadDim, spec.HeadDim).CopyTo(gathered.AsSpan(((p * spec.PageSize) + slot) * spec.HeadDim));
            }
        }

        return gathered;
    }
}
