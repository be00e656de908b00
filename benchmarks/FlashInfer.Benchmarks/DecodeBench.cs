namespace FlashInfer.Benchmarks;

/// <summary>Batch decode by graph replay, one launch per layer, layers cycling through more memory than the L2 holds.</summary>
internal static class DecodeBench
{
    private static readonly (int Heads, int KvHeads, int Batch, int Length)[] s_uniform =
    [
        (32, 8, 1, 512),
        (32, 8, 1, 2048),
        (32, 8, 8, 512),
        (32, 8, 1, 8192),
        (32, 8, 8, 2048),
        (32, 8, 32, 512),
        (32, 8, 1, 32768),
        (32, 8, 8, 8192),
        (32, 8, 32, 2048),
        (32, 8, 128, 512),
        (32, 8, 256, 512),
        (32, 8, 32, 8192),
        (32, 8, 128, 2048),
        (32, 8, 32, 32768),
        (32, 32, 1, 2048),
        (32, 32, 8, 2048),
        (64, 8, 32, 2048),
        (64, 8, 128, 2048),
    ];

    public static IEnumerable<Row> Run(Device device, Gpu gpu, Ceilings ceilings)
    {
        foreach ((int heads, int kvHeads, int batch, int length) in s_uniform)
        {
            AttentionSpec spec = new(heads, kvHeads, 128, 16, DType.BFloat16);
            yield return Measure(device, gpu, ceilings, spec, $"batch={batch} kvLen={length}", [.. Enumerable.Repeat(length, batch)]);
        }

        AttentionSpec grouped = new(32, 8, 128, 16, DType.BFloat16);
        yield return Measure(device, gpu, ceilings, grouped, "mixed=one-32000+31x500", [32000, .. Enumerable.Repeat(500, 31)]);
        Random random = new(5);
        yield return Measure(
            device,
            gpu,
            ceilings,
            grouped,
            "mixed=32x100..15.6k",
            [.. Enumerable.Range(0, 32).Select(_ => random.Next(100, 15_600))]
        );
        yield return Measure(device, gpu, ceilings, grouped, "batch=1024 kvLen=64", [.. Enumerable.Repeat(64, 1024)]);
        foreach (
            AttentionSpec spec in (AttentionSpec[])
                [
                    new(32, 8, 128, 1, DType.BFloat16),
                    new(32, 8, 128, 16, DType.BFloat16, kvLayout: KvLayout.Hnd),
                    new(32, 8, 64, 16, DType.BFloat16),
                    new(32, 8, 256, 16, DType.BFloat16),
                    new(32, 8, 128, 16, DType.Float16),
                    new(128, 8, 128, 16, DType.BFloat16),
                    new(71, 1, 128, 16, DType.BFloat16),
                ]
        )
        {
            int batch = 1024 / spec.KvHeads * 128 / spec.HeadDim;
            yield return Measure(device, gpu, ceilings, spec, $"batch={batch} kvLen=2048", [.. Enumerable.Repeat(2048, batch)]);
        }
    }

    private static Row Measure(Device device, Gpu gpu, Ceilings ceilings, AttentionSpec spec, string what, int[] lengths)
    {
        using Workload workload = new(device, gpu, spec, lengths);
        using BatchDecodeWithPagedKvCache decode = new(workload.Cache);
        using DeviceTensor<int> query = device.Allocate<int>(lengths.Length * spec.Heads * spec.HeadDim / 2);
        using DeviceTensor<int> output = device.Allocate<int>(lengths.Length * spec.Heads * spec.HeadDim / 2);
        gpu.Fill(query.View.Address, query.Shape.Elements, 99);
        int[] shape = [lengths.Length, spec.Heads, spec.HeadDim];
        TensorView q = View(device, spec, query.View.Address, shape);
        TensorView o = View(device, spec, output.View.Address, shape);
        decode.Plan(workload.Sequences);
        decode.Run(0, q, o);
        device.Synchronize();
        double error = spec.Dtype == DType.BFloat16 ? SampledError.Of(workload, q.As<BFloat16>(), o.As<BFloat16>()) : double.NaN;
        int layers = workload.Cache.Layers;
        double us =
            gpu.MedianOfGraph(
                20,
                () =>
                {
                    for (int layer = 0; layer < layers; layer++)
                    {
                        decode.Run(layer, q, o);
                    }
                }
            ) / layers;
        double gbps = workload.KvBytes / us / 1e3;
        string name =
            $"{spec.Heads}/{spec.KvHeads} d{spec.HeadDim} page {spec.PageSize} {spec.KvLayout} {(spec.Dtype == DType.Float16 ? "f16" : "bf16")} {what}";
        return new Row("decode", name, workload.Params())
        {
            Us = us,
            GBps = gbps,
            FractionOfCeiling = gbps / ceilings.ReadGBps,
            RelError = double.IsNaN(error) ? null : error,
        };
    }

    private static TensorView View(Device device, AttentionSpec spec, nint address, int[] shape) =>
        spec.Dtype == DType.BFloat16 ? device.View<BFloat16>(address, shape) : device.View<Half>(address, shape);
}
