using System.Diagnostics;

namespace FlashInfer.Benchmarks;

/// <summary>
/// Batch prefill, group by group of <see cref="PrefillCases"/>: the cases of a group and their peer are timed in turn, in graphs, each over
/// two sets of buffers that together hold more than the L2 cache.
/// </summary>
internal static class PrefillBench
{
    /// <summary>Measures until the budget is used up; what is then left out is named.</summary>
    /// <param name="device">The device.</param>
    /// <param name="gpu">Its clock.</param>
    /// <param name="ceilings">Of the same run.</param>
    /// <param name="peer">Null when there is none.</param>
    /// <param name="budget">No group is begun after this time.</param>
    /// <param name="failures">Receives a line for each group that failed: the others are measured all the same.</param>
    public static IEnumerable<Row> Run(Device device, Gpu gpu, Ceilings ceilings, TorchPeer? peer, TimeSpan budget, List<string> failures)
    {
        long start = Stopwatch.GetTimestamp();
        using Device? portable = gpu.OpenPortable();
        Warmup(device, PrefillCases.All.SelectMany(group => group.Cases).Where(measured => !measured.IsPortable));
        foreach (Row row in Try("mixed", () => [Mixed(device, gpu, ceilings)]))
        {
            yield return row;
        }

        foreach (PrefillGroup group in PrefillCases.All)
        {
            PrefillCase first = group.Cases[0];
            string? reason =
                first.IsPortable && portable is null ? "this device has only the portable kernels"
                : Stopwatch.GetElapsedTime(start) > budget ? "the budget is used up"
                : null;
            if (reason is not null)
            {
                Console.WriteLine($"prefill  {first.Name} and its like: left out, {reason}");
                continue;
            }

            foreach (Row row in Try(first.Name, () => [.. Measure(first.IsPortable ? portable! : device, gpu, ceilings, peer, group)]))
            {
                yield return row;
            }
        }

        Row[] Try(string what, Func<Row[]> measure)
        {
            try
            {
                return measure();
            }
            catch (FlashInferException e)
            {
                failures.Add($"prefill  {what} and its like: {e.Message}");
                return [];
            }
        }
    }

    /// <summary>Compiles all kernels at once, so that the budget goes into measuring. A failure is told by the group that meets it.</summary>
    private static void Warmup(Device device, IEnumerable<PrefillCase> cases)
    {
        Task[] tasks =
        [
            .. cases
                .Select(measured =>
                    (measured.Spec, Kernels: measured.PageSize is null ? KernelKinds.PrefillRagged : KernelKinds.PrefillPaged)
                )
                .DistinctBy(needed => (needed.Spec.Shape, needed.Kernels))
                .Select(needed => device.WarmupAsync(needed.Spec, needed.Kernels)),
        ];
        Task.WhenAll(tasks).ContinueWith(_ => { }, TaskScheduler.Default).Wait();
    }

    private static Row[] Measure(Device device, Gpu gpu, Ceilings ceilings, TorchPeer? peer, PrefillGroup group)
    {
        List<PrefillRun> runs = [];
        try
        {
            foreach (PrefillCase measured in group.Cases)
            {
                runs.Add(new PrefillRun(device, gpu, measured));
            }

            (string Name, Func<double> Round)? torch = Torch(peer, group);
            IEnumerable<Func<double>> rounds = runs.Select<PrefillRun, Func<double>>(run => run.Us);
            Timing[] timings = Timing.InTurn([.. torch is null ? rounds : rounds.Append(torch.Value.Round)]);
            return [.. runs.Select((run, i) => Row(run, timings[i], ceilings, group, timings, torch?.Name))];
        }
        finally
        {
            runs.ForEach(run => run.Dispose());
        }
    }

