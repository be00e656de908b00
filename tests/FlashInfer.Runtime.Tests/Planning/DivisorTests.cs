using CsCheck;
using FlashInfer.Planning;

namespace FlashInfer.Tests.Planning;

public class DivisorTests
{
    [Fact]
    public void Quotients_are_those_of_a_division()
    {
        Gen.Select(Gen.OneOf(Gen.Int[1, 300], Gen.Int[1, int.MaxValue]), Gen.Int[0, int.MaxValue])
            .Sample(
                (divisor, any) =>
                {
                    Divisor by = new(divisor);
                    int multiple = any / divisor * divisor;
                    foreach (int dividend in (int[])[any, multiple, Math.Max(0, multiple - 1), 0, int.MaxValue])
                    {
                        Assert.Equal(dividend / divisor, by.Quotient(dividend));
                        if (dividend <= int.MaxValue - divisor + 1)
                        {
                            Assert.Equal((dividend + divisor - 1) / divisor, by.Ceiling(dividend));
                        }
                    }
                },
                iter: 100_000
            );
    }
}
