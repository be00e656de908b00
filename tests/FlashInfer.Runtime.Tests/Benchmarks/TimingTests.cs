namespace FlashInfer.Tests.Benchmarks;

public sealed class TimingTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(6)]
    [InlineData(7)]
    public void Pieces_in_turn_stand_equally_often_in_each_place_and_behind_each_other(int pieces)
    {
        List<int> order = [];
        Timing[] timings = Timing.InTurn([.. Enumerable.Range(0, pieces).Select<int, Func<double>>(piece => () => Time(piece))]);

        int[][] turns = [.. order.Skip(pieces).Chunk(pieces)];
        int each = turns.Length / pieces;
        Assert.True(turns.Length >= 10 && turns.Length == each * pieces);
        Assert.All(
            Enumerable.Range(0, pieces),
            place => Assert.All(turns.CountBy(turn => turn[place]), count => Assert.Equal(each, count.Value))
        );
        (int, int)[] steps = [.. turns.SelectMany(turn => turn.Zip(turn.Skip(1)))];
        Assert.Equal(pieces * (pieces - 1), steps.Distinct().Count());
        Assert.All(steps.CountBy(step => step), count => Assert.Equal(each, count.Value));
        Assert.Equal(Enumerable.Range(0, pieces).Select(piece => new Timing(piece + 1, 0)), timings);

        double Time(int piece)
        {
            order.Add(piece);
            return piece + 1;
        }
    }

    [Fact]
    public void A_time_is_the_median_and_says_how_far_its_rounds_lie_apart()
    {
        Queue<double> rounds = new([5, 1, 3, 2, 4]);

        Assert.Equal(new Timing(3, 4 / 3.0), Timing.OfFive(rounds.Dequeue));
    }

    [Fact]
    public void Sustained_pieces_take_nine_rounds_every_other_turn_the_other_way_round()
    {
        List<string> order = [];
        Queue<double> a = new([5, 1, 3, 2, 4, 9, 8, 7, 6]);
        Queue<double> b = new([50, 10, 30, 20, 40, 90, 80, 70, 60]);

        Timing[] timings = Timing.Sustained(() => Next("a", a), () => Next("b", b));

        Assert.Equal("ab ba ab ba ab ba ab ba ab", string.Join(' ', order.Chunk(2).Select(pair => string.Concat(pair))));
        Assert.Equal([new Timing(5, 8 / 5.0), new Timing(50, 80 / 50.0)], timings);

        double Next(string piece, Queue<double> rounds)
        {
            order.Add(piece);
            return rounds.Dequeue();
        }
    }
}
