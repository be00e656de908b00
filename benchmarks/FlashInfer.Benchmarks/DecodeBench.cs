namespace FlashInfer.Benchmarks;

/// <summary>Batch decode by graph replay, one launch per layer, layers cycling through more memory than the L2 holds.</summary>
internal static class DecodeBench
{
    public static IEnumerable<Row> Run(Device device, Gpu gpu, Ceilings ceilings)
    {
        using Device? portable = gpu.OpenPortable();
        foreach (DecodeCase measured in DecodeCases.All)
        {
            if (WhyNot(measured, hasPortable: portable is not null) is { } reason)
            {
                Console.WriteLine($"decode   {measured.Name}: left out, {reason}");
                continue;
            }

            yield return Measure(measured.IsPortable ? portable! : device, gpu, ceilings, measured);
        }
    }

    private static string? WhyNot(DecodeCase measured, bool hasPortable)
    {
        AttentionShape shape = new(
            measured.Heads,
            measured.KvHeads,
            measured.HeadDim,
            measured.PageSize,
            measured.Dtype,
            measured.KvDtype ?? measured.Dtype,
            measured.KvLayout
        );
        return measured.IsPortable && !hasPortable
            ? "this device has only the portable kernels"
            : AttentionRules.All.FirstOrDefault(rule => !rule.IsMet(shape))?.Message(shape);
    }

    private static Row Measure(Device device, Gpu gpu, Ceilings ceilings, DecodeCase measured)
    {
        AttentionSpec spec = measured.Spec;
        int rows = measured.Lengths.Length * measured.QueryTokens;
        using Workload workload = new(device, gpu, spec, measured.Lengths);
        using BatchDecodeWithPagedKvCache decode = new(
            workload.Cache,
            maxQueryTokens: measured.QueryTokens,
            determinism: measured.IsBatchInvariant ? Determinism.BatchInvariant : Determinism.Reproducible
        );
        using DeviceTensor query = device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim);
        using DeviceTensor output = device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim);
        gpu.Fill(query.View, 99);
        decode.Plan(workload.Sequences, [.. measured.Lengths.Select(_ => measured.QueryTokens)]);
        decode.Run(0, query.View, output.View);
        SampledError error = SampledError.Of(
            spec,
            query.View,
            output.View,
            SampledError.Few(measured.Lengths.Length).Select(i => workload.Sample(i, i * measured.QueryTokens, measured.QueryTokens))
        );
        int layers = workload.Cache.Layers;
        Timing timing =
            gpu.TimeGraph(() =>
            {
                for (int layer = 0; layer < layers; layer++)
                {
                    decode.Run(layer, query.View, output.View);
                }
            }) / layers;
        double gbps = workload.KvBytes / timing.Us / 1e3;
        return new Row("decode", measured.Name, workload.Params(measured.Variant, measured.QueryTokens))
        {
            GBps = gbps,
            FractionOfCeiling = gbps / ceilings.ReadGBps,
            RelError = error.Relative,
            MaxAbsError = error.MaxAbs,
        }.With(timing);
    }
}
