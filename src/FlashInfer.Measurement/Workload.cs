using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>A cache full of sequences on scattered pages with random keys and values, deep enough that a pass over its layers leaves the caches of the processor cold.</summary>
internal sealed class Workload : IDisposable
{
    public Workload(Device device, Rig rig, AttentionSpec spec, int[] lengths, long targetBytes = 4L << 30)
    {
        Device = device;
        Spec = spec;
        Lengths = lengths;
        KvBytes = lengths.Sum(length => (long)length) * spec.KvHeads * spec.HeadDim * 2 * spec.KvDtype.Size();
        int layers = (int)Math.Clamp(targetBytes / Math.Max(1, KvBytes), 2, 96);
        int pages = lengths.Sum(length => (length + spec.PageSize - 1) / spec.PageSize) + 1;
        Cache = new PagedKvCache(device, spec, layers, pages);
        for (int layer = 0; layer < layers; layer++)
        {
            rig.Fill(Cache.KeyPages(layer), (uint)(2 * layer) + 1);
            rig.Fill(Cache.ValuePages(layer), (uint)(2 * layer) + 2);
        }

        Scatter();
        Sequences = [.. lengths.Select(_ => Cache.NewSequence())];
        Cache.BeginForward(Sequences, lengths);
        Cache.EndForward(Sequences);
    }

    public Device Device { get; }

    public AttentionSpec Spec { get; }

    public int[] Lengths { get; }

    public long KvBytes { get; }

    public PagedKvCache Cache { get; }

    public Sequence[] Sequences { get; }

    /// <summary>The case for the results file.</summary>
    /// <param name="variant">What differs from the default and no other parameter says, such as <c>portable</c>.</param>
    /// <param name="queryTokens">Query tokens of each sequence.</param>
    public JsonObject Params(string variant = "default", int queryTokens = 1) =>
        new()
        {
            ["variant"] = variant,
            ["dtype"] = Spec.Dtype.ToString(),
            ["kvDtype"] = Spec.KvDtype.ToString(),
            ["heads"] = Spec.Heads,
            ["kvHeads"] = Spec.KvHeads,
            ["headDim"] = Spec.HeadDim,
            ["pageSize"] = Spec.PageSize,
            ["layout"] = Spec.KvLayout.ToString(),
            ["batch"] = Lengths.Length,
            ["qoLen"] = queryTokens,
            ["kvLen"] = Lengths.Max(),
            ["kvTokens"] = Lengths.Sum(length => (long)length),
        };

    /// <summary>A sequence of the first layer, read from its pages.</summary>
    /// <param name="sequence">Which.</param>
    /// <param name="firstRow">Its first query token's row.</param>
    /// <param name="queryTokens">Its query tokens.</param>
    /// <param name="isCausal">Whether they see what stands before them, or all.</param>
    public SampledSequence Sample(int sequence, int firstRow, int queryTokens, bool isCausal = true) =>
        Sample(Sequences[sequence], Lengths[sequence], firstRow, queryTokens, isCausal);

    /// <summary>As for one of <see cref="Sequences"/>, for any sequence of the cache.</summary>
    public SampledSequence Sample(Sequence sequence, int length, int firstRow, int queryTokens = 1, bool isCausal = true) =>
        new(firstRow, queryTokens, isCausal, Gather(Cache.KeyPages(0), sequence, length), Gather(Cache.ValuePages(0), sequence, length));

    public void Dispose() => Cache.Dispose();

    private float[] Gather(TensorView pages, Sequence sequence, int length) =>
        SampledError.Gather(
            Spec.KvHeads,
            Spec.HeadDim,
            length,
            Spec.PageSize,
            Spec.KvLayout,
            (first, _) => pages.Rows(sequence.Pages[first / Spec.PageSize], 1)
        );

    private void Scatter()
    {
        Sequence[] fillers = [.. Enumerable.Range(0, Cache.TotalPages).Select(_ => Cache.NewSequence())];
        Cache.BeginForward(fillers, [.. fillers.Select(_ => 1)]);
        new Random(7).Shuffle(fillers);
        foreach (Sequence filler in fillers)
        {
            Cache.Free(filler);
        }
    }
}
