namespace FlashInfer;

/// <summary>Where an element of the output stands: what an <see cref="OutputTransformAttribute"/> knows of it.</summary>
public readonly record struct OutputContext
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

    /// <summary>Query tokens of the sequence in this call.</summary>
    public int QoLen { get; init; }

    /// <summary>Tokens of the sequence, those of this call included.</summary>
    public int KvLen { get; init; }

    /// <summary>The element's place in the head's.</summary>
    public int Element { get; init; }

    /// <summary>Base-2 log-sum-exp of the row, its sink included; -infinity where the query token sees no key.</summary>
    public float Lse2 { get; init; }

    /// <summary>The first element of a query token and head.</summary>
    internal static OutputContext Of(in LogitsContext at) =>
        new()
        {
            Head = at.Head,
            KvHead = at.KvHead,
            Sequence = at.Sequence,
            QoIndex = at.QoIndex,
            QoPosition = at.QoPosition,
            QoLen = at.QoLen,
            KvLen = at.KvLen,
        };
}
