namespace FlashInfer;

/// <summary>On what the bits of a sequence's results may depend.</summary>
public enum Determinism
{
    /// <summary>
    /// The same plan over the same data on the same device gives the same bits every time. Which parts a sequence is cut into, and so its
    /// last bits, may depend on the whole batch: the fastest.
    /// </summary>
    Reproducible,

    /// <summary>
    /// A sequence's bits depend on nothing but itself, its query tokens, the wrapper's <c>maxQueryTokens</c> and the device: not on the
    /// batch it stands in, nor on its place there. Costs some speed and a larger workspace.
    /// </summary>
    BatchInvariant,
}

internal static class Determinisms
{
    /// <summary>Throws unless the value is one of the enum's.</summary>
    public static void Check(this Determinism determinism)
    {
        if (!Enum.IsDefined(determinism))
        {
            throw new ArgumentOutOfRangeException(
                nameof(determinism),
                determinism,
                $"Expected {string.Join(" or ", Enum.GetNames<Determinism>())}."
            );
        }
    }
}
