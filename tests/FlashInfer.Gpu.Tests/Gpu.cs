using System.Collections.Concurrent;
using FlashInfer.Cuda;
using FlashInfer.Tests;

// One GPU, and tests that fill it or look at what is still running on it.
[assembly: CollectionBehavior(DisableTestParallelization = true)]

namespace FlashInfer.Gpu.Tests;

/// <summary>The GPU that the tests run on.</summary>
internal static class Gpu
{
    /// <summary>Set to 1 where a GPU has to be there: its absence then fails the tests instead of skipping them.</summary>
    public const string RequiredVariable = "FLASHINFER_REQUIRE_GPU";

    /// <summary>Opens device 0, or skips the test with the reason why it cannot be used.</summary>
    public static CudaContext Require()
    {
        try
        {
            return CudaContext.Open(0);
        }
        catch (DeviceUnavailableException e) when (Environment.GetEnvironmentVariable(RequiredVariable) != "1")
        {
            Assert.Skip(e.Message);
            throw;
        }
    }

    /// <summary>A backend on a context, for tests that need no attention kernels.</summary>
    public static CudaBackend Backend(CudaContext context, CudaStream? stream = null) =>
        new(context, stream, (spec, _) => throw new InvalidOperationException($"This test loads no kernels, but {spec} was asked for."));

    /// <summary>Cases, each driven through some classes.</summary>
    public static IEnumerable<(GridApi Api, DecodeCase Case)> By(IEnumerable<DecodeCase> cases, params GridApi[] apis) =>
        cases.SelectMany(one => apis.Select(api => (api, one)));

    /// <summary>Holds cases against the oracle, all of them also when some fail, after their kernels have been loaded.</summary>
    /// <returns>The largest errors.</returns>
    public static ScenarioErrors Check(Device device, IEnumerable<(GridApi Api, DecodeCase Case)> cases)
    {
        (GridApi Api, DecodeCase Case)[] all = [.. cases];
        Load(device, all);
        ScenarioErrors worst = default;
        Assert.Multiple([
            .. all.Select<(GridApi Api, DecodeCase Case), Action>(one =>
                () =>
                {
                    worst = ScenarioErrors.Worst(worst, Grid.Check(device, one.Api, one.Case));

                    // Other processes test on the same GPU: what buffers of all sizes leave in this one's pool would add up.
                    device.TrimMemory();
                }
            ),
        ]);
        return worst;
    }

    /// <summary>
    /// Loads what cases will ask for, all at the same time: compiled one after another, kernels would take most of the time of a test of many
    /// shapes.
    /// </summary>
    public static void Load(Device device, IEnumerable<(GridApi Api, DecodeCase Case)> cases)
    {
        IEnumerable<Action> loads = cases
            .Select(one => (one.Api, Kernels: device.Kernels(one.Case.Spec), QueryTokens: one.Case.QueryTokens?.Max()))
            .Distinct()
            .SelectMany(one => Loads(one.Api, one.Kernels, one.QueryTokens));
        Parallel.ForEach(Partitioner.Create(loads, EnumerablePartitionerOptions.NoBuffering), load => load());
    }

    /// <summary>Writes lines that eng/gpu-run.sh takes into the results file.</summary>
    /// <param name="what">What was checked.</param>
    /// <param name="over">Over what.</param>
    /// <param name="worst">The largest errors.</param>
    public static void Report(string what, string over, ScenarioErrors worst) =>
        Console.WriteLine(
            FormattableString.Invariant(
                $"ROW|oracle|{what}, {over}: output||{worst.Relative:E3}\nROW|oracle|{what}, the same: worst row over its largest value||{worst.WorstRow:E3}\nROW|oracle|{what}, the same: LSE||{worst.Lse:E3}"
            )
        );

    private static IEnumerable<Action> Loads(GridApi api, AttentionKernels kernels, int? queryTokens)
    {
        switch (api)
        {
            case GridApi.Decode:
                yield return () => kernels.Load(KernelKinds.Append);
                yield return () => kernels.LoadDecode(queryTokens ?? 1);
                break;
            case GridApi.Paged:
                yield return () => kernels.Load(KernelKinds.PrefillPaged);
                break;
            case GridApi.Ragged:
                yield return () => kernels.Load(KernelKinds.PrefillRagged);
                break;
            case GridApi.Single when queryTokens is null:
                yield return () => kernels.Load(KernelKinds.SingleDecode);
                break;
            default:
                yield return () => kernels.Prefill(isPaged: false);
                break;
        }
    }

    /// <summary>Bytes that differ from each other and between seeds.</summary>
    public static byte[] RandomBytes(int count, int seed)
    {
        byte[] bytes = new byte[count];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }
}
