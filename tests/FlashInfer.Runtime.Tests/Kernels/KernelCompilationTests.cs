using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using FlashInfer.Attention;
using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Compilation;
using FlashInfer.Tests.PublicApi;

namespace FlashInfer.Tests.Kernels;

/// <summary>
/// The units of <see cref="KernelConfigurations"/> through the real compiler, once for all tests of the class.
/// </summary>
public partial class KernelCompilationTests(KernelCompilationTests.Compiled compiled) : IClassFixture<KernelCompilationTests.Compiled>
{
    [SkippableFact]
    public void Every_unit_compiles()
    {
        compiled.Require();

        Assert.True(compiled.Failures.IsEmpty, string.Join("\n\n", compiled.Failures));
        foreach (string architecture in KernelConfigurations.MainArchitectures)
        {
            Assert.Equal(
                KernelConfigurations.Units.Where(unit => unit.Serves(architecture)).Select(unit => unit.Name).Order(),
                compiled.Kernels.Where(kernel => kernel.Architecture == architecture).Select(kernel => kernel.Unit).Order()
            );
        }

        string[] architectures = [.. compiled.Kernels.Select(kernel => kernel.Architecture).Distinct()];
        Assert.True(architectures.Length >= 5, $"NVRTC {compiled.Version} knows only {string.Join(", ", architectures)}");
        Assert.All(compiled.Kernels, kernel => Assert.True(kernel.Cubin.Span.StartsWith("\u007fELF"u8)));
    }

    [SkippableFact]
    public void No_log_has_a_warning_or_a_note_on_lost_performance()
    {
        compiled.Require();
        foreach (CompiledKernel kernel in compiled.Kernels)
        {
            string where = $"{kernel.Unit} for {kernel.Architecture}:\n{kernel.Log}";
            Assert.True(PtxasReport.PerformanceNotes(kernel.Log).Count == 0, where);
            Assert.False(kernel.Log.Contains("warning", StringComparison.OrdinalIgnoreCase), where);
        }
    }

    [SkippableFact]
    public void Every_unit_reports_its_own_entry_point()
    {
        compiled.Require();
        Assert.All(compiled.Kernels, kernel => Assert.Contains(kernel.Resources, entry => entry.Entry == kernel.Unit));
    }

    /// <summary>
    /// The recorded file names each entry point with what it uses. Local memory, spilled or not, is legal only where the file lists it:
    /// with another compiler of the same major version, registers may differ, and then only new local memory fails.
    /// </summary>
    [SkippableFact]
    public void Resources_are_the_recorded_ones_and_nothing_new_lies_in_local_memory()
    {
        compiled.Require();
        string name = $"Resources.nvrtc{compiled.Version.Major}.verified.txt";
        string header =
            $"# NVRTC {compiled.Version}. Entry point, architecture: registers, static shared memory, and local memory where there is any";
        string[] rows = [.. compiled.Kernels.SelectMany(Rows).Distinct().Order(StringComparer.Ordinal)];
        string recorded = ApprovedFile.Read("Kernels", name);
        HashSet<string> allowed = [.. recorded.Split('\n').Where(HasLocalMemory).Select(Identity)];

        if (recorded.Length == 0 || recorded.Split('\n')[0] == header)
        {
            ApprovedFile.Check("Kernels", name, "What kernels use", $"{header}\n{string.Join('\n', rows)}");
            return;
        }

        Assert.All(rows.Where(HasLocalMemory), row => Assert.True(allowed.Contains(Identity(row)), $"{row}: not in {name}"));
        Skip.If(true, $"{name} was recorded with another compiler than NVRTC {compiled.Version}; only local memory was compared.");
    }

    /// <summary>On Hopper, whose prefill has registers to the last for its products, nothing of it may lie in local memory, recorded or not.</summary>
    [SkippableFact]
    public void No_prefill_of_Hopper_spills()
    {
        compiled.Require();
        CompiledKernel[] hopper = [.. compiled.Kernels.Where(kernel => kernel.Architecture == "sm_90a" && IsPrefill(kernel.Unit))];

        Assert.True(hopper.Length > 60, $"only {hopper.Length} kernels");
        Assert.All(hopper.SelectMany(Rows), row => Assert.False(HasLocalMemory(row), row));
    }

