using FlashInfer.Attention;
using FlashInfer.Cpu;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests.Cpu;

public sealed class CpuPrefillTests : IDisposable
{
    private readonly CpuWorkerPool _pool = new(3);
    private readonly int _seed = Random.Shared.Next();

    public void Dispose() => _pool.Dispose();

    public static TheoryData<int, DType> Kernels => CpuDecodeTests.Kernels;

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Lengths_around_every_edge_match_the_oracle(int vectorBits, DType dtype)
    {
        // As many query tokens as tokens, fewer, and more: of the last some see nothing. Tiles of 64, of 63 and of 1 query token.
        foreach (int group in (int[])[1, 3, 71])
        {
            foreach (bool causal in (bool[])[true, false])
            {
                AttentionSpec spec = new(group, 1, 64, 16, dtype);
                int[] kvLens = group == 71 ? [5, 66, 0, 64] : [1, 63, 64, 65, 130, 0, 127, 129, 3];
                int[] queryTokens = group == 71 ? [6, 3, 2, 1] : [1, 63, 64, 65, 7, 2, 0, 129, 66];
                using AttentionCase @case = new(spec, kvLens, _seed, queryTokens: queryTokens, causal: causal);
                Check(@case, vectorBits);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Every_head_dimension_and_cache_type_matches_the_oracle(int vectorBits, DType dtype)
    {
        foreach (int headDim in (int[])[64, 96, 128, 192, 256])
        {
            // Ragged keys and values have the query's type, whatever the cache's.
            foreach (
                (DType kvDtype, bool ragged) in new[]
                {
                    (dtype, false),
                    (DType.Float8E4M3, false),
                    (DType.Float8E5M2, false),
                    (DType.Float8E4M3, true),
                }
            )
            {
                AttentionSpec spec = new(4, 2, headDim, 16, dtype, kvDtype);
                using AttentionCase @case = new(spec, [0, 70, 130], _seed, queryTokens: [1, 20, 9], ragged: ragged);
                Check(@case, vectorBits);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Random_batches_match_the_oracle(int vectorBits, DType dtype)
    {
        Random random = new(_seed);
        int[] groups = [1, 2, 4, 5, 7, 8, 64];
        int[] pageSizes = [1, 5, 16, 64, 1024];
        for (int i = 0; i < 12; i++)
        {
            int group = random.GetItems(groups, 1)[0];
            int kvHeads = group == 64 ? 1 : random.Next(1, 5);
            AttentionSpec spec = new(
                group * kvHeads,
                kvHeads,
                random.GetItems([64, 96, 128], 1)[0],
                random.GetItems(pageSizes, 1)[0],
                dtype,
                random.GetItems<DType?>([null, null, DType.Float8E4M3, DType.Float8E5M2], 1)[0],
                (KvLayout)random.Next(2)
            );

            // Chunks of prompts and rows of decode; a bound on the oracle's work keeps the suite quick.
            long budget = 8_000_000L / (spec.Heads * spec.HeadDim);
            List<int> kvLens = [];
            List<int> queryTokens = [];
            for (int sequence = random.Next(1, 6); sequence > 0 && budget > 0; sequence--)
            {
                int kvLen = random.Next(4) == 0 ? random.Next(3) : random.Next(600);
                int tokens = random.Next(3) == 0 ? 1 : random.Next(Math.Min(150, kvLen + 3));
                tokens = (int)Math.Min(tokens, budget / (kvLen + 1));
                budget -= (long)kvLen * tokens;
                kvLens.Add(kvLen);
                queryTokens.Add(tokens);
            }

            using AttentionCase @case = new(
                spec,
                [.. kvLens],
                random.Next(),
                strided: random.Next(2) == 0,
                queryTokens: [.. queryTokens],
                causal: random.Next(4) != 0,
                ragged: random.Next(2) == 0
            );
            Check(@case, vectorBits);
        }
    }

    [Fact]
    public void Splitting_gives_the_same_bits_whatever_the_timing()
    {
        AttentionSpec spec = new(16, 4, 128, 16, DType.BFloat16);
        using AttentionCase @case = new(spec, [700, 333, 1], _seed, queryTokens: [20, 3, 1]);
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        PrefillKernel kernel = kernels.Prefill(isPaged: true);
        WorkItem[] items = @case.PrefillItems(kernel, 2, split: true);
        AttentionResult first = @case.Run(kernel, items, 2);
        for (int i = 0; i < 5; i++)
        {
            Random.Shared.Shuffle(items);
            AttentionResult again = @case.Run(kernel, items, 2);
            Assert.True(first.Output.AsSpan().SequenceEqual(again.Output), @case.ToString());
            Assert.True(first.Lse.AsSpan().SequenceEqual(again.Lse), @case.ToString());
        }
    }

    [Fact]
    public void A_query_token_gets_the_same_bits_in_prefill_and_decode()
    {
        AttentionSpec spec = new(8, 2, 128, 16, DType.Float16);
        using AttentionCase @case = new(spec, [200, 65, 4], _seed, queryTokens: [8, 1, 5]);
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        PrefillKernel kernel = kernels.Prefill(isPaged: true);
        AttentionResult decode = @case.Run(kernels, @case.WholeItems());
        AttentionResult prefill = @case.Run(kernel, @case.PrefillItems(kernel, 2, split: false), 2);
        Assert.True(decode.Output.AsSpan().SequenceEqual(prefill.Output), @case.ToString());
        Assert.True(decode.Lse.AsSpan().SequenceEqual(prefill.Lse), @case.ToString());
    }

    [Fact]
    public void The_lse_is_optional()
    {
        AttentionSpec spec = new(4, 2, 64, 16, DType.BFloat16);
        using AttentionCase @case = new(spec, [100, 0], _seed, queryTokens: [30, 2]);
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        PrefillKernel kernel = kernels.Prefill(isPaged: true);
        foreach (bool split in (bool[])[false, true])
        {
            AttentionResult result = @case.Run(kernel, @case.PrefillItems(kernel, 2, split), 2, withLse: false);
            Assert.InRange(ErrorNorms.Relative(result.Output, @case.Expected), 0, 4e-3);
        }
    }

    [Fact]
    public unsafe void A_page_that_the_cache_does_not_have_is_a_fault_where_a_query_token_sees_it()
    {
        // Tiles of 16 query tokens: only the third sees the third page.
        AttentionSpec spec = new(4, 1, 64, 16, DType.BFloat16);
        using AttentionCase @case = new(spec, [40], _seed, queryTokens: [40]);
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        PrefillKernel kernel = kernels.Prefill(isPaged: true);
        WorkItem[] items = [.. @case.PrefillItems(kernel, 1, split: false).OrderBy(item => item.Row)];
        foreach (int page in (int[])[@case.PageCount, -1, int.MinValue])
        {
            @case.SetPage(0, 2, page);
            Assert.Equal(KernelFaultKind.None, Run(items[..2]).Kind);
            Assert.Equal(
                new KernelFault
                {
                    Kind = KernelFaultKind.PageOutOfRange,
                    Row = 32,
                    Token = 32,
                    Value = page,
                },
                Run(items)
            );
        }

        KernelFault Run(WorkItem[] list)
        {
            KernelFault fault = default;
            @case.Prepare(
                list,
                1,
                kernel.TileRows,
                args =>
                {
                    KernelFault found = default;
                    args.Fault = (nint)(&found);
                    kernel.Run(ref args, default, null);
                    fault = found;
                }
            );
            return fault;
        }
    }

    /// <summary>Whole and split items, for all KV heads together and for each by itself.</summary>
    private void Check(AttentionCase @case, int vectorBits)
    {
        using CpuAttentionKernels kernels = new(@case.Spec, _pool, vectorBits);
        PrefillKernel kernel = kernels.Prefill(isPaged: !@case.IsRagged);
        foreach (bool split in (bool[])[false, true])
        {
            foreach (int heads in new[] { kernel.HeadTiles, 1 }.Distinct())
            {
                @case.Check(@case.Run(kernel, @case.PrefillItems(kernel, heads, split), heads), $"{kernel.Name}, {heads} heads of an item");
            }
        }
    }
}
