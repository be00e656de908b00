using System.Diagnostics;
using FlashInfer.Attention;
using FlashInfer.Planning;

namespace FlashInfer.Tests.KvCache;

/// <summary>Alone in the process while they run: they count what all threads allocate.</summary>
[CollectionDefinition("Allocations", DisableParallelization = true)]
public class AllocationCollection;

/// <summary>A step costs no garbage in steady state, whatever its lengths.</summary>
[Collection("Allocations")]
public class HotPathTests
{
    private const int Layers = 2;

    [Theory]
    [InlineData(1, DType.BFloat16, Determinism.Reproducible)]
    [InlineData(2, DType.BFloat16, Determinism.Reproducible)]
    [InlineData(2, DType.Float8E4M3, Determinism.Reproducible)]
    [InlineData(1, DType.BFloat16, Determinism.BatchInvariant)]
    [InlineData(2, DType.BFloat16, Determinism.Reproducible, true)]
    public void Steps_of_varying_lengths_allocate_nothing(int threads, DType kvDtype, Determinism determinism, bool varied = false)
    {
        AttentionVariant? variant = varied ? TestVariant.All[^1] : null;
        float[] slopes = [0.1f, 0.2f, 0.3f, 0.4f];
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = threads });
        using PagedKvCache cache = new(
            device,
            new AttentionSpec(4, 2, 64, 4, DType.BFloat16, kvDtype, variant: variant),
            Layers,
            pages: 400
        );
        using BatchDecodeWithPagedKvCache decode = new(cache, 16, maxQueryTokens: 4, determinism);
        using DeviceTensor<BFloat16> tokens = device.Allocate<BFloat16>(16 * 40, 2, 64);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(4 * 16, 4, 64);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(4 * 16, 4, 64);
        using DeviceTensor<float> lse = device.Allocate<float>(4 * 16, 4);
        Sequence[] sequences = [.. Enumerable.Range(0, 16).Select(_ => cache.NewSequence())];
        int[] counts = new int[16];
        int[] queryTokens = new int[16];
        int[] accepted = new int[16];
        int step = 0;

        // Another batch size, other lengths and now and then an abandoned forward at every step.
        void Step()
        {
            step++;
            Span<Sequence> batch = sequences.AsSpan(0, 1 + (step * 7 % 16));
            int appended = 0;
            int rows = 0;
            for (int i = 0; i < batch.Length; i++)
            {
                counts[i] = step % 5 == 0 ? 1 + (((step * 3) + (i * 11)) % 40) : 1 + (step % 2);
                queryTokens[i] = step % 2 == 0 ? 1 : 1 + (i % 4);
                accepted[i] = i % 2;
                appended += counts[i];
                rows += queryTokens[i];
            }

            if (step % 5 == 0)
            {
                cache.BeginForward(batch, counts.AsSpan(0, batch.Length));
            }
            else
            {
                cache.BeginForward(batch, tokens: 1 + (step % 2));
            }

            if (varied)
            {
                TestArguments arguments = new() { Slopes = slopes, Window = step % 50 };
                decode.Plan(batch, queryTokens.AsSpan(0, batch.Length), new VariantArguments<TestArguments>(arguments));
            }
            else if (step % 2 == 0)
            {
                decode.Plan(batch);
            }
            else
            {
                decode.Plan(batch, queryTokens.AsSpan(0, batch.Length));
            }

            for (int layer = 0; layer < Layers; layer++)
            {
                TensorView<BFloat16> fresh = tokens.View.Rows(0, appended);
                decode.Append(layer, fresh, fresh);
                decode.Run(layer, query.View.Rows(0, rows), output.View.Rows(0, rows), lse.View.Rows(0, rows));
            }

            if (step % 5 == 0)
            {
                cache.AbandonForward(batch);
            }
            else
            {
                cache.EndForward(batch, accepted.AsSpan(0, batch.Length));
            }
        }

        Repeat(Step, 20);
        (long mine, long all) = Allocated(Step, 10);
        Assert.Equal((0, 0), (mine, all));
    }

    /// <summary>Forks grow, are planned in levels, and are abandoned now and then.</summary>
    [Fact]
    public void Cascades_of_varying_lengths_allocate_nothing()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(4, 2, 64, 4, DType.BFloat16), Layers, pages: 400);
        using MultiLevelCascadeAttention cascade = new(cache, 16, 64, maxLevels: 3);
        cascade.Costs = cascade.Costs with { Level = 0 };
        using DeviceTensor<BFloat16> tokens = device.Allocate<BFloat16>(64, 2, 64);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(64, 4, 64);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(64, 4, 64);
        Sequence root = cache.NewSequence();
        cache.BeginForward(root, 200);
        cache.EndForward(root);
        Sequence[] forks = [.. Enumerable.Range(0, 16).Select(i => cache.Fork(root, i < 8 ? 200 : 120))];
        int[] counts = new int[16];
        int step = 0;

        void Step()
        {
            Span<Sequence> batch = forks.AsSpan(0, 1 + (++step * 7 % 16));
            for (int i = 0; i < batch.Length; i++)
            {
                counts[i] = 1 + ((step + i) % 4);
            }

            cache.BeginForward(batch, counts.AsSpan(0, batch.Length));
            cascade.Plan(batch);
            int rows = 0;
            foreach (int count in counts.AsSpan(0, batch.Length))
            {
                rows += count;
            }

            for (int layer = 0; layer < Layers; layer++)
            {
                cascade.Append(layer, tokens.View.Rows(0, rows), tokens.View.Rows(0, rows));
                cascade.Run(layer, query.View.Rows(0, rows), output.View.Rows(0, rows));
            }

            if (step % 16 == 0)
            {
                cache.EndForward(batch);
            }
            else
            {
                cache.AbandonForward(batch);
            }
        }

        Repeat(Step, 17);
        (long mine, _) = Allocated(Step, 3);
        Assert.Equal(0, mine);
    }

    [Theory]
    [InlineData(1, DType.BFloat16, Determinism.Reproducible)]
    [InlineData(7, DType.Float8E4M3, Determinism.Reproducible)]
    [InlineData(7, DType.BFloat16, Determinism.BatchInvariant)]
    [InlineData(2, DType.BFloat16, Determinism.Reproducible, true)]
    public void Prefill_steps_of_varying_lengths_allocate_nothing(int threads, DType kvDtype, Determinism determinism, bool varied = false)
    {
        AttentionVariant? variant = varied ? TestVariant.All[^1] : null;
        float[] slopes = [0.1f, 0.2f, 0.3f, 0.4f];
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = threads });
        AttentionSpec spec = new(4, 1, 64, 4, DType.BFloat16, kvDtype, variant: variant);
        using PagedKvCache cache = new(device, spec, Layers, pages: 1000);
        using BatchPrefillWithPagedKvCache paged = new(cache, 16, 16 * 40, determinism);
        using BatchPrefillWithRaggedKvCache ragged = new(device, spec, 16, 16 * 40, determinism);
        using DeviceTensor<BFloat16> tokens = device.Allocate<BFloat16>(2500, 1, 64);
        using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(16 * 40, 4, 64);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(16 * 40, 4, 64);
        using DeviceTensor<float> lse = device.Allocate<float>(16 * 40, 4);
        Sequence[] sequences = [.. Enumerable.Range(0, 16).Select(_ => cache.NewSequence())];
        cache.BeginForward(sequences[0], 2500);
        cache.Append(0, sequences.AsSpan(0, 1), tokens.View, tokens.View);
        cache.EndForward(sequences[0]);
        int[] counts = new int[16];
        int[] indptr = new int[17];
        int step = 0;

        // Alone the long sequence is cut; in a batch chunks and single tokens stand side by side.
        void Step()
        {
            step++;
            int batch = step % 3 == 0 ? 1 : 1 + (step * 7 % 16);
            for (int i = 0; i < batch; i++)
            {
                counts[i] = i % 2 == 0 ? 1 + ((step + i) % 3) : 40 - ((step + i) % 7);
                indptr[i + 1] = indptr[i] + counts[i];
            }

            int rows = indptr[batch];
            Span<Sequence> members = sequences.AsSpan(0, batch);
            cache.BeginForward(members, counts.AsSpan(0, batch));
            TestArguments arguments = new() { Slopes = slopes, Window = step % 50 };
            if (varied)
            {
                paged.Plan(members, new VariantArguments<TestArguments>(arguments));
            }
            else if (step % 2 == 0)
            {
                paged.Plan(members);
            }
            else
            {
                paged.Plan(members, counts.AsSpan(0, batch), causal: false);
            }

            for (int layer = 0; layer < Layers; layer++)
            {
                TensorView<BFloat16> fresh = tokens.View.Rows(0, rows);
                paged.Append(layer, fresh, fresh);
                paged.Run(layer, query.View.Rows(0, rows), output.View.Rows(0, rows), lse.View.Rows(0, rows));
            }

            cache.AbandonForward(members);
            Span<int> rowsOf = indptr.AsSpan(0, batch + 1);
            if (varied)
            {
                ragged.Plan(rowsOf, rowsOf, new VariantArguments<TestArguments>(arguments));
            }
            else
            {
                ragged.Plan(rowsOf, rowsOf);
            }

            TensorView<BFloat16> packed = tokens.View.Rows(0, rows);
            ragged.Run(query.View.Rows(0, rows), packed, packed, output.View.Rows(0, rows));
        }

        Repeat(Step, 12);
        (long mine, long all) = Allocated(Step, 3);
        Assert.Equal((0, 0), (mine, all));
    }

    [Fact]
    public void Beginning_and_ending_forwards_allocates_next_to_nothing_also_when_nothing_is_planned()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(1, 1, 64, 4, DType.Float16), 1, pages: 500);
        Sequence[] sequences = [.. Enumerable.Range(0, 8).Select(_ => cache.NewSequence())];
        int[] ones = [1, 1, 1, 1, 1, 1, 1, 1];
        int[] many = [100, 1, 200, 3, 4, 5, 300, 7];
        void Step()
        {
            cache.BeginForward(sequences, many);
            cache.AbandonForward(sequences);
            cache.BeginForward(sequences[0], 1);
            cache.AbandonForward(sequences[0]);
            cache.TryBeginForward(sequences, ones);
            cache.EndForward(sequences);
        }

        Repeat(Step, 60);
        (long mine, _) = Allocated(Step, 12);
        Assert.InRange(mine, 0, 12 * 64);
    }

    [Fact]
    public void Planning_a_batch_of_256_takes_well_under_a_step()
    {
        DecodePlanLimits limits = new(132, 8, 64, DecodePlanner.SlotsFor(132, 8));
        int[] lengths = [.. Enumerable.Range(0, 256).Select(i => 100 + (i * 7919 % 30_000))];
        WorkItem[] items = new WorkItem[DecodePlanner.MaxItems(lengths.Length, limits)];
        TimeSpan best = TimeSpan.MaxValue;
        for (int i = 0; i < 50; i++)
        {
            long start = Stopwatch.GetTimestamp();
            DecodePlanner.Plan(new DecodeBatch(lengths, lengths), limits, items);
            TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
            best = elapsed < best ? elapsed : best;
        }

        // Tens of microseconds when optimised; a quadratic planner would be far above this also on a slow, busy machine.
        Assert.True(best < TimeSpan.FromMilliseconds(3), $"the best of 50 plans took {best.TotalMilliseconds:F2} ms");
    }

    private static void Repeat(Action action, int times)
    {
        for (int i = 0; i < times; i++)
        {
            action();
        }
    }

    /// <summary>
    /// What so many calls in a row allocate, on this thread and on all: the sum of the least that each of them did in a few tries. The test
    /// host's own threads allocate now and then, so a try is as short as one call.
    /// </summary>
    private static (long Mine, long All) Allocated(Action action, int times)
    {
        (long Mine, long All)[] least = new (long, long)[times];
        Array.Fill(least, (long.MaxValue, long.MaxValue));
        for (int i = 0; i < 40 * times && (i < times || least.Any(static one => one != (0, 0))); i++)
        {
            long all = GC.GetTotalAllocatedBytes(precise: true);
            long mine = GC.GetAllocatedBytesForCurrentThread();
            action();
            mine = GC.GetAllocatedBytesForCurrentThread() - mine;
            all = GC.GetTotalAllocatedBytes(precise: true) - all;
            ref (long Mine, long All) one = ref least[i % times];
            one = (Math.Min(one.Mine, mine), Math.Min(one.All, all));
        }

        return (least.Sum(static one => one.Mine), least.Sum(static one => one.All));
    }
}