    /// <summary>PyTorch on a group's shape; null where it is not there, not wanted, or has nothing for the shape.</summary>
    private static (string Name, Func<double> Round)? Torch(TorchPeer? peer, PrefillGroup group)
    {
        if (peer is null || group.Yardstick == Yardstick.First)
        {
            return null;
        }

        (string backend, string name) = group.Yardstick == Yardstick.CuDnn ? ("cudnn", peer.CuDnn) : ("flash", peer.Flash);
        return peer.Time(backend, group.Cases[0]) is null ? null : (name, () => peer.Time(backend, group.Cases[0]) ?? double.NaN);
    }

    /// <summary>Chunks of prompts and decode rows in one launch, against a launch for each kind.</summary>
    private static Row Mixed(Device device, Gpu gpu, Ceilings ceilings)
    {
        const int Chunks = 8;
        const int Decodes = 120;
        PrefillCase measured = new(
            32,
            8,
            [.. Enumerable.Repeat(512, Chunks), .. Enumerable.Repeat(1, Decodes)],
            [.. Enumerable.Repeat(8192, Chunks), .. Enumerable.Repeat(4096, Decodes)],
            $"batch={Chunks + Decodes} mixed={Chunks}x512-on-8192+{Decodes}x1-on-4096"
        )
        {
            PageSize = 16,
        };
        AttentionSpec spec = measured.Spec;
        using Workload workload = new(device, gpu, spec, measured.Lengths, targetBytes: 0);
        int rows = measured.QueryTokens.Sum();
        using DeviceTensor query = device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim);
        using DeviceTensor output = device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim);
        gpu.Fill(query.View, 99);
        using BatchPrefillWithPagedKvCache both = new(workload.Cache, Chunks + Decodes, rows);
        using BatchPrefillWithPagedKvCache prefill = new(workload.Cache, Chunks, rows);
        using BatchDecodeWithPagedKvCache decode = new(workload.Cache, Decodes);
        both.Plan(workload.Sequences, measured.QueryTokens);
        prefill.Plan(workload.Sequences.AsSpan(0, Chunks), measured.QueryTokens.AsSpan(0, Chunks));
        decode.Plan(workload.Sequences.AsSpan(Chunks));
        int chunkRows = rows - Decodes;
        TensorView Part(DeviceTensor tensor, int first, int count) => tensor.View.Rows(first, count);
        both.Run(0, query.View, output.View);
        SampledError error = SampledError.Of(
            spec,
            query.View,
            output.View,
            new[] { 0, Chunks - 1, Chunks, Chunks + Decodes - 1 }.Select(i =>
                workload.Sample(i, measured.QueryTokens.Take(i).Sum(), measured.QueryTokens[i])
            )
        );
        using GraphRound one = new(device, gpu, workload.Cache.Layers, layer => both.Run(layer, query.View, output.View));
        using GraphRound two = new(
            device,
            gpu,
            workload.Cache.Layers,
            layer =>
            {
                prefill.Run(layer, Part(query, 0, chunkRows), Part(output, 0, chunkRows));
                decode.Run(layer, Part(query, chunkRows, Decodes), Part(output, chunkRows, Decodes));
            }
        );
        Timing[] timings = Timing.InTurn(one.Us, two.Us);
        return PrefillRun.ToRow(measured, timings[0], ceilings) with
        {
            Peer = "own launches of prefill and of decode",
            PeerUs = timings[1].Us,
            RelError = error.Relative,
            MaxAbsError = error.MaxAbs,
        };
    }

    /// <summary>A case of a group beside what it is compared with.</summary>
    private static Row Row(PrefillRun run, Timing timing, Ceilings ceilings, PrefillGroup group, Timing[] all, string? torch)
    {
        Row row = run.ToRow(timing, ceilings);
        PrefillCase first = group.Cases[0];

        // What the first case would take for as many operations.
        double? firstUs = run.Case == first ? null : run.Case.Flops * all[0].Us / first.Flops;
        return group.Yardstick == Yardstick.First
            ? row with
            {
                Peer = firstUs is null ? null : $"own {first.Name}",
                PeerUs = firstUs,
            }
            : row with
            {
                Peer = torch,
                PeerUs = torch is null ? null : all[^1].Us,
                RatioToRagged = firstUs / timing.Us,
            };
    }
}
