using Xunit.Abstractions;

namespace FlashInfer.Tests.Attention;

/// <summary>A sample of each grid on the CPU device; small cases, many of them.</summary>
public class GridTests(ITestOutputHelper output)
{
    private const int Cases = 500;
    private const int KeyElements = 12_000;
    private const int QueryElements = 4_000;

    public static TheoryData<string> Names => [.. Grid.All.Select(grid => grid.Name)];

    [Fact]
    public void Edges_are_exact()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 3 });
        EdgeScenario.Check(device);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_sample_agrees_with_the_oracle(string name)
    {
        Grid grid = Grid.All.Single(grid => grid.Name == name);
        int seed = Random.Shared.Next();
        output.WriteLine($"seed {seed}");
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 3 });
        for (int i = 0; i < Cases; i++)
        {
            (GridApi api, DecodeCase one) = grid.Draw(seed + i, KeyElements, QueryElements);
            Grid.Check(device, api, one);
        }
    }
}
