using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>Kernels of a bundle, on a machine without NVRTC.</summary>
public sealed class BundleTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flashinfer-bundle-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>The GPU is newer than the bundle: the driver compiles the portable kernels.</summary>
    [Fact]
    public void Decode_runs_from_the_PTX_of_a_bundle()
    {
        using CudaContext context = Gpu.Require();
        DecodeCase one = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, [700, 3, 0, 129], null, 1, Seed: 5);
        KernelCompiler compiler = new();
        using Device device = OpenWith(
            context,
            [.. one.Spec.UnitsFor(KernelKinds.ShortDecode).Select(unit => (unit, compiler.CompilePtx(unit)))]
        );

        DecodeScenario.Check(device, one);
    }

    [Theory]
    [InlineData(KernelKinds.Decode, null)]
    [InlineData(KernelKinds.SpeculativeDecode, null)]
    [InlineData(KernelKinds.PrefillPaged, null)]
    [InlineData(KernelKinds.PrefillPaged, DType.Float8E4M3)]
    [InlineData(KernelKinds.PrefillRagged, null)]
    [InlineData(KernelKinds.Cascade, null)]
    [InlineData(KernelKinds.SingleDecode, null)]
    public void A_bundle_of_one_kind_is_enough_for_its_wrapper(KernelKinds kinds, DType? kvDtype)
    {
        using CudaContext context = Gpu.Require();
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16, kvDtype);
        using Device device = OpenWith(context, Compile(context, spec, kinds));

        using PagedKvCache? cache = kinds.HasFlag(KernelKinds.Append) ? new(device, spec, layers: 1, pages: 64) : null;
        using IDisposable wrapper = kinds switch
        {
            KernelKinds.Decode => new BatchDecodeWithPagedKvCache(cache!),
            KernelKinds.SpeculativeDecode => new BatchDecodeWithPagedKvCache(cache!, maxQueryTokens: 8),
            KernelKinds.PrefillPaged => new BatchPrefillWithPagedKvCache(cache!),
            KernelKinds.PrefillRagged => new BatchPrefillWithRaggedKvCache(device, spec),
            KernelKinds.Cascade => new MultiLevelCascadeAttention(cache!),
            _ => new SingleDecode(device, spec),
        };
    }

    [Fact]
    public void A_cache_is_refused_where_there_is_neither_its_kernel_nor_a_compiler()
    {
        using CudaContext context = Gpu.Require();
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16);
        using Device device = OpenWith(context, []);

        KernelCompilationException e = Assert.Throws<KernelCompilationException>(() =>
            new PagedKvCache(device, spec, layers: 1, pages: 64)
        );
        Assert.Contains(
            "has to be compiled, and NVRTC, CUDA's run-time compiler, cannot be used from",
            e.Message,
            StringComparison.Ordinal
        );
    }

    // Single tokens over a quantised cache go to decode on Hopper: with these short sequences to its kernel with teams.
    [Fact]
    public void Prefill_runs_from_a_bundle_of_its_kind()
    {
        using CudaContext context = Gpu.Require();
        int[] lengths = [.. Enumerable.Range(1, 300)];
        DecodeCase one = new(8, 2, 128, 16, DType.BFloat16, KvLayout.Nhd, 1, lengths, null, 1, Seed: 6, DType.Float8E4M3);
        using Device device = OpenWith(context, Compile(context, one.Spec, KernelKinds.PrefillPaged));

        PrefillScenario.CheckPaged(device, one with { QueryTokens = [.. lengths.Select(static _ => 1)] });
        PrefillScenario.CheckPaged(device, one with { QueryTokens = [.. lengths.Select(static length => Math.Min(length, 3))] });
    }

    private static (TranslationUnit, CompiledKernel)[] Compile(CudaContext context, AttentionSpec spec, KernelKinds kinds)
    {
        KernelCompiler compiler = new();
        return
        [
            .. spec.UnitsFor(kinds)
                .Where(unit => unit.Serves(context.Architecture))
                .AsParallel()
                .Select(unit => (unit, compiler.Compile(unit, context.Architecture))),
        ];
    }

    /// <summary>A device that has these kernels and no NVRTC.</summary>
    private Device OpenWith(CudaContext context, (TranslationUnit, CompiledKernel)[] kernels)
    {
        KernelBundle.Write(Path.Combine(_folder, "App.fikernels"), kernels, KernelHeaders.Embedded);
        KernelCompilerOptions options = new()
        {
            BundleDirectory = _folder,
            UseCache = false,
            NvrtcPath = Path.Combine(_folder, "nowhere"),
        };
        return Device.FromCuda(context, options: new DeviceOptions { Compiler = options });
    }
}
