using System.Text.Json.Nodes;

namespace FlashInfer.Benchmarks;

/// <summary>A cache full of sequences on scattered pages with random keys and values, deep enough that a pass over its layers leaves the L2 cold.</summary>
internal sealed class Workload : IDisposable
{
    public Workload(Device device, Gpu gpu, AttentionSpec spec, int[] lengths, long targetBytes = 4L << 30)
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
            gpu.Fill(Cache.KeyPages(layer), (uint)(2 * layer) + 1);
            gpu.Fill(Cache.ValuePages(layer), (uint)(2 * layer) + 2);
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

    public void Dispose() => Cache.Dispose();

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
