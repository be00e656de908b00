extern alias generators;

using System.Runtime.InteropServices;
using System.Text;
using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Tests.Fuzz;
using Microsoft.CodeAnalysis;
using VariantParser = generators::FlashInfer.Generators.Parsing.VariantParser;

namespace FlashInfer.Gpu.Tests.Variants;

/// <summary>
/// Random variants: what C# computes here against what their CUDA text computes on the GPU, bit for bit. Without contraction, and
/// without the functions that a GPU rounds in its own way.
/// </summary>
public sealed class VariantFuzzTests
{
    private const int Programs = 48;

    [Fact]
    public void CSharp_and_CUDA_compute_the_same()
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        MetadataReference[] references = [.. References()];
        FuzzCase[] cases =
        [
            .. FuzzCase.Seeds(Programs).Select(seed => FuzzCase.Make(seed, FuzzProgram.Members(seed, exactOnly: true), references, Lower)),
        ];
        TestContext.Current.TestOutputHelper?.WriteLine($"FLASHINFER_FUZZ_SEED={cases[0].Seed}");

        byte[][] images = [.. cases.AsParallel().AsOrdered().Select(one => Compile(context, one))];
        int compared = cases.Zip(images).Sum(pair => pair.First.Check(Run(context, pair.Second, backend, pair.First)));

        TestContext.Current.TestOutputHelper?.WriteLine($"{compared} values compared");
        Assert.True(compared > cases.Length * FuzzCase.Rows * FuzzData.ResultWords / 2, $"only {compared} values could be compared");
    }

    private static string? Lower(INamedTypeSymbol type, Microsoft.CodeAnalysis.Compilation compilation) =>
        VariantParser.Parse(type, compilation, CancellationToken.None)?.Cuda;

    /// <summary>What this process runs on.</summary>
    private static IEnumerable<MetadataReference> References() =>
        ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!)
            .Split(Path.PathSeparator)
            .Where(static file => Path.GetFileName(file).StartsWith("System.", StringComparison.Ordinal))
            .Append(typeof(AttentionConfigAttribute).Assembly.Location)
            .Select(static file => MetadataReference.CreateFromFile(file));

    /// <summary>Not by the product's options, which allow a product and a sum to be rounded once.</summary>
    private static byte[] Compile(CudaContext context, FuzzCase one)
    {
        string text = $$"""
            #include "attention/variant.cuh"
            #include "core/csharp.cuh"

            {{FuzzData.Evaluate}}
            {{one.Cuda}}
            struct FuzzParams {
              const unsigned* data;
              unsigned* results;
            };

            extern "C" __global__ void fuzz(const __grid_constant__ FuzzParams p) {
              evaluate<Variant>(p.data, p.results, threadIdx.x);
            }

            """;
        // Finds and loads NVRTC.
        _ = new KernelCompiler().DescribeNvrtc();
        string[] options = [$"--gpu-architecture={context.Architecture}", "--std=c++17", "--minimal", "--fmad=false"];
        NvrtcOutput output = NvrtcLibrary.Compile(
            "fuzz.cu",
            Encoding.UTF8.GetBytes(text),
            KernelHeaders.Embedded.Texts,
            KernelHeaders.Embedded.Names,
            options
        );
        Assert.True(output.Error is null, $"{output.Error}\n{output.Log}");
        return output.Image;
    }

    private static uint[] Run(CudaContext context, byte[] image, CudaBackend backend, FuzzCase one)
    {
        using CudaModule module = CudaModule.Load(context, image);
        uint[] results = new uint[one.Expected.Length];
        FuzzParams args = new()
        {
            Data = backend.Allocate(one.Data.Length * sizeof(uint)),
            Results = backend.Allocate(results.Length * sizeof(uint)),
        };
        backend.CopyIn(args.Data, MemoryMarshal.AsBytes(one.Data.AsSpan()), null);
        module.GetFunction("fuzz").Launch(args, new(1), new(FuzzCase.Rows), 0, backend.Stream);
        backend.CopyOut(MemoryMarshal.AsBytes(results.AsSpan()), args.Results, null);
        backend.Free(args.Data);
        backend.Free(args.Results);
        return results;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct FuzzParams
    {
        public nint Data;
        public nint Results;
    }
}
