using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Runtime.Tests.Observability;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Runtime.Tests.Compilation;

public sealed class KernelCompilerTests
{
    [SkippableTheory]
    [InlineData("sm_80")]
    [InlineData("sm_86")]
    [InlineData("sm_89")]
    [InlineData("sm_90a")]
    public void A_unit_becomes_a_cubin_with_its_resources(string architecture)
    {
        TranslationUnit unit = TestUnits.Unit(
            "fi_resources",
            """
            extern "C" __global__ void fi_resources(float* x) {
              __shared__ float s[96];
              s[threadIdx.x] = x[threadIdx.x];
              __syncthreads();
              x[threadIdx.x] = s[95 - threadIdx.x];
            }
            """
        );

        CompiledKernel kernel = TestNvrtc.Compiler().Compile(unit, architecture);

        Assert.True(kernel.Cubin.Span.StartsWith("\u007FELF"u8));
        Assert.Equal(("fi_resources", architecture, KernelOrigin.Compiled), (kernel.Unit, kernel.Architecture, kernel.Origin));
        Assert.StartsWith("NVRTC 1", kernel.Compiler, StringComparison.Ordinal);
        KernelResources resources = Assert.Single(kernel.Resources);
        Assert.InRange(resources.Registers, 4, 32);
        Assert.Equal(new KernelResources("fi_resources", resources.Registers, 0, 0, 0, 384), resources);
        Assert.True(kernel.Elapsed > TimeSpan.Zero);
    }

    [SkippableFact]
    public void A_syntax_error_says_where_and_with_what()
    {
        TranslationUnit unit = TestUnits.Unit(
            "fi_broken",
            "// first line\nextern \"C\" __global__ void fi_broken() { undefined_name(); }\n"
        );

        KernelCompilationException e = Assert.Throws<KernelCompilationException>(() => TestNvrtc.Compiler().Compile(unit, "sm_80"));

        Assert.Contains("fi_broken.cu(2): error: identifier \"undefined_name\" is undefined", e.Log, StringComparison.Ordinal);
        Assert.Contains(e.Log, e.Message, StringComparison.Ordinal);
        Assert.Matches(
            @"^NVRTC 1\d\.\d+ refused unit 'fi_broken' for sm_80: nvrtcCompileProgram gave NVRTC_ERROR_COMPILATION \(6\)\.",
            e.Message
        );
        Assert.Matches(@"\nNVRTC: \S*nvrtc\S*, which compiles for sm_.*sm_80", e.Message);
        Assert.Contains("--gpu-architecture=sm_80", e.Options);
        Assert.Contains("Options: --gpu-architecture=sm_80 --std=c++17", e.Message, StringComparison.Ordinal);
        Assert.Equal(("fi_broken", "sm_80", unit.ToString()), (e.Unit, e.Architecture, e.UnitSource));
        NvrtcInfo nvrtc = TestNvrtc.Compiler().DescribeNvrtc();
        Assert.Equal((nvrtc.Version, nvrtc.Path), (e.NvrtcVersion, e.NvrtcPath));
    }

