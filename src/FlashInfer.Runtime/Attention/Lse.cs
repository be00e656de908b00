namespace FlashInfer;

/// <summary>
/// Between the log-sum-exp of this library, which is base 2 because kernels compute powers of 2, and the natural one of other libraries.
/// -infinity, the value of a row that sees no token, stays.
/// </summary>
public static class Lse
{
    private const double Ln2 = 0.693147180559945309;
    private const double Log2E = 1.44269504088896341;

    /// <summary>A base-2 log-sum-exp as a natural one: times ln 2.</summary>
    /// <param name="lse2">The base-2 log-sum-exp.</param>
    public static float ToNaturalLog(float lse2) => (float)(lse2 * Ln2);

    /// <summary>A natural log-sum-exp as a base-2 one: times log2 e.</summary>
    /// <param name="lse">The natural log-sum-exp.</param>
    public static float FromNaturalLog(float lse) => (float)(lse * Log2E);

    /// <summary>Base-2 log-sum-exps as natural ones.</summary>
    /// <param name="lse2">Base-2 log-sum-exps.</param>
    /// <param name="lse">Where the natural ones go; as long as <paramref name="lse2"/>, and may be the same span.</param>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static void ToNaturalLog(ReadOnlySpan<float> lse2, Span<float> lse) => Multiply(lse2, Ln2, lse, nameof(lse));

    /// <summary>Natural log-sum-exps as base-2 ones.</summary>
    /// <param name="lse">Natural log-sum-exps.</param>
    /// <param name="lse2">Where the base-2 ones go; as long as <paramref name="lse"/>, and may be the same span.</param>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static void FromNaturalLog(ReadOnlySpan<float> lse, Span<float> lse2) => Multiply(lse, Log2E, lse2, nameof(lse2));

    // In double, so that a value is rounded once.
    private static void Multiply(ReadOnlySpan<float> source, double factor, Span<float> destination, string name)
    {
        if (source.Length != destination.Length)
        {
            throw new ArgumentException(
                $"{name} holds {destination.Length} values; expected {source.Length}, as many as are converted.",
                name
            );
        }

        for (int i = 0; i < source.Length; i++)
        {
            destination[i] = (float)(source[i] * factor);
        }
    }
}
