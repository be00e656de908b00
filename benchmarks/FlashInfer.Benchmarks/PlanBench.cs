using System.Diagnostics;
using System.Diagnostics.Metrics;
using FlashInfer.Attention;
using FlashInfer.Planning;

namespace FlashInfer.Benchmarks;

/// <summary>What a step costs on the host.</summary>
internal static class PlanBench
{
    // A step plans once and runs a launch for each layer of a model.
    private const int Layers = 32;

    // Where a launch takes the device longer than this, the host would only wait for room in the stream.
    private const int MostRunSequences = 32;

    // A process that serves has all of this compiled with optimisation; the runtime gets to that in the background, after some 100 ms.
    private static readonly TimeSpan s_warmUp = TimeSpan.FromMilliseconds(500);

    private static readonly AttentionSpec s_spec = new(32, 8, 128, 16, DType.BFloat16);

    public static IEnumerable<Row> Decode(Device device)
    {
        foreach (int batch in (int[])[1, 32, 256, 1024])
        {
            (PagedKvCache cache, Sequence[] sequences, int[] lengths) = Batch(device, batch);
            using PagedKvCache owned = cache;
            using BatchDecodeWithPagedKvCache decode = new(cache);
            using Tensors tensors = new(device, batch);
            foreach (Row row in Rows(device, "", batch, () => decode.Plan(sequences), () => decode.Run(0, tensors.Query, tensors.Output)))
            {
                yield return row;
            }

            if (batch == MostRunSequences)
            {
                using MeterListener listener = Listen();
                Action run = () => decode.Run(0, tensors.Query, tensors.Output);
                foreach (Row row in Rows(device, "with a listener of all meters, ", batch, () => decode.Plan(sequences), run))
                {
                    yield return row;
                }
            }

            int[] pageOffsets = [.. sequences.Select(sequence => sequence.PageOffset)];
            WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(batch, decode.Limits)];
            Action planner = () => DecodePlanner.Plan(new DecodeBatch(lengths, pageOffsets), decode.Limits, items);
            yield return Row($"Plan on the host, its planner alone, batch={batch}", batch, Measure(device, planner, calls: 1));
        }
    }

    /// <summary>Whole prompts, chunks and decode rows in one batch.</summary>
    public static IEnumerable<Row> Prefill(Device device)
    {
        foreach (int batch in (int[])[1, 32, 256])
        {
            (PagedKvCache cache, Sequence[] sequences, int[] lengths) = Batch(device, batch);
            using PagedKvCache owned = cache;
            Random random = new(4);
            int[] queryTokens =
            [
                .. lengths.Select(length =>
                    random.Next(3) switch
                    {
                        0 => 1,
                        1 => length,
                        _ => random.Next(1, length + 1),
                    }
                ),
            ];
            using BatchPrefillWithPagedKvCache prefill = new(cache, batch, queryTokens.Sum());
            using Tensors tensors = new(device, queryTokens.Sum());
            Action plan = () => prefill.Plan(sequences, queryTokens);
            foreach (Row row in Rows(device, "prefill ", batch, plan, () => prefill.Run(0, tensors.Query, tensors.Output)))
            {
                yield return row;
            }
        }
    }

    private static (PagedKvCache Cache, Sequence[] Sequences, int[] Lengths) Batch(Device device, int batch)
    {
        PagedKvCache cache = new(device, s_spec, 1, batch * 64);
        Sequence[] sequences = [.. Enumerable.Range(0, batch).Select(_ => cache.NewSequence())];
        Random random = new(3);
        int[] lengths = [.. sequences.Select(_ => random.Next(100, 900))];
        cache.BeginForward(sequences, lengths);
        cache.EndForward(sequences);
        return (cache, sequences, lengths);
    }

    /// <summary>Whoever watches a server: every measurement comes to it.</summary>
    private static MeterListener Listen()
    {
        MeterListener listener = new()
        {
            InstrumentPublished = (instrument, listener) =>
            {
                if (instrument.Meter.Name == FlashInferTelemetry.MeterName)
                {
                    listener.EnableMeasurementEvents(instrument);
                }
            },
        };
        listener.SetMeasurementEventCallback<long>(static (_, _, _, _) => { });
        listener.SetMeasurementEventCallback<double>(static (_, _, _, _) => { });
        listener.Start();
        return listener;
    }

    private static IEnumerable<Row> Rows(Device device, string phase, int batch, Action plan, Action run)
    {
        yield return Row($"{phase}Plan on the host, batch={batch}", batch, Measure(device, plan, calls: 1));
        if (batch <= MostRunSequences)
        {
            yield return Row($"{phase}Run on the host, one of {Layers} in a row, batch={batch}", batch, Measure(device, run, Layers));
        }
    }

    private static Row Row(string name, int batch, (Timing Time, long Bytes) measured) =>
        new Row("plan", name, new() { ["batch"] = batch }) { AllocatedBytes = measured.Bytes }.With(measured.Time);

    /// <summary>Five rounds of the median of 101 times so many calls in a row on an idle device, a call; and the most bytes that a round allocated.</summary>
    private static (Timing Time, long Bytes) Measure(Device device, Action step, int calls)
    {
        double[] times = new double[101];
        for (long start = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(start) < s_warmUp; device.Synchronize())
        {
            for (int call = 0; call < calls; call++)
            {
                step();
            }
        }

        long bytes = 0;
        Timing timing = Timing.OfFive(() =>
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < times.Length; i++)
            {
                long start = Stopwatch.GetTimestamp();
                for (int call = 0; call < calls; call++)
                {
                    step();
                }

                times[i] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
                device.Synchronize();
            }

            bytes = Math.Max(bytes, GC.GetAllocatedBytesForCurrentThread() - before);
            return Timing.Median(times);
        });
        return (timing / calls, bytes);
    }

    private sealed class Tensors(Device device, int rows) : IDisposable
    {
        private readonly DeviceTensor<BFloat16> _query = device.Allocate<BFloat16>(rows, s_spec.Heads, s_spec.HeadDim);
        private readonly DeviceTensor<BFloat16> _output = device.Allocate<BFloat16>(rows, s_spec.Heads, s_spec.HeadDim);

        public TensorView Query => _query.View;

        public TensorView Output => _output.View;

        public void Dispose()
        {
            _query.Dispose();
            _output.Dispose();
        }
    }
}
