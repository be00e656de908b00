using System.Text.Json.Nodes;

namespace FlashInfer.Benchmarks;

/// <summary>Decode steps whose sequences share a prefix, with cascade attention and without; and the merging of states alone.</summary>
internal static class CascadeBench
{
    private static readonly (int KvHeads, int Batch, int Prefix, int Suffix)[] s_cases =
    [
        (32, 256, 32_768, 128),
        (8, 256, 32_768, 128),
        (8, 256, 32_768, 1024),
        (8, 64, 8192, 512),
        (8, 16, 8192, 512),
        (8, 16, 2048, 128),
    ];

    public static IEnumerable<Row> Run(Device device, Gpu gpu, Ceilings ceilings)
    {
        foreach ((int rows, int states) in ((int, int)[])[(256, 2), (16_384, 2), (16_384, 4)])
        {
            yield return Merge(device, gpu, ceilings, rows, states);
        }

        foreach ((int kvHeads, int batch, int prefix, int suffix) in s_cases)
        {
            yield return Step(device, gpu, ceilings, new AttentionSpec(32, kvHeads, 128, 16, DType.BFloat16), batch, prefix, suffix);
        }
    }

    private static Row Merge(Device device, Gpu gpu, Ceilings ceilings, int rows, int states)
    {
        const int Heads = 32;
        const int HeadDim = 128;
        const int Sets = 4;
        using DeviceTensor<BFloat16> outputs = device.Allocate<BFloat16>(Sets * rows, states, Heads, HeadDim);
        using DeviceTensor<float> lses = device.Allocate<float>(Sets * rows, states, Heads);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(Sets * rows, Heads, HeadDim);
        using DeviceTensor<float> lse = device.Allocate<float>(Sets * rows, Heads);
        gpu.Fill(outputs.View, 1);
        lses.View.CopyFrom([.. Enumerable.Range(0, (int)lses.Shape.Elements).Select(i => i * 7 % 11 - 5f)]);
        using GraphRound round = new(
            device,
            gpu,
            Sets,
            set => AttentionStates.MergeStates(Part(outputs, set), Part(lses, set), Part(output, set), Part(lse, set))
        );
        Timing timing = Timing.OfFive(round.Us);
        double gbps = (states + 1.0) * rows * Heads * ((HeadDim * 2) + 4) / timing.Us / 1e3;
        JsonObject parameters = new()
        {
            ["dtype"] = nameof(DType.BFloat16),
            ["heads"] = Heads,
            ["headDim"] = HeadDim,
            ["rows"] = rows,
            ["states"] = states,
        };
        return new Row("merge", $"{Heads} heads d{HeadDim} bf16 rows={rows} states={states}", parameters)
        {
            GBps = gbps,
            FractionOfCeiling = gbps / ceilings.CopyGBps,
        }.With(timing);

        TensorView<T> Part<T>(DeviceTensor<T> tensor, int set)
            where T : unmanaged => tensor.View.Rows(set * rows, rows);
    }

    private static Row Step(Device device, Gpu gpu, Ceilings ceilings, AttentionSpec spec, int batch, int prefix, int suffix)
    {
        using Workload workload = new(device, gpu, spec, [prefix, .. Enumerable.Repeat(suffix, batch)], targetBytes: 0);
        PagedKvCache cache = workload.Cache;
        foreach (Sequence sequence in workload.Sequences.AsSpan(1))
        {
            cache.Free(sequence);
        }

        Sequence[] forks = [.. Enumerable.Range(0, batch).Select(_ => cache.Fork(workload.Sequences[0]))];
        cache.BeginForward(forks, [.. Enumerable.Repeat(suffix, batch)]);
        cache.EndForward(forks);
        int[] ones = [.. Enumerable.Repeat(1, batch)];
        using MultiLevelCascadeAttention cascade = new(cache, batch, batch);
        using BatchDecodeWithPagedKvCache decode = new(cache, batch);
        using DeviceTensor query = device.Allocate(spec.Dtype, batch, spec.Heads, spec.HeadDim);
        using DeviceTensor output = device.Allocate(spec.Dtype, batch, spec.Heads, spec.HeadDim);
        gpu.Fill(query.View, 99);
        cascade.Plan(forks, ones);
        decode.Plan(forks);
        cascade.Run(0, query.View, output.View);
        SampledError error = SampledError.Of(
            spec,
            query.View,
            output.View,
            SampledError.Few(batch).Select(i => workload.Sample(forks[i], prefix + suffix, firstRow: i))
        );
        using GraphRound with = new(device, gpu, cache.Layers, layer => cascade.Run(layer, query.View, output.View));
        using GraphRound without = new(device, gpu, cache.Layers, layer => decode.Run(layer, query.View, output.View));
        Timing[] timings = Timing.InTurn(with.Us, without.Us);
        double bytes = (prefix + ((double)batch * suffix)) * 2 * spec.KvHeads * spec.HeadDim * spec.KvDtype.Size();
        JsonObject parameters = workload.Params();
        parameters["batch"] = batch;
        parameters["kvLen"] = prefix + suffix;
        parameters["prefix"] = prefix;
        string name =
            $"{spec.Heads}/{spec.KvHeads} d{spec.HeadDim} page {spec.PageSize} bf16 batch={batch} prefix={prefix} suffix={suffix}";
        return new Row("cascade", name, parameters)
        {
            // Each page once: of a long prefix the products take longer.
            GBps = bytes / timings[0].Us / 1e3,
            FractionOfCeiling = bytes / timings[0].Us / 1e3 / ceilings.ReadGBps,
            Peer = "own decode of the same sequences",
            PeerUs = timings[1].Us,
            RelError = error.Relative,
            MaxAbsError = error.MaxAbs,
        }.With(timings[0]);
    }
}
