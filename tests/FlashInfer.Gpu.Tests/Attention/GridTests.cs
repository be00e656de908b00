using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>A sample of each grid on the GPU.</summary>
public class GridTests
{
    private const int KeyElements = 1 << 18;
    private const int QueryElements = 1 << 18;

    private static int Cases => int.TryParse(Environment.GetEnvironmentVariable("FLASHINFER_GRID_CASES"), out int cases) ? cases : 500;

    [Fact]
    public void Edges_are_exact()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        EdgeScenario.Check(device);
    }

    // A method for each grid: eng/gpu-run.sh deals methods to processes.

    [Fact]
    public void Decode() => Check("decode");

    [Fact]
    public void Paged_prefill() => Check("paged prefill");

    [Fact]
    public void Ragged_prefill() => Check("ragged prefill");

    [Fact]
    public void Values_of_another_size() => Check("values of another size");

    [Fact]
    public void Single_sequence() => Check("single sequence");

    [Fact]
    public void Fp8() => Check("fp8");

    [Fact]
    public void Sliding_window() => Check("sliding window");

    [Fact]
    public void Soft_cap_and_ALiBi() => Check("soft cap and ALiBi");

    [Fact]
    public void Custom_mask() => Check("custom mask");

    [Fact]
    public void Sinks() => Check("sinks");

    [Fact]
    public void Odd_groups() => Check("odd groups");

    [Fact]
    public void HeadDim_512() => Check("headDim 512");

    [Fact]
    public void Every_grid_has_its_method() =>
        Assert.Equal(
            Grid.All.Select(grid => grid.Name.Replace(' ', '_')).Order(StringComparer.OrdinalIgnoreCase),
            typeof(GridTests)
                .GetMethods()
                .Select(method => method.Name)
                .Intersect(Grid.All.Select(grid => grid.Name.Replace(' ', '_')), StringComparer.OrdinalIgnoreCase)
                .Order(StringComparer.OrdinalIgnoreCase),
            StringComparer.OrdinalIgnoreCase
        );

    private static void Check(string name)
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        Grid grid = Grid.All.Single(grid => grid.Name == name);
        int seed = Random.Shared.Next();
        ScenarioErrors worst = Gpu.Check(device, Enumerable.Range(seed, Cases).Select(one => grid.Draw(one, KeyElements, QueryElements)));
        Gpu.Report($"grid {name}", $"worst of {Cases} cases, seed {seed}", worst);
    }
}
