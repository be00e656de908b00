using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>A sample of each grid on the GPU.</summary>
public class GridTests
{
    private const int KeyElements = 1 << 20;
    private const int QueryElements = 1 << 20;

    // Kernels on the device at a time.
    private const int Loaded = 64;

    private static int Cases => int.TryParse(Environment.GetEnvironmentVariable("FLASHINFER_GRID_CASES"), out int cases) ? cases : 500;

    public static TheoryData<string> Names => [.. Grid.All.Select(grid => grid.Name)];

    [Fact]
    public void Edges_are_exact()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        EdgeScenario.Check(device);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_sample_agrees_with_the_oracle(string name)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        Grid grid = Grid.All.Single(grid => grid.Name == name);
        int seed = Random.Shared.Next();
        (GridApi Api, DecodeCase Case)[] drawn =
        [
            .. Enumerable.Range(0, Cases).Select(i => grid.Draw(seed + i, KeyElements, QueryElements)),
        ];
        Parallel.ForEach(
            drawn.DistinctBy(one => (one.Api, one.Case.Spec.ToString(), one.Case.QueryTokens?.Max())).Take(Loaded),
            one => Load(device.Kernels(one.Case.Spec), one.Api, one.Case)
        );
        ScenarioErrors worst = default;
        foreach ((GridApi api, DecodeCase one) in drawn)
        {
            worst = ScenarioErrors.Worst(worst, Grid.Check(device, api, one));
        }

        // eng/gpu-run.sh takes these lines into the results file.
        Console.WriteLine(
            FormattableString.Invariant(
                $"ROW|oracle|grid {name}, worst of {Cases} cases, seed {seed}: output||{worst.Relative:E3}\nROW|oracle|grid {name}, the same: worst row over its largest value||{worst.WorstRow:E3}\nROW|oracle|grid {name}, the same: LSE||{worst.Lse:E3}"
            )
        );
    }

    private static void Load(AttentionKernels kernels, GridApi api, DecodeCase one)
    {
        if (api != GridApi.Decode)
        {
            kernels.Prefill(isPaged: api == GridApi.Paged);
            return;
        }

        int queryTokens = one.QueryTokens?.Max() ?? 1;
        kernels.Decode(queryTokens);
        kernels.WideDecode(queryTokens);
    }
}
