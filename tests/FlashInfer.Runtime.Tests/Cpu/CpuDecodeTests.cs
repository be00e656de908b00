using System.Runtime.Intrinsics;
using FlashInfer.Attention;
using FlashInfer.Cpu;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests.Cpu;

public sealed class CpuDecodeTests : IDisposable
{
    private readonly CpuWorkerPool _pool = new(3);
    private readonly int _seed = Random.Shared.Next();

    public void Dispose() => _pool.Dispose();

    public static TheoryData<int, DType> Kernels
    {
        get
        {
            TheoryData<int, DType> data = [];
            foreach (int bits in new[] { 128, 256, 512 })
            {
                // A width without registers works but crawls.
                bool isFast = bits == 128 || (bits == 256 ? Vector256.IsHardwareAccelerated : Vector512.IsHardwareAccelerated);
                if (isFast)
                {
                    data.Add(bits, DType.Float16);
                    data.Add(bits, DType.BFloat16);
                }
            }

            return data;
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(5)]
    [InlineData(7)]
    [InlineData(8)]
    [InlineData(71)]
    public void Every_group_size_matches_the_oracle(int group)
    {
        foreach (object[] kernel in Kernels)
        {
            AttentionSpec spec = new(group * 2, 2, 64, 16, (DType)kernel[1]);
            using AttentionCase @case = new(spec, [0, 1, 17, 65, 130], _seed);
            Check(@case, (int)kernel[0], @case.WholeItems());
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(5)]
    [InlineData(16)]
    [InlineData(64)]
    [InlineData(1024)]
    public void Every_page_size_and_length_matches_the_oracle(int pageSize)
    {
        foreach (KvLayout layout in Enum.GetValues<KvLayout>())
        {
            foreach (DType dtype in new[] { DType.Float16, DType.BFloat16 })
            {
                AttentionSpec spec = new(4, 2, 64, pageSize, dtype, kvLayout: layout);
                using AttentionCase @case = new(spec, [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 500], _seed);
                Check(@case, CpuAttentionKernels.BestVectorBits, @case.WholeItems());
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Random_shapes_whole_and_split_match_the_oracle(int vectorBits, DType dtype)
    {
        Random random = new(_seed);
        int[] groups = [1, 2, 3, 4, 5, 6, 7, 8, 71];
        int[] headDims = [64, 96, 128, 192, 256];
        int[] pageSizes = [1, 5, 16, 64, 1024];
        int[] lengths = [0, 1, 15, 16, 17, 63, 64, 65, 200, 333, 500, 1100];
        for (int i = 0; i < 12; i++)
        {
            int group = random.GetItems(groups, 1)[0];
            int kvHeads = group == 71 ? 1 : random.Next(1, 5);
            AttentionSpec spec = new(
                group * kvHeads,
                kvHeads,
                random.GetItems(headDims, 1)[0],
                random.GetItems(pageSizes, 1)[0],
                dtype,
                random.GetItems<DType?>([null, null, DType.Float8E4M3, DType.Float8E5M2], 1)[0],
                (KvLayout)random.Next(2)
            );

            // A bound on the oracle's work keeps the suite quick.
            long budget = 1_500_000L / (spec.Heads * spec.HeadDim);
            int[] kvLens = [.. random.GetItems(lengths, random.Next(1, 6)).Where(length => (budget -= length) >= 0).DefaultIfEmpty(1)];
            int[] queryTokens = [.. kvLens.Select((_, i) => random.Next(3) == 0 ? random.Next(i == 0 ? 1 : 0, 9) : 1)];
            using AttentionCase @case = new(
                spec,
                kvLens,
                random.Next(),
                strided: random.Next(2) == 0,
                queryTokens: queryTokens,
                causal: random.Next(4) != 0
            );
            Check(@case, vectorBits, @case.WholeItems());
            Check(@case, vectorBits, @case.SplitItems());
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Query_tokens_see_what_stands_before_them(int vectorBits, DType dtype)
    {
        // More query tokens than the sequence has, too: the first see nothing. A group of 5 makes columns of all tile heights.
        foreach (bool causal in new[] { true, false })
        {
            AttentionSpec spec = new(10, 2, 64, 16, dtype);
            using AttentionCase @case = new(spec, [0, 1, 3, 64, 66, 130, 200], _seed, queryTokens: [2, 8, 5, 4, 7, 0, 8], causal: causal);
            Check(@case, vectorBits, @case.WholeItems());
            Check(@case, vectorBits, @case.SplitItems());
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Every_head_dimension_and_cache_type_matches_the_oracle(int vectorBits, DType dtype)
    {
        foreach (int headDim in (int[])[64, 96, 128, 192, 256])
        {
            foreach (DType kvDtype in (DType[])[dtype, DType.Float8E4M3, DType.Float8E5M2])
            {
                // Groups that are widened while loading, and beforehand.
                foreach (int group in (int[])[1, 4, 13])
                {
                    using AttentionCase @case = new(new AttentionSpec(group * 2, 2, headDim, 16, dtype, kvDtype), [0, 1, 70, 130], _seed);
                    Check(@case, vectorBits, @case.WholeItems());
                    Check(@case, vectorBits, @case.SplitItems());
                }
            }
        }
    }

    [Fact]
    public void Splitting_gives_the_same_bits_whatever_the_timing()
    {
        AttentionSpec spec = new(16, 4, 128, 16, DType.BFloat16);
        using AttentionCase @case = new(spec, [700, 333, 1, 0], _seed);
        WorkItem[] items = @case.SplitItems();
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        AttentionResult first = @case.Run(kernels, items);
        for (int i = 0; i < 5; i++)
        {
            Random.Shared.Shuffle(items);
            AttentionResult again = @case.Run(kernels, items);
            Assert.True(first.Output.AsSpan().SequenceEqual(again.Output), @case.ToString());
            Assert.True(first.Lse.AsSpan().SequenceEqual(again.Lse), @case.ToString());
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    public void Units_may_be_fewer_or_more_than_workers(int workers)
    {
        using CpuWorkerPool pool = new(workers);
        foreach (int[] kvLens in new int[][] { [], [40], [40, 3, 0, 90, 33, 17] })
        {
            AttentionSpec spec = new(2, 1, 64, 16, DType.Float16);
            using AttentionCase @case = new(spec, kvLens, _seed);
            using CpuAttentionKernels kernels = new(spec, pool, CpuAttentionKernels.BestVectorBits);
            Check(@case, kernels, @case.SplitItems());
        }
    }

    [Fact]
    public void The_lse_is_optional()
    {
        AttentionSpec spec = new(4, 2, 64, 16, DType.BFloat16);
        using AttentionCase @case = new(spec, [100, 0], _seed);
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        foreach (WorkItem[] items in new[] { @case.WholeItems(), @case.SplitItems() })
        {
            AttentionResult result = @case.Run(kernels, items, withLse: false);
            Assert.InRange(ErrorNorms.Relative(result.Output, @case.Expected), 0, 4e-3);
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Huge_logits_pick_the_largest_and_give_no_NaN(int vectorBits, DType dtype)
    {
        // Keys of equal elements make a token's logit a multiple of the query's sum: far above and far below 0 in one sequence.
        // Queries of mostly one sign: where products of 1e5 cancel, fp32 has no digits left that the oracle could be compared with.
        AttentionSpec spec = new(8, 2, 64, 16, dtype);
        using AttentionCase @case = new(
            spec,
            [1, 64, 200],
            _seed,
            queryScale: 4f,
            queryOffset: 16f,
            keyOverride: token => (token % 5 - 2) * 64f
        );
        Assert.True(@case.ExpectedLse.Max() > 1e4, $"{@case.ExpectedLse.Max()}");
        Check(@case, vectorBits, @case.WholeItems());
        Check(@case, vectorBits, @case.SplitItems());
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void A_row_whose_scores_are_all_minus_infinity_is_zero(int vectorBits, DType dtype)
    {
        // Only the first element of query and keys is not 0 or 1, so that no product is 0 * inf and no sum inf - inf.
        AttentionSpec spec = new(1, 1, 64, 16, dtype);
        using AttentionCase @case = new(spec, [100], _seed, queryScale: 0f, keyOverride: _ => 1f);
        @case.SetQuery(0, -1f);
        @case.SetKeys(0, float.PositiveInfinity);
        using CpuAttentionKernels kernels = new(spec, _pool, vectorBits);
        foreach (WorkItem[] items in new[] { @case.WholeItems(), @case.SplitItems() })
        {
            AttentionResult result = @case.Run(kernels, items);
            Assert.All(result.Output, value => Assert.Equal(0f, value));
            Assert.All(result.Lse, value => Assert.Equal(float.NegativeInfinity, value));
        }
    }

    [Fact]
    public void A_NaN_among_the_tokens_reaches_the_output()
    {
        AttentionSpec spec = new(8, 1, 64, 16, DType.BFloat16);
        using AttentionCase @case = new(spec, [100], _seed, keyOverride: token => token == 77 ? float.NaN : 1f);
        using CpuAttentionKernels kernels = new(spec, _pool, CpuAttentionKernels.BestVectorBits);
        foreach (WorkItem[] items in new[] { @case.WholeItems(), @case.SplitItems() })
        {
            AttentionResult result = @case.Run(kernels, items);
            Assert.All(result.Output, value => Assert.True(float.IsNaN(value)));
            Assert.All(result.Lse, value => Assert.True(float.IsNaN(value)));
        }
    }

    private void Check(AttentionCase @case, int vectorBits, WorkItem[] items)
    {
        using CpuAttentionKernels kernels = new(@case.Spec, _pool, vectorBits);
        Check(@case, kernels, items);
    }

    private static void Check(AttentionCase @case, CpuAttentionKernels kernels, WorkItem[] items) =>
        @case.Check(@case.Run(kernels, items), $"{kernels.Decode(1).Name}, {items.Length} items");
}
