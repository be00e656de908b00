using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>A GPU newer than the bundle, on a machine without NVRTC: the driver compiles the portable kernels.</summary>
public sealed class PtxBundleTests
{
    [Fact]
    public void Decode_runs_from_the_PTX_of_a_bundle()
    {
        using CudaContext context = Gpu.Require();
        DecodeCase one = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, [700, 3, 0, 129], null, 1, Seed: 5);
        string folder = Directory.CreateTempSubdirectory("flashinfer-ptx-").FullName;
        try
        {
            KernelCompiler compiler = new();
            KernelBundle.Write(
                Path.Combine(folder, "App.fikernels"),
                [.. one.Spec.UnitsFor(KernelKinds.ShortDecode).Select(unit => (unit, compiler.CompilePtx(unit)))],
                KernelHeaders.Embedded
            );
            using Device device = Device.FromCuda(
                context,
                options: new DeviceOptions
                {
                    Compiler = new KernelCompilerOptions
                    {
                        BundleDirectory = folder,
                        UseCache = false,
                        NvrtcPath = Path.Combine(folder, "nowhere"),
                    },
                }
            );

            DecodeScenario.Check(device, one);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
