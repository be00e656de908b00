namespace FlashInfer.Tests.Benchmarks;

public sealed class PrefillCasesTests
{
    [Fact]
    public void Operations_are_half_of_the_square_when_causal_and_all_of_it_otherwise()
    {
        PrefillCase square = PrefillCase.Square(32, 8, 2, 1024);
        Assert.Equal(2 * 2.0 * 32 * 128 * 1024 * 1024, square.Flops);
        Assert.Equal(2 * square.Flops, (square with { IsCausal = false }).Flops);

        // Of a chunk the tokens before it are all seen; and the chunks of a prompt are together what the prompt is.
        PrefillCase chunk = PrefillCase.Uniform(32, 8, 2, 256, 1024);
        Assert.Equal(2 * 4.0 * 32 * 128 * 256 * (1024 - 128), chunk.Flops);
        Assert.Equal(square.Flops, new[] { 256, 512, 768, 1024 }.Sum(length => PrefillCase.Uniform(32, 8, 2, 256, length).Flops));
    }

    [Fact]
    public void Every_case_is_legal_and_stands_in_the_grid_once()
    {
        PrefillCase[] cases = [.. PrefillCases.All.SelectMany(group => group.Cases)];
        Assert.All(cases, measured => Assert.True(AttentionRules.IsLegal(measured.Spec.Shape), measured.Name));

        // The yardstick of two groups is a case that another group compares with cuDNN.
        string[] twice = [.. cases.GroupBy(measured => measured.Name).Where(same => same.Count() > 1).Select(same => same.Key)];
        Assert.Equal(["32/8 d128 ragged bf16 causal batch=1 qoLen=16384 kvLen=16384"], twice);
    }

    [Fact]
    public void A_group_with_a_peer_is_of_one_shape_that_the_peer_can_run()
    {
        foreach (PrefillGroup group in PrefillCases.All.Where(group => group.Yardstick != Yardstick.First))
        {
            PrefillCase first = group.Cases[0];
            Assert.Single(first.Lengths.Distinct());
            Assert.All(first.QueryTokens, tokens => Assert.Equal(first.Lengths[0], tokens));
            Assert.Null(first.PageSize);
            Assert.All(
                group.Cases,
                measured => Assert.Equal(first with { PageSize = measured.PageSize, KvLayout = measured.KvLayout }, measured)
            );
        }
    }

    [Fact]
    public void The_uniform_yardstick_of_variable_lengths_has_as_many_operations()
    {
        PrefillGroup variable = PrefillCases.All.Single(group => group.Cases[^1].Batch.Contains("log-uniform", StringComparison.Ordinal));
        Assert.InRange(variable.Cases[1].Flops / variable.Cases[0].Flops, 0.99, 1.01);
        Assert.InRange(variable.Cases[1].Lengths.Min(), 64, 200);
        Assert.InRange(variable.Cases[1].Lengths.Max(), 4000, 8192);
    }
}
