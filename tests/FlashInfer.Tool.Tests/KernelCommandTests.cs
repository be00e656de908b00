using System.Text.Json;
using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Tools;

/// <summary>modules, inspect, aot and warmup, on the configurations of the sandbox.</summary>
public sealed class KernelCommandTests
{
    private const int Configs = 26;
    private const int Appends = 9; // append units that differ: variants share them
    private const string Append = "fi_append_bf16_h32_kv8_d128_p16";

    [SkippableFact]
    public void Aot_adds_PTX_for_newer_gpus()
    {
        using TemporaryFolder folder = new();
        string bundle = folder.File("App.fikernels");

        ToolResult result = ToolProcess.RunWithNvrtc([
            "aot",
            ToolProcess.Sandbox,
            "-a",
            "sm_80",
            "--ptx",
            "--kernels",
            "append",
            "-o",
            bundle,
            "--cache-dir",
            folder.File("cache"),
        ]);

        Assert.True(result.ExitCode == 0, result.ToString());
        KernelBundle written = KernelBundle.Open(bundle);
        KernelBundleEntry ptx = written.Entries.First(static entry => entry.Architecture == "compute_80");
        Assert.Equal(2 * Appends, written.Entries.Count);
        Assert.Contains($".visible .entry {ptx.Unit}(", System.Text.Encoding.UTF8.GetString(written.Read(ptx)), StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Aot_writes_a_bundle_that_a_program_without_a_compiler_uses()
    {
        using TemporaryFolder folder = new();
        string bundle = folder.File("App.fikernels");

        ToolResult result = ToolProcess.RunWithNvrtc([
            "aot",
            ToolProcess.Sandbox,
            "-a",
            "sm_80,sm_90a",
            "--kernels",
            "append",
            "-o",
            bundle,
            "--cache-dir",
            folder.File("cache"),
        ]);

        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Matches(
            $@"^\S+App\.fikernels: {2 * Appends} kernels of {Configs} configurations for sm_80, sm_90a, [\d.]+ KB, \d+ compiled now, in [\d.]+ s\n$",
            result.Output
        );
        AttentionSpec spec = new(32, 8, 128, 16, DType.BFloat16);
        KernelCompiler compiler = new(
            new KernelCompilerOptions
            {
                BundleDirectory = folder.Path,
                UseCache = false,
                NvrtcPath = "/nowhere",
            }
        );
        CompiledKernel kernel = compiler.Compile(spec.AppendUnit, "sm_90a");
        Assert.Equal((KernelOrigin.Bundle, Append), (kernel.Origin, kernel.Unit));
        Assert.Contains(kernel.Resources, static entry => entry.Entry == Append && entry.Registers > 0);
        string missing = Assert.Throws<KernelCompilationException>(() => compiler.Compile(spec.DecodeUnit, "sm_90a")).Message;
        Assert.Contains(
            $"It is not among the kernels compiled ahead of time: {bundle} for sm_80, sm_90a.",
            missing,
            StringComparison.Ordinal
        );

        JsonElement listed = ToolProcess.RunBare("doctor", "--program", folder.Path, "--json").Json.GetProperty("bundles")[0];
        Assert.Equal(2 * Appends, listed.GetProperty("kernels").GetInt32());
    }

    [Fact]
    public void Without_a_compiler_aot_says_what_to_do()
    {
        using TemporaryFolder folder = new();

        ToolResult result = ToolProcess.RunBare("aot", ToolProcess.Sandbox, "-o", folder.File("App.fikernels"), "--cache-dir", folder.Path);

        Assert.Equal(1, result.ExitCode);
        Assert.Contains(
            "has to be compiled, and NVRTC, CUDA's run-time compiler, cannot be used from '/nowhere'",
            result.Errors,
            StringComparison.Ordinal
        );
        Assert.Empty(folder.Files);
    }

    [SkippableFact]
    public void Warmup_fills_the_cache_and_the_second_time_compiles_nothing()
    {
        using TemporaryFolder cache = new();
        string[] arguments = ["warmup", ToolProcess.Sandbox, "-a", "sm_80", "--kernels", "append", "--cache-dir", cache.Path, "--json"];

        JsonElement first = ToolProcess.RunWithNvrtc(arguments).Json;
        JsonElement second = ToolProcess.RunWithNvrtc(arguments).Json;

        Assert.Equal((Appends, Appends), (first.GetProperty("kernels").GetInt32(), first.GetProperty("compiled").GetInt32()));
        Assert.Equal((Appends, 0), (second.GetProperty("kernels").GetInt32(), second.GetProperty("compiled").GetInt32()));
        Assert.Equal(Appends, cache.Files.Length);
    }

    [Fact]
    public void Warmup_without_a_GPU_wants_an_architecture()
    {
        ToolResult result = ToolProcess.RunBare("warmup", ToolProcess.Sandbox);

        Assert.Equal(1, result.ExitCode);
        Assert.Contains("no GPU to compile for; name one with --architecture", result.Errors, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Modules_lists_what_the_kernels_use()
    {
        using TemporaryFolder cache = new();

        ToolResult result = ToolProcess.RunWithNvrtc([
            "modules",
            ToolProcess.Sandbox,
            "-a",
            "sm_90a",
            "--kernels",
            "append",
            "--cache-dir",
            cache.Path,
        ]);

        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains(
            "RootAttention of FlashInfer.GenerationSandbox: 32 heads, 8 kvHeads, headDim 128",
            result.Output,
            StringComparison.Ordinal
        );
        Assert.Matches($@"\n{Append} +sm_90a +\d+ +0 B +0 B +\d+[^\n]* compiled now\n", result.Output);
        Assert.DoesNotContain('\u001b', result.Output);
    }

    [Fact]
    public void Modules_without_a_compiler_still_lists_the_kernels()
    {
        using TemporaryFolder cache = new();

        ToolResult result = ToolProcess.RunBare("modules", ToolProcess.Sandbox, "--json", "--cache-dir", cache.Path);

        Assert.Equal(0, result.ExitCode);
        Assert.Contains("flashinfer: NVRTC was not found", result.Errors, StringComparison.Ordinal);
        JsonElement[] configs = [.. result.Json.GetProperty("configs").EnumerateArray()];
        Assert.Equal(Configs, configs.Length);
        JsonElement kernel = configs.Single(static c => c.GetProperty("type").GetString() == "RootAttention").GetProperty("kernels")[0];
        Assert.Equal((Append, "nowhere"), (kernel.GetProperty("unit").GetString(), kernel.GetProperty("where").GetString()));
        Assert.Equal(JsonValueKind.Null, kernel.GetProperty("registers").ValueKind);
    }

    [Fact]
    public void Modules_lists_kernels_for_the_architectures_that_they_serve()
    {
        using TemporaryFolder cache = new();

        ToolResult result = ToolProcess.RunBare(
            "modules",
            ToolProcess.Sandbox,
            "--json",
            "--kernels",
            "PrefillPaged",
            "-a",
            "sm_80,sm_90a",
            "--cache-dir",
            cache.Path
        );

        Assert.Equal(0, result.ExitCode);
        (string Unit, string Architecture)[] kernels =
        [
            .. result
                .Json.GetProperty("configs")
                .EnumerateArray()
                .Single(static c => c.GetProperty("type").GetString()!.EndsWith("QuantisedAttention", StringComparison.Ordinal))
                .GetProperty("kernels")
                .EnumerateArray()
                .Select(static kernel => (kernel.GetProperty("unit").GetString()!, kernel.GetProperty("architecture").GetString()!)),
        ];
        const string Suffix = "bf16_e4m3_h16_kv8_d96_p16";
        Assert.Equal(
            [
                ($"fi_append_{Suffix}", "sm_80"),
                ($"fi_prefill_paged_{Suffix}", "sm_80"),
                ($"fi_append_{Suffix}", "sm_90a"),
                ($"fi_decode_{Suffix}", "sm_90a"), // for single tokens beside chunks
                ($"fi_decode_{Suffix}_team", "sm_90a"),
                ($"fi_prefill_paged_{Suffix}", "sm_90a"),
                ($"fi_prefill_staged_{Suffix}", "sm_90a"),
            ],
            kernels
        );
    }

    [Fact]
    public void Inspect_shows_the_CUDA_unit()
    {
        ToolResult result = ToolProcess.RunBare("inspect", ToolProcess.Sandbox, Append);

        Assert.Equal(0, result.ExitCode);
        Assert.Equal(new AttentionSpec(32, 8, 128, 16, DType.BFloat16).AppendUnit.ToString(), result.Output);
    }

    [SkippableFact]
    public void Inspect_shows_PTX()
    {
        ToolResult result = ToolProcess.RunWithNvrtc("inspect", ToolProcess.Sandbox, Append, "--form", "ptx", "-a", "sm_90a");

        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains(".target sm_90a", result.Output, StringComparison.Ordinal);
        Assert.Contains($".entry {Append}(", result.Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Inspect_shows_SASS()
    {
        TestNvrtc.RequireDisassembler();
        using TemporaryFolder cache = new();

        ToolResult result = ToolProcess.RunWithNvrtc([
            "inspect",
            ToolProcess.Sandbox,
            Append,
            "--form",
            "sass",
            "-a",
            "sm_80",
            "--cache-dir",
            cache.Path,
        ]);

        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("EXIT", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Inspect_lists_the_names_when_one_is_not_enough()
    {
        ToolResult result = ToolProcess.RunBare("inspect", ToolProcess.Sandbox, "fi_append");

        Assert.Equal(2, result.ExitCode);
        Assert.Contains($"{Appends} kernels of '", result.Errors, StringComparison.Ordinal);
        Assert.Contains($"\n  {Append}\n", result.Errors, StringComparison.Ordinal);
    }
}
