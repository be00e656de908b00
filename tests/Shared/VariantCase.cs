using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>A test variant and the arguments of a plan.</summary>
internal sealed record VariantCase(
    TestVariant Variant,
    float[] Slopes,
    float Temperature,
    int Window,
    int[] Starts,
    bool[] Groups,
    bool Flips
)
{
    public VariantArguments<TestArguments> Arguments => new(Values);

    private TestArguments Values =>
        new()
        {
            Slopes = Slopes,
            Temperature = Temperature,
            Window = Window,
            Starts = Starts,
            Groups = Groups,
            Flips = Flips,
        };

    /// <summary>Draws arguments for a variant.</summary>
    public static VariantCase Draw(TestVariant variant, DecodeCase of)
    {
        Random random = new(of.Seed * 41);
        return new VariantCase(
            variant,
            [.. Enumerable.Range(0, of.Heads).Select(_ => random.NextSingle() * 0.5f)],
            0.5f + random.NextSingle(),
            random.Next(200),
            [.. of.Lengths.Select(length => random.Next(-10, length + 10))],
            [.. Enumerable.Range(0, of.Heads).Select(_ => random.Next(4) != 0)],
            random.Next(2) == 0
        );
    }

    /// <summary>What the oracle asks about the logits of one query token.</summary>
    /// <param name="kvHeads">Key/value heads.</param>
    /// <param name="sequence">Place of the sequence in the batch.</param>
    /// <param name="qoIndex">The query token's place in its sequence's.</param>
    /// <param name="qoLen">Query tokens of the sequence.</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    public OracleVariant Oracle(int kvHeads, int sequence, int qoIndex, int qoLen, int kvLen)
    {
        int group = Slopes.Length / kvHeads;
        LogitsContext row = new()
        {
            Sequence = sequence,
            QoIndex = qoIndex,
            QoPosition = kvLen - qoLen + qoIndex,
            QoLen = qoLen,
            KvLen = kvLen,
        };
        return new OracleVariant(
            (logit, head, token) =>
            {
                LogitsContext at = row with { Head = head, KvHead = head / group, KvPosition = token };
                TestArguments a = Values;
                return token >= Variant.FirstKey(row, a) && Variant.Keep(at, a) ? Variant.Transform(logit, at, a) : double.NegativeInfinity;
            },
            head => Variant.Sink(head, Values)
        );
    }

    public override string ToString() =>
        $"{Variant} (temperature {Temperature}, window {Window}, starts [{string.Join(", ", Starts)}], flips {Flips})";
}
