using FlashInfer.Tests.Oracle;
using FlashInfer.Tests.Variants;

namespace FlashInfer.Tests;

/// <summary>A variant as a user writes it, through everything that the generator makes of it, and arguments of a plan.</summary>
internal abstract partial class CatalogueCase(string name, AttentionVariant variant, Meaning meaning) : VariantCase
{
    public override AttentionVariant Variant => variant;

    public override bool IsApproximate => name is nameof(SoftCapAttention);

    public override bool ReplacesCausality => name is nameof(PrefixLmAttention);

    public override OracleVariant Oracle(int kvHeads, int sequence, int qoIndex, int qoLen, int kvLen) =>
        meaning.Of(Spec(name).Heads / kvHeads, sequence, qoIndex, qoLen, kvLen);

    public override string ToString() => name;

    /// <summary>One whose plans take no arguments.</summary>
    private sealed class Plain(string name, Meaning meaning) : CatalogueCase(name, Spec(name).Variant!, meaning)
    {
        public override void Plan(IPagedWrapper wrapper, Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal) =>
            wrapper.Plan(sequences, queryTokens, smScale, causal);

        public override void Plan(BatchPrefillWithRaggedKvCache wrapper, int[] qoIndptr, int[] kvIndptr, float? smScale, bool causal) =>
            wrapper.Plan(qoIndptr, kvIndptr, smScale, causal);

        public override void Run(SinglePrefill single, in RaggedTensors tensors, float? smScale, bool causal) =>
            single.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse, smScale, causal);

        public override void Run(SingleDecode single, in RaggedTensors tensors, float? smScale) =>
            single.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse, smScale);
    }

    private sealed class Given<TArguments>(string name, Func<TArguments> arguments, Meaning meaning)
        : CatalogueCase(name, Spec(name).Variant!, meaning)
        where TArguments : allows ref struct
    {
        public override void Plan(IPagedWrapper wrapper, Sequence[] sequences, int[]? queryTokens, float? smScale, bool causal) =>
            wrapper.Plan(sequences, queryTokens, new VariantArguments<TArguments>(arguments()), smScale, causal);

        public override void Plan(BatchPrefillWithRaggedKvCache wrapper, int[] qoIndptr, int[] kvIndptr, float? smScale, bool causal) =>
            wrapper.Plan(qoIndptr, kvIndptr, new VariantArguments<TArguments>(arguments()), smScale, causal);

        public override void Run(SinglePrefill single, in RaggedTensors tensors, float? smScale, bool causal) =>
            single.Run(
                tensors.Query,
                tensors.Key,
                tensors.Value,
                new VariantArguments<TArguments>(arguments()),
                tensors.Output,
                tensors.Lse,
                smScale,
                causal
            );

        public override void Run(SingleDecode single, in RaggedTensors tensors, float? smScale) =>
            single.Run(
                tensors.Query,
                tensors.Key,
                tensors.Value,
                new VariantArguments<TArguments>(arguments()),
                tensors.Output,
                tensors.Lse,
                smScale
            );
    }
}
