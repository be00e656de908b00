namespace FlashInfer.Measurement;

/// <summary>A sequence of a benchmarked step on the host, to be attended to again.</summary>
/// <param name="FirstRow">Its first query token's row in query and output.</param>
/// <param name="QueryTokens">Its query tokens, the last ones of the sequence.</param>
/// <param name="IsCausal">Whether they see what stands before them, or all.</param>
/// <param name="Keys">[tokens, heads, headDim], of the heads that are compared.</param>
/// <param name="Values">[tokens, heads, valueDim].</param>
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
            var rows =
                from token in Few(sequence.QueryTokens)
                let q = Rows(query, sequence.FirstRow + token, 1)
                let o = Rows(output, sequence.FirstRow + token, 1)
                from head in Ends(spec.Heads)
                select (token, head, q, o);
            (float[] Actual, double[] Expected)[] compared =
            [
                .. rows.ToArray()
                    .AsParallel()
                    .Select(row =>
                        (
                            row.o[(row.head * spec.ValueDim)..((row.head + 1) * spec.ValueDim)],
                            Attend(spec, row.q, sequence, row.token, row.head)
                        )
                    ),
            ];
            foreach ((float actual, double expected) in compared.SelectMany(row => row.Actual.Zip(row.Expected)))
            {
                double difference = Math.Abs(actual - expected);
                // Math.Max, unlike a comparison, lets NaN through.
                most = Math.Max(most, difference);
                error += difference * difference;
                norm += expected * expected;
            }
        }

        return new SampledError(Math.Sqrt(error / norm), most);
    }

    /// <summary>The first, the middle and the last of so many.</summary>
    public static IEnumerable<int> Few(int count) => new[] { 0, count / 2, count - 1 }.Distinct();

    /// <summary>Keys or values of a sequence, of the heads that are compared, on the host: of all heads they would take longer to read than to time.</summary>
    /// <param name="kvHeads">Heads of the tensor.</param>
    /// <param name="dim">Elements of a head.</param>
    /// <param name="tokens">Tokens of the sequence.</param>
    /// <param name="blockTokens">Tokens of a block.</param>
    /// <param name="layout">How a block holds them.</param>
    /// <param name="block">The block from some token on, of at most so many.</param>
    public static float[] Gather(int kvHeads, int dim, int tokens, int blockTokens, KvLayout layout, Func<int, int, TensorView> block)
    {
        int[] heads = [.. Ends(kvHeads)];
        float[] gathered = new float[tokens * heads.Length * dim];
        float[] buffer = new float[blockTokens * kvHeads * dim];
        for (int first = 0; first < tokens; first += blockTokens)
        {
            int count = Math.Min(blockTokens, tokens - first);
            TensorView view = block(first, count);
            view.CopyTo(buffer.AsSpan(0, (int)view.Shape.Elements));
            for (int slot = 0; slot < count; slot++)
            {
                for (int i = 0; i < heads.Length; i++)
                {
                    int from = layout == KvLayout.Nhd ? (slot * kvHeads) + heads[i] : (heads[i] * blockTokens) + slot;
                    buffer.AsSpan(from * dim, dim).CopyTo(gathered.AsSpan((((first + slot) * heads.Length) + i) * dim));
                }
            }
        }

        return gathered;
    }

    /// <summary>The same of tokens that lie one after the other.</summary>
    public static float[] Gather(TensorView ragged, int first, int tokens) =>
        Gather(
            ragged.Shape[1],
            ragged.Shape[2],
            tokens,
            Math.Min(tokens, 512),
            KvLayout.Nhd,
            (from, count) => ragged.Rows(first + from, count)
        );

    /// <summary>Some rows of a tensor, whatever its other dimensions, on the host.</summary>
    private static float[] Rows(TensorView tensor, int first, int count)
    {
        TensorView some = tensor.Rows(first, count);
        float[] values = new float[some.Shape.Elements];
        some.CopyTo(values);
        return values;
    }

    /// <summary>The heads that are compared: the first and the last.</summary>
    private static IEnumerable<int> Ends(int heads) => new[] { 0, heads - 1 }.Distinct();

    private static double[] Attend(AttentionSpec spec, float[] queryRow, SampledSequence sequence, int token, int head)
    {
        int headDim = spec.HeadDim;
        int heads = Ends(spec.KvHeads).Count();
        int kvHead = head / spec.GroupSize == 0 ? 0 : heads - 1;
        int length = sequence.Keys.Length / (heads * headDim);
        int visible = sequence.IsCausal ? length - sequence.QueryTokens + token + 1 : length;
        ReadOnlySpan<float> query = queryRow.AsSpan(head * headDim, headDim);
        double[] logits = new double[visible];
        for (int i = 0; i < visible; i++)
        {
            ReadOnlySpan<float> key = sequence.Keys.AsSpan(((i * heads) + kvHead) * headDim, headDim);
            for (int d = 0; d < headDim; d++)
            {
                logits[i] += (double)query[d] * key[d];
            }

            logits[i] /= Math.Sqrt(headDim);
        }

        double max = logits.Max();
        double sum = logits.Sum(logit => Math.Exp(logit - max));
        double[] output = new double[spec.ValueDim];
        for (int i = 0; i < visible; i++)
        {
            double weight = Math.Exp(logits[i] - max) / sum;
            ReadOnlySpan<float> value = sequence.Values.AsSpan(((i * heads) + kvHead) * spec.ValueDim, spec.ValueDim);
            for (int d = 0; d < output.Length; d++)
            {
                output[d] += weight * value[d];
            }
        }

        return output;
    }
}
