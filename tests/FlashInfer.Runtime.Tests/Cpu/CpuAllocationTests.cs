using FlashInfer.Attention;
using FlashInfer.Cpu;

namespace FlashInfer.Tests.Cpu;

/// <summary>Counts what the whole process allocates, so nothing else may run meanwhile.</summary>
[CollectionDefinition(nameof(CpuAllocationTests), DisableParallelization = true)]
public sealed class CpuAllocationCollection;

[Collection(nameof(CpuAllocationTests))]
public unsafe class CpuAllocationTests
{
    [Theory]
    [InlineData(DType.Float16, DType.Float16, 1)]
    [InlineData(DType.Float16, DType.Float16, 3)]
    [InlineData(DType.BFloat16, DType.BFloat16, 3)]
    [InlineData(DType.BFloat16, DType.Float8E4M3, 3)]
    public void Kernels_allocate_nothing_once_warm(DType dtype, DType kvDtype, int workers)
    {
        AttentionSpec spec = new(20, 2, 64, 16, dtype, kvDtype);
        using CpuWorkerPool pool = new(workers);
        using CpuAttentionKernels kernels = new(spec, pool, CpuAttentionKernels.BestVectorBits);
        using AttentionCase @case = new(spec, [100, 33, 0], 1);
        DecodeKernel decode = kernels.Decode(1);
        WorkItem[] items = @case.SplitItems();
        @case.Prepare(
            items,
            decode.UnitsPerItem,
            decode.ColumnsPerUnit,
            args =>
            {
                DecodeParams decodeArgs = AttentionCase.ForDecode(args);
                CheckAllocations(() => decode.Run(decodeArgs, new ListLaunch(items.Length, items.Length, 1, false), null));
            }
        );
        PrefillKernel prefill = kernels.Prefill(isPaged: true);
        @case.Prepare(
            @case.PrefillItems(prefill, prefill.HeadTiles, split: true),
            prefill.HeadTiles,
            prefill.TileRows,
            args => CheckAllocations(() => prefill.Run(ref args, default, null))
        );
    }

    private static void CheckAllocations(Action run)
    {
        // The runtime itself allocates now and then (tiered compilation, the test host): the quietest attempt counts.
        long own = long.MaxValue;
        long total = long.MaxValue;
        for (int attempt = 0; attempt < 10; attempt++)
        {
            long ownBefore = GC.GetAllocatedBytesForCurrentThread();
            long totalBefore = GC.GetTotalAllocatedBytes(precise: true);
            for (int i = 0; i < 20; i++)
            {
                run();
                if (i % 5 == 0)
                {
                    // Long enough for the workers to stop spinning and block.
                    Thread.Sleep(1);
                }
            }

            total = Math.Min(total, GC.GetTotalAllocatedBytes(precise: true) - totalBefore);
            own = Math.Min(own, GC.GetAllocatedBytesForCurrentThread() - ownBefore);
        }

        Assert.Equal(0, own);
        Assert.Equal(0, total);
    }
}