    [SkippableFact]
    public void An_error_in_a_nested_header_names_the_header_by_its_path_from_the_root()
    {
        KernelHeaders headers = TestUnits.Headers(
            ("attention/outer.cuh", "#include \"core/inner.cuh\"\n"),
            ("core/inner.cuh", "\n\nstatic_assert(kDim == 64, \"the head dimension has to be 64\");\n")
        );
        TranslationUnit unit = TestUnits.Unit("fi_nested", "enum { kDim = 72 };\n#include \"attention/outer.cuh\"\n");

        KernelCompilationException e = Assert.Throws<KernelCompilationException>(() => Compiler(headers).Compile(unit, "sm_80"));

        Assert.Contains(
            "core/inner.cuh(3): error: static assertion failed with \"the head dimension has to be 64\"",
            e.Log,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Every_embedded_header_is_handed_over_under_a_name_with_slashes()
    {
        string[] names =
        [
            .. typeof(KernelCompiler).Assembly.GetManifestResourceNames().Where(name => name.EndsWith(".cuh", StringComparison.Ordinal)),
        ];

        Assert.Equal(names.Length, KernelHeaders.Embedded.Names.Length);
        Assert.Equal(names.Length, KernelHeaders.Embedded.Texts.Length);
        Assert.All(names, name => Assert.DoesNotContain('\\', name));
    }

    [SkippableFact]
    public void An_architecture_that_NVRTC_does_not_know_is_answered_with_those_it_does()
    {
        KernelCompilationException e = Assert.Throws<KernelCompilationException>(() =>
            TestNvrtc.Compiler().Compile(TestUnits.Tiny(), "sm_999")
        );

        Assert.Contains("invalid value for --gpu-architecture", e.Message, StringComparison.Ordinal);
        Assert.Contains("sm_80", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("")]
    [InlineData("90a")]
    [InlineData("compute_90a")]
    [InlineData("sm_90a\n")]
    [InlineData("sm_90a/..")]
    public void A_malformed_architecture_is_an_argument_mistake(string architecture)
    {
        ArgumentException e = Assert.Throws<ArgumentException>(() => new KernelCompiler().Compile(TestUnits.Tiny(), architecture));

        Assert.Equal("architecture", e.ParamName);
        Assert.Contains($"'{architecture}' is not a GPU architecture; expected sm_", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Empty_paths_are_refused()
    {
        ArgumentException empty = Assert.Throws<ArgumentException>(() =>
            new KernelCompiler(new KernelCompilerOptions { CacheDirectory = "" })
        );
        Assert.StartsWith("CacheDirectory is ''; give a path, or null for the default.", empty.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => new KernelCompiler(new KernelCompilerOptions { NvrtcPath = " " }));
    }

    [Fact]
    public void A_missing_NVRTC_is_explained_with_all_that_was_tried_and_one_thing_to_do()
    {
        List<NativeSearchStep> trace = [new("$CUDA_HOME", "not set"), new("/usr/lib64", "no libnvrtc.so.12 or newer")];

        Assert.Equal(
            "unit 'fi_tiny' for sm_80 has to be compiled, and NVRTC, CUDA's run-time compiler, was not found. "
                + "Set FLASHINFER_NVRTC to the folder that holds it: libnvrtc.so.12 or newer (nvrtc64_120_0.dll on Windows), "
                + "which comes with the CUDA toolkit and with the Python package nvidia-cuda-nvrtc.\n"
                + "Tried:\n  $CUDA_HOME: not set\n  /usr/lib64: no libnvrtc.so.12 or newer",
            KernelCompiler.MissingMessage("unit 'fi_tiny' for sm_80", null, trace)
        );
    }

    [Fact]
    public void A_wrong_NVRTC_path_is_reported_as_such()
    {
        using FakeLog log = new();
        KernelCompilerOptions options = new()
        {
            NvrtcPath = "/nowhere",
            UseCache = false,
            LoggerFactory = log,
        };
        KernelCompiler compiler = new(options, TestUnits.Headers(), new FakeHost());

        KernelCompilationException e = Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(), "sm_80"));

        Assert.Equal(
            "unit 'fi_tiny' for sm_80 has to be compiled, and NVRTC, CUDA's run-time compiler, cannot be used from '/nowhere'. "
                + "Correct FLASHINFER_NVRTC (or NvrtcPath of the options) to the library or its folder, or remove it to have the usual places searched.\n"
                + "Tried:\n  /nowhere: no such file or folder",
            e.Message
        );
        Assert.Equal(("", "sm_80"), (e.Log, e.Architecture));
        Assert.Null(e.NvrtcVersion);
        Assert.Null(e.NvrtcPath);
        LogEntry failed = Assert.Single(log.Entries);
        Assert.Equal(
            (LogLevel.Debug, "CompileFailed", $"unit 'fi_tiny' for sm_80 could not be compiled: {e.Message}"),
            (failed.Level, failed.Event, failed.Message)
        );
        Assert.Null(compiler.DescribeNvrtc().Path);
    }

    [Fact]
    public void A_file_that_is_no_library_is_reported_in_the_loaders_words()
    {
        using TemporaryFolder folder = new();
        bool windows = OperatingSystem.IsWindows();
        File.WriteAllText(folder.File(windows ? "nvrtc64_120_0.dll" : "libnvrtc.so.12"), "not a library");
        File.WriteAllText(folder.File(windows ? "nvrtc-builtins64_124.dll" : "libnvrtc-builtins.so.12.4"), "not a library either");
        KernelCompiler compiler = new(new KernelCompilerOptions { NvrtcPath = folder.Path, UseCache = false });

        KernelCompilationException e = Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(), "sm_80"));

        // Another test may have loaded the real one by now; a process has one NVRTC, and says so.
        Assert.Matches("builtins.*(file too short|invalid ELF header|0x8007)|this process has loaded NVRTC", e.Message);
    }

    [SkippableFact]
    public void A_description_names_library_version_and_architectures()
    {
        NvrtcInfo info = TestNvrtc.Compiler().DescribeNvrtc();

        Assert.True(File.Exists(info.Path));
        Assert.True(info.Version >= new Version(12, 0));
        Assert.Contains(80, info.Architectures);
        Assert.Contains(info.Trace, step => step.Outcome.StartsWith("NVRTC 1", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void Line_information_is_in_the_cubin_only_when_asked_for()
    {
        int without = TestNvrtc.Compiler().Compile(TestUnits.Tiny(), "sm_80").Cubin.Length;
        KernelCompilerOptions options = new()
        {
            NvrtcPath = TestNvrtc.Require(),
            UseCache = false,
            LineInfo = true,
        };

        Assert.True(new KernelCompiler(options).Compile(TestUnits.Tiny(), "sm_80").Cubin.Length > without);
    }

    [SkippableFact]
    public void A_cancelled_token_stops_before_anything_happens()
    {
        using FakeLog log = new();
        KernelCompiler compiler = TestNvrtc.Compiler(log: log);

        Assert.Throws<OperationCanceledException>(() => compiler.Compile(TestUnits.Tiny(), "sm_80", new CancellationToken(canceled: true)));
        Assert.Empty(log.Entries);
    }

    [SkippableFact]
    public void A_report_tells_of_compiles_and_not_of_cache_hits()
    {
        using TemporaryFolder folder = new();
        List<string> lines = [];
        using FakeLog log = new();
        KernelCompilerOptions options = new()
        {
            NvrtcPath = TestNvrtc.Require(),
            CacheDirectory = folder.Path,
            Report = lines.Add,
            LoggerFactory = log,
        };

        new KernelCompiler(options).Compile(TestUnits.Tiny(), "sm_80");
        new KernelCompiler(options).Compile(TestUnits.Tiny(), "sm_80");

        Assert.Collection(
            lines,
            line => Assert.Matches(@"^compiling unit 'fi_tiny' for sm_80 with NVRTC \d+\.\d+$", line),
            line => Assert.Matches(@"^compiled unit 'fi_tiny' for sm_80 in \d+ ms$", line)
        );
        Assert.Equal(["CompileStarted", "Compiled", "LoadedFromCache"], log.Events);
    }

    [Fact]
    public void A_report_tells_of_warnings_and_leaves_failures_to_the_exception()
    {
        List<string> lines = [];
        using FakeLog log = new() { Least = LogLevel.Warning };
        KernelCompilerOptions options = new()
        {
            NvrtcPath = "/nowhere",
            Report = lines.Add,
            LoggerFactory = log,
        };

        // A machine without a home or any other place for a cache.
        KernelCompiler compiler = new(options, TestUnits.Headers(), new FakeHost(isWindows: true));
        Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(), "sm_80"));

        Assert.StartsWith("This user has no cache folder", Assert.Single(lines), StringComparison.Ordinal);
        Assert.Equal(log.Warnings, lines);
    }

    [SkippableFact]
    public void Different_units_compile_at_once()
    {
        KernelCompiler compiler = TestNvrtc.Compiler();

        byte[][] cubins =
        [
            .. Enumerable.Range(2, 8).AsParallel().AsOrdered().Select(i => compiler.Compile(TestUnits.Tiny(i), "sm_80").Cubin.ToArray()),
        ];

        Assert.Equal(8, cubins.Select(Convert.ToHexString).Distinct().Count());
    }

    private static KernelCompiler Compiler(KernelHeaders headers) =>
        new(new KernelCompilerOptions { NvrtcPath = TestNvrtc.Require(), UseCache = false }, headers, NativeLocatorHost.System);
}
