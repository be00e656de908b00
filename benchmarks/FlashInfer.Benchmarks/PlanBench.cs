using System.Diagnostics;

namespace FlashInfer.Benchmarks;

/// <summary>What a step costs on the host.</summary>
internal static class PlanBench
{
    public static IEnumerable<Row> Run(Device device)
    {
        foreach (int batch in (int[])[1, 32, 256, 1024])
        {
            AttentionSpec spec = new(32, 8, 128, 16, DType.BFloat16);
            using PagedKvCache cache = new(device, spec, 1, batch * 64);
            Sequence[] sequences = [.. Enumerable.Range(0, batch).Select(_ => cache.NewSequence())];
            Random random = new(3);
            cache.BeginForward(sequences, [.. sequences.Select(_ => random.Next(100, 900))]);
            cache.EndForward(sequences);
            using BatchDecodeWithPagedKvCache decode = new(cache);
            using DeviceTensor<BFloat16> q = device.Allocate<BFloat16>(batch, spec.Heads, spec.HeadDim);
            using DeviceTensor<BFloat16> o = device.Allocate<BFloat16>(batch, spec.Heads, spec.HeadDim);
            (double planUs, long planBytes) = Measure(device, () => decode.Plan(sequences));
            (double runUs, long runBytes) = Measure(device, () => decode.Run(0, q.View, o.View));
            yield return new Row("plan", $"Plan on the host, batch={batch}", new() { ["batch"] = batch })
            {
                Us = planUs,
                AllocatedBytes = planBytes,
            };
            yield return new Row("plan", $"Run on the host, batch={batch}", new() { ["batch"] = batch })
            {
                Us = runUs,
                AllocatedBytes = runBytes,
            };
        }
    }

    private static (double Us, long Bytes) Measure(Device device, Action step)
    {
        const int Samples = 301;
        double[] times = new double[Samples];
        for (int i = 0; i < 200; i++)
        {
            step();
        }

        device.Synchronize();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < Samples; i++)
        {
            long start = Stopwatch.GetTimestamp();
            step();
            times[i] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            device.Synchronize();
        }

        long bytes = GC.GetAllocatedBytesForCurrentThread() - before;
        Array.Sort(times);
        return (times[Samples / 2], bytes);
    }
}
