namespace FlashInfer;

/// <summary>
/// Where an element of a query or an output stands: what a <see cref="QueryTransformAttribute"/> and an <see cref="OutputTransformAttribute"/>
/// know of it.
/// </summary>
public readonly record struct ElementContext
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

    /// <summary>The first element of a query token and head.</summary>
    internal static ElementContext Of(in LogitsContext at) =>
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
