namespace FlashInfer.Benchmarks;

/// <summary>Writing new keys and values, by graph replay over layers.</summary>
internal static class AppendBench
{
    // Launches of a graph at least, so that starting it does not count.
    private const int Launches = 96;

    public static IEnumerable<Row> Run(Device device, Gpu gpu, Ceilings ceilings)
    {
        foreach ((int sequences, int tokens) in ((int, int)[])[(1, 1), (32, 1), (256, 1), (8, 2048)])
        {
            AttentionSpec spec = new(32, 8, 128, 16, DType.BFloat16);
            using Workload workload = new(device, gpu, spec, [.. Enumerable.Repeat(Math.Max(512, tokens), sequences)], 2L << 30);
            Sequence[] fresh = [.. Enumerable.Range(0, sequences).Select(_ => workload.Cache.NewSequence())];
            foreach (Sequence sequence in workload.Sequences)
            {
                workload.Cache.Free(sequence);
            }

            workload.Cache.BeginForward(fresh, [.. Enumerable.Repeat(tokens, sequences)]);
            using BatchDecodeWithPagedKvCache decode = new(workload.Cache);
            int rows = sequences * tokens;
            using DeviceTensor<BFloat16> key = device.Allocate<BFloat16>(rows, spec.KvHeads, spec.HeadDim);
            using DeviceTensor<BFloat16> value = device.Allocate<BFloat16>(rows, spec.KvHeads, spec.HeadDim);
            gpu.Fill(key.View, 3);
            gpu.Fill(value.View, 4);
            decode.Plan(fresh);
            int layers = workload.Cache.Layers;
            int launches = (Launches + layers - 1) / layers * layers;
            Timing timing =
                gpu.TimeGraph(() =>
                {
                    for (int i = 0; i < launches; i++)
                    {
                        decode.Append(i % layers, key.View, value.View);
                    }
                }) / launches;
            double gbps = 2.0 * (key.Shape.Elements + value.Shape.Elements) * 2 / timing.Us / 1e3;
            yield return new Row("append", $"32/8 d128 page 16 Nhd bf16 sequences={sequences} tokens={tokens}", workload.Params())
            {
                GBps = gbps,
                FractionOfCeiling = gbps / ceilings.CopyGBps,
            }.With(timing);
        }
    }
}
