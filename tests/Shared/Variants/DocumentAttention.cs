namespace FlashInfer.Tests.Variants;

/// <summary>Sequences are packed documents: a token sees those of its own. Where documents begin stands in a sorted list for each sequence.</summary>
[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class DocumentAttention
{
    [VariantArguments]
    public readonly ref struct Arguments
    {
        /// <summary>First tokens of the documents of all sequences.</summary>
        public required ReadOnlySpan<int> Starts { get; init; }

        /// <summary>Where the starts of a sequence begin, and one more.</summary>
        public required ReadOnlySpan<int> Indptr { get; init; }
    }

    [FirstKey]
    private static int DocumentStart(in LogitsContext at, in Arguments a)
    {
        // The last start that is not behind the token.
        int low = a.Indptr[at.Sequence];
        int high = a.Indptr[at.Sequence + 1];
        for (int step = 0; step < 32 && low + 1 < high; step++)
        {
            int middle = low + (high - low) / 2;
            if (a.Starts[middle] <= at.QoPosition)
            {
                low = middle;
            }
            else
            {
                high = middle;
            }
        }

        return a.Starts[low];
    }
}
