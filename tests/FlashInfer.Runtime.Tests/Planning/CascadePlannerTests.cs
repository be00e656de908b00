using CsCheck;
using FlashInfer.Planning;

namespace FlashInfer.Tests.Planning;

public class CascadePlannerTests
{
    private static readonly CascadeCosts s_free = new(Page: 10, Row: 0, Level: 0);

    private static readonly Gen<(int[] Shared, int[] QueryTokens)> s_batches = Gen.Select(
        Gen.Int[0, 6].Array[1, 8],
        Gen.Int[0, 3].Array[8],
        (shared, tokens) => ((int[])[0, .. shared[1..]], tokens[..shared.Length])
    );

    [Fact]
    public void Ranges_follow_each_other_inside_what_is_shared()
    {
        Gen.Select(s_batches, Gen.Int[1, 4])
            .Sample(
                (batch, levels) =>
                {
                    int n = batch.Shared.Length;
                    int[] ends = new int[levels * n];
                    int used = new CascadePlanner(batch.Shared, batch.QueryTokens, s_free).Choose(levels, ends);

                    Assert.InRange(used, 0, levels);
                    for (int i = 0; i < n; i++)
                    {
                        for (int level = 0; level < levels; level++)
                        {
                            int begin = level == 0 ? 0 : ends[((level - 1) * n) + i];
                            int end = ends[(level * n) + i];
                            int before = batch.Shared[i];
                            int after = i + 1 < n ? batch.Shared[i + 1] : 0;
                            Assert.True(end == begin || (level < used && end > begin && end <= Math.Max(before, after)));
                        }
                    }
                }
            );
    }

    /// <summary>
    /// One level is a cut of the batch into groups, each as large as what its sequences share allows: all such cuts tried, none saves more.
    /// </summary>
    [Fact]
    public void One_level_saves_as_much_as_any_groups_could()
    {
        Gen.Select(s_batches, Gen.Int[0, 12], Gen.Int[0, 60])
            .Sample(
                (batch, row, level) =>
                {
                    CascadeCosts costs = new(Page: 10, row, level);
                    int n = batch.Shared.Length;
                    long best = 0;
                    for (int cuts = 0; cuts < 1 << (n - 1); cuts++)
                    {
                        long saved = -level;
                        for (int first = 0; first < n; )
                        {
                            int last = first + 1;
                            while (last < n && (cuts >> (last - 1) & 1) == 0)
                            {
                                last++;
                            }

                            int common = last - first < 2 ? 0 : batch.Shared[(first + 1)..last].Min();
                            bool isWhole = (first == 0 || batch.Shared[first] < common) && (last == n || batch.Shared[last] < common);
                            saved += isWhole ? Math.Max(0, Saved(batch, first, last, 0, common, costs)) : 0;
                            first = last;
                        }

                        best = Math.Max(best, saved);
                    }

                    int[] ends = new int[n];
                    int used = new CascadePlanner(batch.Shared, batch.QueryTokens, costs).Choose(1, ends);

                    Assert.Equal(best, used == 0 ? 0 : Saved(batch, new int[n], ends, costs) - level);
                }
            );
    }

    [Fact]
    public void More_levels_never_save_less()
    {
        s_batches.Sample(batch =>
        {
            int n = batch.Shared.Length;
            long saved = 0;
            for (int levels = 1; levels <= 4; levels++)
            {
                int[] ends = new int[levels * n];
                new CascadePlanner(batch.Shared, batch.QueryTokens, s_free).Choose(levels, ends);
                long now = 0;
                for (int level = 0; level < levels; level++)
                {
                    int[] begins = level == 0 ? new int[n] : ends[((level - 1) * n)..(level * n)];
                    now += Saved(batch, begins, ends[(level * n)..((level + 1) * n)], s_free);
                }

                Assert.True(now >= saved, $"{levels} levels save {now}, one fewer {saved}");
                saved = now;
            }
        });
    }

    [Fact]
    public void A_prompt_that_all_share_does_not_hide_what_most_share()
    {
        // 8 documents of 100 pages behind a prompt of one, 8 sequences each.
        int[] shared =
        [
            .. Enumerable
                .Range(0, 64)
                .Select(i =>
                    i == 0 ? 0
                    : i % 8 == 0 ? 1
                    : 101
                ),
        ];
        int[] ones = [.. shared.Select(_ => 1)];
        int[] ends = new int[128];

        Assert.Equal(1, new CascadePlanner(shared, ones, s_free).Choose(1, ends));
        Assert.All(ends[..64], end => Assert.Equal(101, end));
        Assert.Equal(2, new CascadePlanner(shared, ones, s_free).Choose(2, ends));
        Assert.All(ends[..64], end => Assert.Equal(1, end));
        Assert.All(ends[64..], end => Assert.Equal(101, end));
    }

    [Fact]
    public void Neighbours_that_share_a_little_more_each_time_take_no_time()
    {
        int[] shared = [.. Enumerable.Range(0, 5000)];
        int[] ends = new int[3 * 5000];

        Assert.InRange(new CascadePlanner(shared, [.. shared.Select(_ => 1)], s_free).Choose(3, ends), 1, 3);
    }

    private static long Saved((int[] Shared, int[] QueryTokens) batch, int[] begins, int[] ends, CascadeCosts costs)
    {
        long saved = 0;
        for (int first = 0; first < ends.Length; )
        {
            int last = first + 1;
            while (last < ends.Length && (begins[last], ends[last]) == (begins[first], ends[first]) && batch.Shared[last] >= ends[first])
            {
                last++;
            }

            saved += ends[first] > begins[first] ? Saved(batch, first, last, begins[first], ends[first], costs) : 0;
            first = last;
        }

        return saved;
    }

    private static long Saved((int[] Shared, int[] QueryTokens) batch, int first, int last, int begin, int end, CascadeCosts costs) =>
        ((last - first - 1L) * (end - begin) * costs.Page) - (batch.QueryTokens[first..last].Sum() * costs.Row);
}
