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
            (Timing planTime, long planBytes) = Measure(device, () => decode.Plan(sequences));
            (Timing runTime, long runBytes) = Measure(device, () => decode.Run(0, q.View, o.View));
            yield return new Row("plan", $"Plan on the host, batch={batch}", new() { ["batch"] = batch })
            {
                AllocatedBytes = planBytes,
            }.With(planTime);
            yield return new Row("plan", $"Run on the host, batch={batch}", new() { ["batch"] = batch }) { AllocatedBytes = runBytes }.With(
                runTime
            );
        }
    }

    /// <summary>Five rounds of the median of 101 calls, and the most bytes that a round allocated.</summary>
    private static (Timing Time, long Bytes) Measure(Device device, Action step)
    {
        double[] times = new double[101];
        for (int i = 0; i < 200; i++)
        {
            step();
        }

        device.Synchronize();
        long bytes = 0;
        Timing timing = Timing.OfFive(() =>
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < times.Length; i++)
            {
                long start = Stopwatch.GetTimestamp();
                step();
                times[i] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
                device.Synchronize();
            }

            bytes = Math.Max(bytes, GC.GetAllocatedBytesForCurrentThread() - before);
            return Timing.Median(times);
        });
        return (timing, bytes);
    }
}
