namespace FlashInfer.Tests.Oracle;

/// <summary>A variant of attention for one query token.</summary>
/// <param name="Logit">What takes a logit's place: of the logit, the head and the token; -infinity hides the token.</param>
/// <param name="Sink">A head's logit without a value; -infinity for none.</param>
/// <param name="Turn">Turns a head's row of the query or a key, at a position; null where nothing turns.</param>
/// <param name="Position">Position of the query token.</param>
/// <param name="Query">What takes an element's place, of a head and the element's place in it; null where none is replaced.</param>
/// <param name="Output">The same of the output, and the row's base-2 LSE.</param>
internal sealed record OracleVariant(
    Func<double, int, int, double> Logit,
    Func<int, double> Sink,
    Action<double[], int>? Turn = null,
    int Position = 0,
    Func<double, int, int, double>? Query = null,
    Func<double, int, int, double, double>? Output = null
);

/// <summary>Attention as a textbook writes it, in fp64, on one sequence's contiguous keys and values. Slow and dumb on purpose.</summary>
internal static class AttentionOracle
{
    /// <summary>One query token over all tokens of a sequence.</summary>
    /// <param name="query">[heads, headDim].</param>
    /// <param name="keys">[kvLen, kvHeads, headDim].</param>
    /// <param name="values">[kvLen, kvHeads, valueDim].</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    /// <param name="heads">Query heads.</param>
    /// <param name="kvHeads">Key/value heads.</param>
    /// <param name="headDim">Elements of a head of query and key.</param>
    /// <param name="smScale">Factor of the logits.</param>
    /// <param name="output">Receives [heads, valueDim].</param>
    /// <param name="lse2">Receives the base-2 LSE, [heads].</param>
    /// <param name="variant">A variant of attention.</param>
    /// <param name="valueDim">Elements of a head of value and output; <paramref name="headDim"/> when null.</param>
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
        Span<double> lse2,
        OracleVariant? variant = null,
        int? valueDim = null
    )
    {
        int width = valueDim ?? headDim;
        double[] logits = new double[kvLen];
        double[][]? queries = Replaced(query, 1, heads, headDim, variant, variant?.Query, variant?.Position ?? 0);
        double[][]? replacedKeys = Replaced(keys, kvLen, kvHeads, headDim, variant, null, 0);
        for (int head = 0; head < heads; head++)
        {
            int kvHead = head / (heads / kvHeads);
            double sink = variant?.Sink(head) ?? double.NegativeInfinity;
            double max = sink;
            for (int token = 0; token < kvLen; token++)
            {
                double dot = 0;
                int key = (token * kvHeads) + kvHead;
                for (int d = 0; d < headDim; d++)
                {
                    double left = queries is null ? query[(head * headDim) + d] : queries[head][d];
                    dot += left * (replacedKeys is null ? keys[(key * headDim) + d] : replacedKeys[key][d]);
                }

                logits[token] = variant?.Logit(dot * smScale, head, token) ?? dot * smScale;
                max = Math.Max(max, logits[token]);
            }

            Span<double> row = output.Slice(head * width, width);
            row.Clear();
            bool seesNothing = double.IsNegativeInfinity(max);
            double sum = seesNothing ? 0 : Math.Exp(sink - max);
            for (int token = 0; token < kvLen && !seesNothing; token++)
            {
                double weight = Math.Exp(logits[token] - max);
                sum += weight;
                for (int d = 0; d < width; d++)
                {
                    row[d] += weight * values[(((token * kvHeads) + kvHead) * width) + d];
                }
            }

            lse2[head] = seesNothing ? double.NegativeInfinity : (max + Math.Log(sum)) / Math.Log(2);
            for (int d = 0; d < width; d++)
            {
                double element = seesNothing ? 0 : row[d] / sum;
                row[d] = variant?.Output?.Invoke(element, head, d, lse2[head]) ?? element;
            }
        }
    }

    /// <summary>The rows of [tokens, heads, headDim], replaced and then turned for positions from one on; null where they stay.</summary>
    private static double[][]? Replaced(
        ReadOnlySpan<float> values,
        int tokens,
        int heads,
        int headDim,
        OracleVariant? variant,
        Func<double, int, int, double>? replace,
        int position
    )
    {
        if (variant?.Turn is null && replace is null)
        {
            return null;
        }

        double[][] rows = new double[tokens * heads][];
        for (int i = 0; i < rows.Length; i++)
        {
            rows[i] = new double[headDim];
            for (int d = 0; d < headDim; d++)
            {
                double element = values[(i * headDim) + d];
                rows[i][d] = replace?.Invoke(element, i % heads, d) ?? element;
            }

            variant?.Turn?.Invoke(rows[i], position + (i / heads));
        }

        return rows;
    }
}
