namespace FlashInfer;

/// <summary>
/// Where a logit stands: what a variant of attention knows of it. Positions count the tokens of the sequence from 0.
/// </summary>
/// <remarks>
/// FlashInfer's ALiBi adds <c>slope * (KvPosition - QoIndex)</c>, not the distance to <see cref="QoPosition"/>: the output is the same, the LSE
/// is not.
/// </remarks>
public readonly record struct LogitsContext
{
    /// <summary>Query head.</summary>
    public int Head { get; init; }

    /// <summary>The key/value head that the query head reads: <c>Head / GroupSize</c>.</summary>
    public int KvHead { get; init; }

    /// <summary>Place of the sequence in the planned batch.</summary>
    public int Sequence { get; init; }

    /// <summary>The query token's place among those of its sequence in this call.</summary>
    public int QoIndex { get; init; }

    /// <summary>Position of the query token in its sequence: <c>KvLen - QoLen + QoIndex</c>.</summary>
    public int QoPosition { get; init; }

    /// <summary>Position of the key in its sequence.</summary>
    public int KvPosition { get; init; }

    /// <summary>Query tokens of the sequence in this call.</summary>
    public int QoLen { get; init; }

    /// <summary>Tokens of the sequence, those of this call included.</summary>
    public int KvLen { get; init; }
}
