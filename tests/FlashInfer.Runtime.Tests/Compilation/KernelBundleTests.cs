using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Runtime.Tests.Observability;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Runtime.Tests.Compilation;

/// <summary>Kernels beside the program: found without a compiler, never mistaken, and passed over when damaged.</summary>
public sealed class KernelBundleTests
{
    private const string Architecture = "sm_90a";

    private static readonly KernelHeaders s_headers = TestUnits.Headers(("value.cuh", "#define VALUE 1\n"));

    [Fact]
    public void A_kernel_of_a_bundle_needs_no_compiler()
    {
        using TemporaryFolder folder = new();
        byte[] cubin = Write(folder, TestUnits.Tiny());
        using FakeLog log = new();

        CompiledKernel kernel = Compiler(folder, log: log).Compile(TestUnits.Tiny(), Architecture);

        Assert.Equal(KernelOrigin.Bundle, kernel.Origin);
        Assert.Equal(cubin, kernel.Cubin.ToArray());
        Assert.Equal(("fi_tiny", Architecture, "NVRTC 1.2", "the log\n"), (kernel.Unit, kernel.Architecture, kernel.Compiler, kernel.Log));
        Assert.Equal(["LoadedFromBundle"], log.Events);
    }

    [Theory]
    [InlineData("unit")]
    [InlineData("name")]
    [InlineData("header")]
    [InlineData("architecture")]
    public void Another_kernel_is_not_taken_for_it(string difference)
    {
        using TemporaryFolder folder = new();
        Write(folder, TestUnits.Tiny());
        KernelHeaders headers = difference == "header" ? TestUnits.Headers(("value.cuh", "#define VALUE 2\n")) : s_headers;
        TranslationUnit unit = difference switch
        {
            "unit" => TestUnits.Tiny(3),
            "name" => new TranslationUnit("fi_other", TestUnits.Tiny().Source.Span),
            _ => TestUnits.Tiny(),
        };
        string architecture = difference == "architecture" ? "sm_90" : Architecture;

        string message = Assert.Throws<KernelCompilationException>(() => Compiler(folder, headers).Compile(unit, architecture)).Message;

        Assert.Contains(
            $"It is not among the kernels compiled ahead of time: {folder.File("App.fikernels")} for {Architecture}.",
            message,
            StringComparison.Ordinal
        );
    }

