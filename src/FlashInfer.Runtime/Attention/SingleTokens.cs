using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>
/// Single tokens of a step of prefill over a quantised cache, which go to decode's kernel: it widens in registers what it reads, and waits for
/// memory alone, where Hopper's prefill widens in shared memory for whole tiles of query tokens, at .75 of that speed, or .6 where keys turn.
/// </summary>
internal sealed class SingleTokens : IDisposable
{
    // Another launch has to be worth it: with so many tokens of a KV head it is, by what was measured on an H100 of headDim 128.
    private const int LeastTokens = 1 << 18;

    private readonly int _kvHeads;
    private readonly bool[] _isSingle;
    private readonly PrefillPart _singles;
    private readonly PrefillPart _others;

    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    public SingleTokens(PagedKvCache cache, int maxSequences)
    {
        _kvHeads = cache.Spec.KvHeads;
        _isSingle = new bool[maxSequences];
        _singles = new PrefillPart(maxSequences);
        _others = new PrefillPart(maxSequences);
        Core = new DecodeCore(cache, maxSequences, maxQueryTokens: 1, Determinism.Reproducible);
    }

    /// <summary>Decode, which runs them.</summary>
    public DecodeCore Core { get; }

    /// <summary>Whether the last plan has any.</summary>
    public bool Any => _singles.Count > 0;

    /// <summary>Plans the single tokens of some sequences, where that gains, and sends the list to the device.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="freshTokens">As <see cref="PlannedBatch.FreshTokens"/>.</param>
    /// <param name="scaleLog2">The factor of the logits.</param>
    /// <param name="stream">The stream.</param>
    /// <returns>The other sequences.</returns>
    public PrefillBatch Plan(PrefillBatch batch, int freshTokens, float scaleLog2, CudaStream? stream)
    {
        int count = 0;
        long tokens = 0;
        for (int i = 0; i < batch.Lengths.Length; i++)
        {
            _isSingle[i] = batch.QueryTokens[i] == 1;
            if (_isSingle[i])
            {
                count++;
                tokens += batch.Lengths[i];
            }
        }

        if (count == 0 || (count < batch.Lengths.Length && tokens * _kvHeads < LeastTokens))
        {
            _singles.Clear();
            Core.Clear(stream);
            return batch;
        }

        _singles.Take(batch, _isSingle, taken: true);
        _others.Take(batch, _isSingle, taken: false);
        Core.Plan(_singles.Of(batch), freshTokens, scaleLog2, stream);
        return Others(batch);
    }

    /// <summary>Of what was planned, the other sequences.</summary>
    public PrefillBatch Others(PrefillBatch batch) => Any ? _others.Of(batch) : batch;

    /// <summary>What the last plan looks like; <paramref name="batch"/> as it was planned.</summary>
    public PlanInfo Info(in PrefillBatch batch, int sequences, int rows) => Core.Info(_singles.Of(batch), sequences, rows);

    public void Dispose() => Core.Dispose();
}
