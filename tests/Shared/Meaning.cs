using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>What a variant means, in fp64; what is null it does not do.</summary>
internal sealed record Meaning
{
    public Func<double, LogitsContext, double>? Logit { get; init; }

    public Func<LogitsContext, bool>? Keeps { get; init; }

    public Func<int, double>? Sink { get; init; }

    public Func<double, ElementContext, double>? Query { get; init; }

    /// <summary>Of an element, the log-sum-exp, and where it stands.</summary>
    public Func<double, double, ElementContext, double>? Output { get; init; }

    /// <summary>What it is to the oracle for one query token.</summary>
    /// <param name="group">Query heads of a key/value head.</param>
    /// <param name="sequence">Place of the sequence in the batch.</param>
    /// <param name="qoIndex">The query token's place in its sequence's.</param>
    /// <param name="qoLen">Query tokens of the sequence.</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    public OracleVariant Of(int group, int sequence, int qoIndex, int qoLen, int kvLen)
    {
        return new OracleVariant(
            (logit, head, token) =>
            {
                LogitsContext at = At(head) with { KvPosition = token };
                return Keeps?.Invoke(at) == false ? double.NegativeInfinity : Logit?.Invoke(logit, at) ?? logit;
            },
            Sink ?? (static _ => double.NegativeInfinity),
            Query: Query is { } query ? (element, head, d) => query(element, ElementContext.Of(At(head)) with { Element = d }) : null,
            Output: Output is { } output
                ? (element, head, d, lse2) => output(element, lse2, ElementContext.Of(At(head)) with { Element = d })
                : null
        );

        LogitsContext At(int head) =>
            new()
            {
                Head = head,
                KvHead = head / group,
                Sequence = sequence,
                QoIndex = qoIndex,
                QoPosition = kvLen - qoLen + qoIndex,
                QoLen = qoLen,
                KvLen = kvLen,
            };
    }
}
