using System.Runtime.InteropServices;
using System.Text;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Variants;

/// <summary>Functions that a GPU computes in its own way, against double precision: their errors are those of docs/variants.md.</summary>
public sealed class VariantFunctionTests
{
    private const int Samples = 1 << 16;
    private const int Threads = 256;

    [Theory]
    [InlineData("fast_exp", -8, 8, -21, true)]
    [InlineData("fast_exp2", -100, 100, -22, true)]
    [InlineData("fast_sigmoid", -20, 20, -11, false)]
    [InlineData("fast_tanh", -12, 12, -10, true)]
    [InlineData("reciprocal_estimate", 1e-3, 1e3, -22, true)]
    [InlineData("reciprocal_sqrt_estimate", 1e-3, 1e3, -22, true)]
    [InlineData("tanh", -12, 12, -22, false)]
    [InlineData("log2", 0.5, 2, -22, false)]
    [InlineData("log2", 2, 1e6, -22, true)]
    [InlineData("sin", -1e5, 1e5, -23, false)]
    [InlineData("cos", -1e5, 1e5, -23, false)]
    public void An_error_is_within_what_is_documented(string function, double from, double to, int power, bool isRelative)
    {
        using CudaContext context = Gpu.Require();
        using CudaBackend backend = Gpu.Backend(context);
        float[] inputs = [.. Enumerable.Range(0, Samples).Select(i => (float)(from + ((to - from) * i / (Samples - 1))))];

        float[] results = Run(context, backend, function, inputs);

        double worst = inputs
            .Zip(results)
            .Max(pair =>
            {
                double exact = Exact(function, pair.First);
                return Math.Abs(pair.Second - exact) / (isRelative && exact != 0 ? Math.Abs(exact) : 1);
            });
        TestContext.Current.TestOutputHelper?.WriteLine($"{function}: 2^{Math.Log2(worst):F1} of 2^{power}");
        // The result's own rounding is not the function's.
        Assert.InRange(worst, 0, Math.Pow(2, power) + Math.Pow(2, -24));
    }

    private static double Exact(string function, double x) =>
        function switch
        {
            "fast_exp" => Math.Exp(x),
            "fast_exp2" => Math.Pow(2, x),
            "fast_sigmoid" => 1 / (1 + Math.Exp(-x)),
            "reciprocal_estimate" => 1 / x,
            "reciprocal_sqrt_estimate" => 1 / Math.Sqrt(x),
            "tanh" or "fast_tanh" => Math.Tanh(x),
            "log2" => Math.Log2(x),
            "sin" => Math.Sin(x),
            _ => Math.Cos(x),
        };

    private static float[] Run(CudaContext context, CudaBackend backend, string function, float[] inputs)
    {
        string text = $$"""
            #include "core/csharp.cuh"

            struct Params {
              const float* inputs;
              float* results;
            };

            extern "C" __global__ void apply(const __grid_constant__ Params p) {
              const int i = blockIdx.x * blockDim.x + threadIdx.x;
              p.results[i] = flashinfer::csharp::{{function}}(p.inputs[i]);
            }

            """;
        // Finds and loads NVRTC.
        _ = new KernelCompiler().DescribeNvrtc();
        NvrtcOutput output = NvrtcLibrary.Compile(
            "apply.cu",
            Encoding.UTF8.GetBytes(text),
            KernelHeaders.Embedded.Texts,
            KernelHeaders.Embedded.Names,
            [$"--gpu-architecture={context.Architecture}", "--std=c++17", "--minimal"]
        );
        Assert.True(output.Error is null, $"{output.Error}\n{output.Log}");
        using CudaModule module = CudaModule.Load(context, output.Image);
        int bytes = inputs.Length * sizeof(float);
        Params args = new() { Inputs = backend.Allocate(bytes), Results = backend.Allocate(bytes) };
        float[] results = new float[inputs.Length];
        backend.CopyIn(args.Inputs, MemoryMarshal.AsBytes(inputs.AsSpan()), null);
        module.GetFunction("apply").Launch(args, new(inputs.Length / Threads), new(Threads), 0, backend.Stream);
        backend.CopyOut(MemoryMarshal.AsBytes(results.AsSpan()), args.Results, null);
        backend.Free(args.Inputs);
        backend.Free(args.Results);
        return results;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Params
    {
        public nint Inputs;
        public nint Results;
    }
}
