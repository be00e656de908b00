namespace FlashInfer;

/// <summary>
/// Functions for variants of attention that become an instruction or two of the GPU, and are as right as that is. On the CPU they are those
/// of <see cref="MathF"/>.
/// </summary>
/// <remarks>
/// In prefill a hook runs for each logit, and the exact functions take several times as long. <see cref="MathF.ReciprocalEstimate"/> and
/// <see cref="MathF.ReciprocalSqrtEstimate"/> of .NET become instructions too.
/// </remarks>
public static class FastMath
{
    /// <summary>e to a power. On a GPU within 2^-21 of the result for powers between -8 and 8, twice that for each doubling; 0 below 2^-126.</summary>
    /// <param name="x">The power.</param>
    /// <returns>e^x.</returns>
    public static float Exp(float x) => MathF.Exp(x);

    /// <summary>2 to a power. On a GPU within 2^-22 of the result; 0 below 2^-126.</summary>
    /// <param name="x">The power.</param>
    /// <returns>2^x.</returns>
    public static float Exp2(float x) => float.Exp2(x);

    /// <summary>1 / (1 + e^-x). On a GPU the absolute error is up to 2^-11.</summary>
    /// <param name="x">A number.</param>
    /// <returns>Between 0 and 1.</returns>
    public static float Sigmoid(float x) => 1 / (1 + MathF.Exp(-x));

    /// <summary>The hyperbolic tangent. On a GPU within 2^-10 of the result, as the soft cap of FlashInfer's kernels and of ours.</summary>
    /// <param name="x">A number.</param>
    /// <returns>Between -1 and 1.</returns>
    public static float Tanh(float x) => MathF.Tanh(x);
}
