namespace FlashInfer.Tests.Variants;

/// <summary>Several items scored at once: each sees the prompt and itself, and items that are switched off see the prompt only.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class ItemsAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>[items, 2]: first token and the one behind the last, counted from the prompt's end.</summary>
        public required ReadOnlySpan<int> Items { get; init; }

        /// <summary>One for each item: 1 is on.</summary>
        public required ReadOnlySpan<byte> States { get; init; }

        public required int PromptLen { get; init; }
    }

    [LogitsMask]
    private static bool Keep(in LogitsContext at, in Arguments a)
    {
        if (at.KvPosition < a.PromptLen)
        {
            return true;
        }

        int query = at.QoPosition - a.PromptLen;
        int key = at.KvPosition - a.PromptLen;
        bool keeps = false;
        for (int item = 0; item < a.States.Length; item++)
        {
            int first = a.Items[2 * item];
            int end = a.Items[2 * item + 1];
            if (query < first || query >= end)
            {
                continue;
            }

            switch (a.States[item])
            {
                case 0:
                    break;
                case 1:
                    keeps |= key >= first && key < end;
                    break;
                default:
                    keeps = true;
                    break;
            }
        }

        return keeps;
    }
}
