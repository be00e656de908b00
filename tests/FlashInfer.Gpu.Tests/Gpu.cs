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

    /// <summary>
    /// Loads the kernels of several cases at the same time: compiled one after another they would take most of the time of a test of many
    /// shapes.
    /// </summary>
    /// <param name="device">Where the cases will run.</param>
    /// <param name="cases">The cases.</param>
    /// <param name="load">Asks for what a case will need.</param>
    public static void Load(Device device, IEnumerable<DecodeCase> cases, Action<AttentionKernels, DecodeCase> load) =>
        Parallel.ForEach(cases, one => load(device.Kernels(one.Spec), one));

    /// <summary>Bytes that differ from each other and between seeds.</summary>
    public static byte[] RandomBytes(int count, int seed)
    {
        byte[] bytes = new byte[count];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }
}
