using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>Some sequences of a prefill step, which are planned and launched for themselves.</summary>
/// <param name="maxSequences">Sequences of the largest batch.</param>
internal sealed class PrefillPart(int maxSequences)
{
    private readonly int[] _queryTokens = new int[maxSequences];
    private readonly int[] _lengths = new int[maxSequences];
    private readonly int[] _starts = new int[maxSequences];
    private readonly int[] _rows = new int[maxSequences];
    private readonly int[] _places = new int[maxSequences];

    /// <summary>Sequences of the part.</summary>
    public int Count { get; private set; }

    /// <summary>Takes the chosen sequences of a batch, or the others.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="chosen">Whether each sequence is chosen.</param>
    /// <param name="taken">Whether those that are chosen are taken, or those that are not.</param>
    public void Take(in PrefillBatch batch, ReadOnlySpan<bool> chosen, bool taken)
    {
        int count = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            if (chosen[i] == taken)
            {
                _queryTokens[count] = batch.QueryTokens[i];
                _lengths[count] = batch.Lengths[i];
                _starts[count] = batch.Starts[i];
                _rows[count] = batch.Rows[i];
                _places[count++] = batch.Place(i);
            }
        }

        Count = count;
    }

    /// <summary>Takes none.</summary>
    public void Clear() => Count = 0;

    /// <summary>The part as a batch.</summary>
    /// <param name="whole">What it was taken from.</param>
    public PrefillBatch Of(PrefillBatch whole) =>
        whole.Of(
            _queryTokens.AsSpan(0, Count),
            _lengths.AsSpan(0, Count),
            _starts.AsSpan(0, Count),
            _rows.AsSpan(0, Count),
            _places.AsSpan(0, Count)
        );
}
