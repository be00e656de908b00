using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>A variant of attention and the arguments of a plan, with what they mean in fp64.</summary>
internal abstract class VariantCase
{
    /// <summary>The variant.</summary>
    public abstract AttentionVariant Variant { get; }

    /// <summary>Whether a mask says what is seen, instead of causality.</summary>
    public virtual bool ReplacesCausality => false;

    /// <summary>Whether a GPU computes it by instructions that are right to ten bits or so.</summary>
    public virtual bool IsApproximate => false;

    /// <summary>Plans with the arguments, and the query tokens given, or without, where null.</summary>
    public abstract void Plan(IPagedWrapper wrapper, Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal);

    /// <summary>Plans with the arguments.</summary>
    public abstract void Plan(BatchPrefillWithRaggedKvCache wrapper, int[] qoIndptr, int[] kvIndptr, float? smScale, bool causal);

    /// <summary>Attends with the arguments.</summary>
    public abstract void Run(SinglePrefill single, in RaggedTensors tensors, float? smScale, bool causal);

    /// <summary>Attends with the arguments.</summary>
    public abstract void Run(SingleDecode single, in RaggedTensors tensors, float? smScale);

    /// <summary>What the oracle asks about the logits of one query token.</summary>
    /// <param name="kvHeads">Key/value heads.</param>
    /// <param name="sequence">Place of the sequence in the batch.</param>
    /// <param name="qoIndex">The query token's place in its sequence's.</param>
    /// <param name="qoLen">Query tokens of the sequence.</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    public abstract OracleVariant Oracle(int kvHeads, int sequence, int qoIndex, int qoLen, int kvLen);
}

/// <summary>A test variant and the arguments of a plan.</summary>
internal sealed class TestVariantCase(TestVariant variant, DecodeCase of) : VariantCase
{
    private readonly float[] _slopes = Draw(of, 1, of.Heads, random => random.NextSingle() * 0.5f);
    private readonly float _temperature = Draw(of, 2, 1, random => 0.5f + random.NextSingle())[0];
    private readonly int _window = Draw(of, 3, 1, random => random.Next(200))[0];
    private readonly int[] _starts = [.. of.Lengths.Select((length, i) => Draw(of, 4 + i, 1, random => random.Next(-10, length + 10))[0])];
    private readonly bool[] _groups = Draw(of, 5, of.Heads, random => random.Next(4) != 0);
    private readonly bool _flips = of.Seed % 2 == 0;

    public override AttentionVariant Variant => variant;

    private VariantArguments<TestArguments> Arguments => new(Values);

    private TestArguments Values =>
        new()
        {
            Slopes = _slopes,
            Temperature = _temperature,
            Window = _window,
            Starts = _starts,
            Groups = _groups,
            Flips = _flips,
        };

    public override void Plan(IPagedWrapper wrapper, Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal) =>
        wrapper.Plan(sequences, queryTokens, Arguments, smScale, causal);

    public override void Plan(BatchPrefillWithRaggedKvCache wrapper, int[] qoIndptr, int[] kvIndptr, float? smScale, bool causal) =>
        wrapper.Plan(qoIndptr, kvIndptr, Arguments, smScale, causal);

    public override void Run(SinglePrefill single, in RaggedTensors tensors, float? smScale, bool causal) =>
        single.Run(tensors.Query, tensors.Key, tensors.Value, Arguments, tensors.Output, tensors.Lse, smScale, causal);

    public override void Run(SingleDecode single, in RaggedTensors tensors, float? smScale) =>
        single.Run(tensors.Query, tensors.Key, tensors.Value, Arguments, tensors.Output, tensors.Lse, smScale);

    public override OracleVariant Oracle(int kvHeads, int sequence, int qoIndex, int qoLen, int kvLen) =>
        new Meaning
        {
            Keeps = at => at.KvPosition >= variant.FirstKey(at, Values) && variant.Keep(at, Values),
            Logit = (logit, at) => variant.Transform(logit, at, Values),
            Sink = head => variant.Sink(head, Values),
            Query = variant.Hooks.HasFlag(VariantHooks.QueryTransform) ? (element, at) => variant.Query(element, at, Values) : null,
            Output = variant.Hooks.HasFlag(VariantHooks.OutputTransform)
                ? (element, lse2, at) => variant.Output(element, lse2, at, Values)
                : null,
        }.Of(_slopes.Length / kvHeads, sequence, qoIndex, qoLen, kvLen);

    public override string ToString() =>
        $"{variant} (temperature {_temperature}, window {_window}, starts [{string.Join(", ", _starts)}], flips {_flips})";

    private static T[] Draw<T>(DecodeCase of, int what, int count, Func<Random, T> one)
    {
        Random random = new((of.Seed * 41) + what);
        return [.. Enumerable.Range(0, count).Select(_ => one(random))];
    }
}