    public static TheoryData<string, int, int> Damages
    {
        get
        {
            using TemporaryFolder folder = new();
            Write(folder, TestUnits.Tiny());
            int length = (int)new FileInfo(folder.File("App.fikernels")).Length;
            TheoryData<string, int, int> data = [];

            // Each part of the file: magic, version, sizes, checksum, index, cubin; and every kind of cut.
            foreach (int at in (int[])[0, 8, 12, 16, 20, 52, 100, 160, length - 1])
            {
                data.Add("flip", at, length);
            }

            foreach (int at in (int[])[0, 7, 51, 60, length - 200, length - 1])
            {
                data.Add("cut", at, length);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Damages))]
    public void A_damaged_bundle_is_passed_over_with_a_warning(string damage, int at, int length)
    {
        using TemporaryFolder folder = new();
        Write(folder, TestUnits.Tiny());
        string path = folder.File("App.fikernels");
        byte[] file = File.ReadAllBytes(path);
        Assert.Equal(length, file.Length);
        if (damage == "flip")
        {
            file[at] ^= 0x40;
        }

        File.WriteAllBytes(path, damage == "flip" ? file : file[..at]);
        using FakeLog log = new();
        KernelCompiler compiler = Compiler(folder, log: log);

        Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(), Architecture));

        Assert.StartsWith(
            $"The kernels compiled ahead of time cannot be used, and are compiled at run time instead: the bundle '{path}' ",
            Assert.Single(log.Warnings),
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void A_whole_bundle_is_used_beside_a_damaged_one()
    {
        using TemporaryFolder folder = new();
        Write(folder, TestUnits.Tiny());
        File.WriteAllText(folder.File("A.fikernels"), "damaged");

        Assert.Equal(KernelOrigin.Bundle, Compiler(folder).Compile(TestUnits.Tiny(), Architecture).Origin);
    }

    [Fact]
    public void The_same_kernels_give_the_same_bytes_in_any_order()
    {
        using TemporaryFolder folder = new();
        TranslationUnit[] units = [TestUnits.Tiny(2, "fi_a"), TestUnits.Tiny(3, "fi_b"), TestUnits.Tiny(4, "fi_c")];
        Write(folder, units);
        byte[] first = File.ReadAllBytes(folder.File("App.fikernels"));

        Write(folder, [units[2], units[0], units[1]]);

        Assert.Equal(first, File.ReadAllBytes(folder.File("App.fikernels")));
        Assert.Single(folder.Files);
    }

    [Fact]
    public void Bundles_can_be_left_aside()
    {
        using TemporaryFolder folder = new();
        Write(folder, TestUnits.Tiny());

        Assert.Throws<KernelCompilationException>(() => Compiler(folder, useBundles: false).Compile(TestUnits.Tiny(), Architecture));
        Assert.Throws<KernelCompilationException>(() => Compiler(folder, lineInfo: true).Compile(TestUnits.Tiny(), Architecture));
    }

    [Fact]
    public void A_gpu_whose_kernels_are_in_a_bundle_needs_no_compiler()
    {
        using TemporaryFolder folder = new();
        Write(folder, TestUnits.Tiny());

        Assert.Null(Compiler(folder).WhyNoKernels(Architecture));
        Assert.StartsWith("NVRTC, CUDA's run-time compiler", Compiler(folder).WhyNoKernels("sm_80"), StringComparison.Ordinal);
    }

    [Fact]
    public void PTX_is_the_last_resort_for_another_architecture()
    {
        using TemporaryFolder folder = new();
        TranslationUnit unit = TestUnits.Tiny();
        CompiledKernel cubin = new(unit.Name, Architecture, new byte[] { 1 }, "", "NVRTC 1.2", KernelOrigin.Compiled, TimeSpan.Zero);
        CompiledKernel ptx = new(
            unit.Name,
            "compute_80",
            ".version 8.0"u8.ToArray(),
            "",
            "NVRTC 1.2",
            KernelOrigin.Compiled,
            TimeSpan.Zero
        );
        KernelBundle.Write(folder.File("App.fikernels"), [(unit, cubin), (unit, ptx)], s_headers);
        using FakeLog log = new();
        KernelCompiler compiler = Compiler(folder, log: log);

        CompiledKernel exact = compiler.Compile(unit, Architecture);
        CompiledKernel newer = compiler.Compile(unit, "sm_120");

        Assert.Equal((false, Architecture), (exact.IsPtx, exact.Architecture));
        Assert.Equal((true, "compute_80", KernelOrigin.Bundle), (newer.IsPtx, newer.Architecture, newer.Origin));
        Assert.Equal(".version 8.0"u8.ToArray(), newer.Cubin.ToArray());
        Assert.Contains("for sm_120 is only there as PTX", Assert.Single(log.Warnings), StringComparison.Ordinal);
        Assert.Null(compiler.WhyNoKernels("sm_120"));
        Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(3), "sm_120"));
    }

    [SkippableFact]
    public void A_cubin_says_what_its_kernel_is_without_a_driver()
    {
        TranslationUnit unit = new AttentionSpec(32, 8, 128, 16, DType.BFloat16).AppendUnit;
        byte[] cubin = TestNvrtc.Compiler().Compile(unit, Architecture).Cubin.ToArray();
        KernelInfo info = default;
        Span<byte> bytes = MemoryMarshal.AsBytes(new Span<KernelInfo>(ref info));

        Assert.True(CubinImage.TryReadVariable(cubin, unit.Name + "_info", bytes));
        Assert.Equal(CudaUnits.AbiVersion, info.AbiVersion);
        Assert.InRange(info.Threads, 32, 1024);
        Assert.False(CubinImage.TryReadVariable(cubin, unit.Name + "_inf", bytes));
        Assert.False(CubinImage.TryReadVariable(cubin, unit.Name + "_info", bytes[1..]));
    }

    private static byte[] Write(TemporaryFolder folder, params TranslationUnit[] units)
    {
        byte[] cubin = [.. Enumerable.Range(0, 300).Select(static i => (byte)(i * 7))];
        KernelBundle.Write(
            folder.File("App.fikernels"),
            units.Select(unit =>
                (unit, new CompiledKernel(unit.Name, Architecture, cubin, "the log\n", "NVRTC 1.2", KernelOrigin.Compiled, TimeSpan.Zero))
            ),
            s_headers
        );
        return cubin;
    }

    private static KernelCompiler Compiler(
        TemporaryFolder folder,
        KernelHeaders? headers = null,
        ILoggerFactory? log = null,
        bool useBundles = true,
        bool lineInfo = false
    ) =>
        new(
            new KernelCompilerOptions
            {
                BundleDirectory = folder.Path,
                UseBundles = useBundles,
                UseCache = false,
                NvrtcPath = "/nowhere",
                LineInfo = lineInfo,
                LoggerFactory = log,
            },
            headers ?? s_headers,
            new FakeHost()
        );
}