    /// <summary>
    /// Keys and values are read once for 8 or 16 columns (query tokens times heads of a group); more make several units. KV heads with short
    /// rows share a unit.
    /// </summary>
    [SkippableFact]
    public void Decode_holds_as_many_columns_as_its_registers_allow()
    {
        compiled.Require();
        foreach (AttentionSpec spec in KernelConfigurations.Specs)
        {
            CompiledKernel[] kernels = [.. compiled.Kernels.Where(kernel => kernel.Unit == CudaUnits.DecodeName(spec.Shape))];
            Assert.True(kernels.Length >= KernelConfigurations.MainArchitectures.Length);
            foreach (CompiledKernel kernel in kernels)
            {
                KernelInfo info = InfoOf(kernel);
                int most = DecodeColumns(spec, kernel.Architecture);
                int tiles = (spec.GroupSize + most - 1) / most;
                int heads = DecodeHeads(spec, most);
                string where = $"{kernel.Unit} for {kernel.Architecture}";
                Assert.True(spec.KvHeads / heads * tiles == info.UnitsPerItem, $"{where}: {info.UnitsPerItem} units an item");
                Assert.True(
                    heads * ((spec.GroupSize + tiles - 1) / tiles) == info.ColumnsPerUnit,
                    $"{where}: {info.ColumnsPerUnit} columns"
                );
            }
        }
    }

    /// <summary>
    /// On Hopper every prefill uses warpgroup products and the copy engine, beside which threads gather the tokens of pages that are no multiple
    /// of 8, unless the cache is quantised and its heads wide; elsewhere neither. What is staged is never gathered or wide; what is only copied, the
    /// copy engine stages in prefill itself, but at headDim 256. It stores where the heads of a group, neighbouring rows of a tile, divide it.
    /// </summary>
    [SkippableFact]
    public void Prefill_uses_the_instructions_that_its_architecture_has()
    {
        compiled.Require();
        string disassembler = TestNvrtc.RequireDisassembler();
        CompiledKernel[] kernels = [.. compiled.Kernels.Where(kernel => kernel.Unit.StartsWith("fi_prefill_", StringComparison.Ordinal))];
        CompiledKernel[] hopper = [.. kernels.Where(kernel => kernel.Architecture == "sm_90a")];
        CompiledKernel[] portable =
        [
            .. kernels.Where(kernel => kernel.Architecture == "sm_80").DistinctBy(kernel => KernelConfigurations.Kind(kernel.Unit)),
        ];

        Assert.NotEmpty(hopper);
        Assert.NotEmpty(portable);
        (CompiledKernel Kernel, string Sass)[] all =
        [
            .. hopper.Concat(portable).AsParallel().Select(kernel => (kernel, Disassemble(disassembler, kernel))),
        ];
        Assert.All(
            all,
            one =>
            {
                (CompiledKernel kernel, string sass) = one;
                bool isStaged = kernel.Unit.StartsWith("fi_prefill_staged_", StringComparison.Ordinal);
                bool isHopper = kernel.Architecture == "sm_90a" && (isStaged || !WideQuantised().IsMatch(kernel.Unit));
                bool gathers = !isHopper || (!isStaged && OddPages().IsMatch(kernel.Unit));
                string where = $"{kernel.Unit} for {kernel.Architecture}";
                Assert.True(isHopper == sass.Contains("HGMMA", StringComparison.Ordinal), $"{where}: warpgroup products");
                Assert.True(isHopper == sass.Contains("UTMALDG", StringComparison.Ordinal), $"{where}: the copy engine's loads");
                Assert.True(gathers == sass.Contains("LDGSTS.E", StringComparison.Ordinal), $"{where}: copies without registers");
                Assert.True(isHopper || sass.Contains("HMMA.16816.F32", StringComparison.Ordinal), $"{where}: products of a warp");
                bool hasStager = CopiedPages().IsMatch(kernel.Unit) && !KernelConfigurations.Turns(kernel.Unit);
                Assert.True(hasStager == sass.Contains("UBLKCP", StringComparison.Ordinal), $"{where}: a stager's copies");
                bool stores = sass.Contains("UTMASTG", StringComparison.Ordinal);
                Assert.True(isHopper ? stores || !BitOperations.IsPow2(GroupSize(kernel)) : !stores, $"{where}: the copy engine's stores");
            }
        );
    }

    private static int GroupSize(CompiledKernel kernel)
    {
        Match heads = Heads().Match(kernel.Unit);
        return int.Parse(heads.Groups[1].Value, CultureInfo.InvariantCulture)
            / int.Parse(heads.Groups[2].Value, CultureInfo.InvariantCulture);
    }

    /// <summary>A warp has registers for 16 columns up to headDim 128, and up to 192 where the copy engine needs none for addresses.</summary>
    private static int DecodeColumns(AttentionSpec spec, string architecture) =>
        spec.HeadDim <= 128 || (spec.HeadDim <= 192 && spec.PageSize % 16 == 0 && architecture == "sm_90a") ? 16 : 8;

    /// <summary>
    /// KV heads of a unit: as many as make whole 256 bytes of their rows, as long as a warp has registers for all, which are twice as many
    /// columns at headDim 64.
    /// </summary>
    private static int DecodeHeads(AttentionSpec spec, int most)
    {
        int tiles = (spec.GroupSize + 7) / 8;
        int mostTiles =
            spec.HeadDim <= 64 ? 4
            : spec.HeadDim > 128 && spec.KvDtype.Size() == 1 ? 1
            : most / 8;
        int heads = 1;
        while (heads * spec.HeadDim * spec.KvDtype.Size() % 256 != 0 && spec.KvHeads % (2 * heads) == 0 && 2 * heads * tiles <= mostTiles)
        {
            heads *= 2;
        }

        return heads;
    }

    /// <summary>What a decode cubin says of itself: the constant that begins with version and size of the arguments.</summary>
    private static KernelInfo InfoOf(CompiledKernel kernel)
    {
        ReadOnlySpan<byte> image = kernel.Cubin.Span;
        ReadOnlySpan<int> start = [CudaUnits.AbiVersion, Unsafe.SizeOf<DecodeParams>()];
        return MemoryMarshal.Read<KernelInfo>(image[image.IndexOf(MemoryMarshal.AsBytes(start))..]);
    }

    private static string Disassemble(string disassembler, CompiledKernel kernel)
    {
        using TemporaryFolder folder = new();
        string file = Path.Combine(folder.Path, kernel.Unit + ".cubin");
        File.WriteAllBytes(file, kernel.Cubin.ToArray());
        using Process process = Process.Start(new ProcessStartInfo(disassembler, ["-c", file]) { RedirectStandardOutput = true })!;
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return text;
    }

    [GeneratedRegex("_p[15](_|$)")]
    private static partial Regex OddPages();

    [GeneratedRegex("^fi_prefill_staged_b?f16_h[0-9]+_kv[0-9]+_d(64|96|128|192)_p[15](_v[0-9a-f]+)?(_checked)?$")]
    private static partial Regex CopiedPages();

    [GeneratedRegex("_e[45]m[23]_.*_d(192|256)_")]
    private static partial Regex WideQuantised();

    [GeneratedRegex("_h([0-9]+)_kv([0-9]+)_")]
    private static partial Regex Heads();

    private static IEnumerable<string> Rows(CompiledKernel kernel) =>
        kernel.Resources.Select(entry =>
        {
            string local =
                entry.StackBytes + entry.SpillStoreBytes + entry.SpillLoadBytes == 0
                    ? ""
                    : $", local {entry.StackBytes}, spill stores {entry.SpillStoreBytes}, spill loads {entry.SpillLoadBytes}";
            return $"{KernelConfigurations.ReadableName(entry.Entry)}, {kernel.Architecture}: {entry.Registers} registers, {entry.StaticSharedBytes} B shared{local}";
        });

    // Decode of many columns, too: mostly it is prefill's kernel.
    private static bool IsPrefill(string unit) =>
        unit.StartsWith("fi_prefill_", StringComparison.Ordinal) || unit.EndsWith("_wide", StringComparison.Ordinal);

    private static bool HasLocalMemory(string row) => row.Contains("B shared, local ", StringComparison.Ordinal);

    private static string Identity(string row) => row[..row.IndexOf(':', StringComparison.Ordinal)];

    /// <summary>All units, compiled on all cores with the cache off, when the first test asks for them.</summary>
    public sealed class Compiled
    {
        private bool _done;

        internal Version Version { get; private set; } = new(0, 0);

        internal ConcurrentBag<CompiledKernel> Kernels { get; } = [];

        internal ConcurrentBag<string> Failures { get; } = [];

        /// <summary>Compiles; skips the test when there is no NVRTC.</summary>
        internal void Require()
        {
            KernelCompiler compiler = TestNvrtc.Compiler();
            if (_done)
            {
                return;
            }

            _done = true;
            NvrtcInfo info = compiler.DescribeNvrtc();
            Version = info.Version!;
            // One item at a time for each thread: compiles differ in length, and the longest must not stand together.
            Parallel.ForEach(
                Partitioner.Create(
                    KernelConfigurations.Compilations(name => info.Architectures.Contains(Number(name))),
                    EnumerablePartitionerOptions.NoBuffering
                ),
                new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount },
                item => Compile(compiler, item.Unit, item.Architecture)
            );
        }

        private static int Number(string architecture) => int.Parse(architecture["sm_".Length..].TrimEnd('a'));

        private void Compile(KernelCompiler compiler, TranslationUnit unit, string architecture)
        {
            try
            {
                Kernels.Add(compiler.Compile(unit, architecture));
            }
            catch (KernelCompilationException e)
            {
                Failures.Add(e.Message);
            }
        }
    }
}
