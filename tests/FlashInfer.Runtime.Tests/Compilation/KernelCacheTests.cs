using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Runtime.Tests.Observability;

namespace FlashInfer.Runtime.Tests.Compilation;

public sealed class KernelCacheTests
{
    [SkippableFact]
    public void A_second_compiler_reads_what_the_first_compiled()
    {
        using TemporaryFolder folder = new();
        using FakeLog log = new();
        CompiledKernel first = TestNvrtc.Compiler(folder.Path, log).Compile(TestUnits.Tiny(), "sm_80");

        CompiledKernel second = TestNvrtc.Compiler(folder.Path, log).Compile(TestUnits.Tiny(), "sm_80");

        Assert.Equal((KernelOrigin.Compiled, KernelOrigin.Cache), (first.Origin, second.Origin));
        Assert.Equal(first.Cubin.ToArray(), second.Cubin.ToArray());
        Assert.Equal((first.Log, first.Compiler), (second.Log, second.Compiler));
        Assert.Equal(first.Resources, second.Resources);
        Assert.Matches(@"^fi_tiny-sm_80-[0-9a-f]{16}\.cubin$", Assert.Single(folder.Files));
        Assert.Equal(["CompileStarted", "Compiled", "LoadedFromCache"], log.Events);
    }

    [SkippableFact]
    public void A_compiler_without_cache_neither_reads_nor_writes()
    {
        using TemporaryFolder folder = new();
        KernelCompilerOptions options = new()
        {
            NvrtcPath = TestNvrtc.Require(),
            CacheDirectory = folder.Path,
            UseCache = false,
        };
        KernelCompiler compiler = new(options);

        Assert.Equal(KernelOrigin.Compiled, compiler.Compile(TestUnits.Tiny(), "sm_80").Origin);
        Assert.Equal(KernelOrigin.Compiled, compiler.Compile(TestUnits.Tiny(), "sm_80").Origin);

        Assert.Empty(folder.Files);
        Assert.Null(compiler.CacheDirectory);
    }

    public static TheoryData<string> Damages =>
        ["empty", "one byte", "truncated in the header", "truncated in the cubin", "one byte more", "another entry", "garbage", "folder"];

    [SkippableTheory]
    [MemberData(nameof(Damages))]
    public void A_damaged_entry_is_a_miss_and_is_replaced(string damage)
    {
        using TemporaryFolder folder = new();
        using TemporaryFolder other = new();
        using FakeLog log = new();
        byte[] cubin = TestNvrtc.Compiler(folder.Path).Compile(TestUnits.Tiny(), "sm_80").Cubin.ToArray();
        TestNvrtc.Compiler(other.Path).Compile(TestUnits.Tiny(3), "sm_80");
        string path = folder.File(Assert.Single(folder.Files));
        byte[] whole = File.ReadAllBytes(path);
        byte[] damaged = damage switch
        {
            "empty" => [],
            "one byte" => whole[..1],
            "truncated in the header" => whole[..50],
            "truncated in the cubin" => whole[..^1],
            "one byte more" => [.. whole, 0],
            "another entry" => File.ReadAllBytes(other.File(Assert.Single(other.Files))),
            _ => [.. Enumerable.Repeat((byte)0xFF, whole.Length)],
        };
        if (damage == "folder")
        {
            File.Delete(path);
            Directory.CreateDirectory(path);
        }
        else
        {
            File.WriteAllBytes(path, damaged);
        }

        CompiledKernel again = TestNvrtc.Compiler(folder.Path, log).Compile(TestUnits.Tiny(), "sm_80");

        Assert.Equal(KernelOrigin.Compiled, again.Origin);
        Assert.Equal(cubin, again.Cubin.ToArray());
        if (damage == "folder")
        {
            // Nothing of ours is a folder: it is left alone, and said.
            Assert.Single(log.Warnings);
            return;
        }

        Assert.Empty(log.Warnings);
        Assert.Equal(whole, File.ReadAllBytes(path));
        Assert.Equal(KernelOrigin.Cache, TestNvrtc.Compiler(folder.Path).Compile(TestUnits.Tiny(), "sm_80").Origin);
        Assert.Single(folder.Files);
    }

    [Fact]
    public void Every_single_flipped_bit_and_every_truncation_is_noticed()
    {
        byte[] key = [.. Enumerable.Range(0, KernelCacheKey.Size).Select(i => (byte)i)];
        KernelCacheEntry entry = new("sm_80", "NVRTC 12.4", "ptxas läuft\n", [0x7F, (byte)'E', (byte)'L', (byte)'F', 1, 2, 3]);
        byte[] file = KernelCacheFile.Encode(key, entry);

        Assert.True(KernelCacheFile.TryDecode(file, key, out KernelCacheEntry? read));
        Assert.Equal((entry.Architecture, entry.Compiler, entry.Log), (read.Architecture, read.Compiler, read.Log));
        Assert.Equal(entry.Cubin, read.Cubin);
        for (int bit = 0; bit < file.Length * 8; bit++)
        {
            byte[] flipped = [.. file];
            flipped[bit / 8] ^= (byte)(1 << (bit % 8));
            Assert.False(KernelCacheFile.TryDecode(flipped, key, out _), $"bit {bit}");
        }

        for (int length = 0; length < file.Length; length++)
        {
            Assert.False(KernelCacheFile.TryDecode(file.AsSpan(0, length), key, out _), $"length {length}");
        }

        Assert.False(KernelCacheFile.TryDecode(file, new byte[KernelCacheKey.Size], out _));
    }

    [SkippableTheory]
    [InlineData("file/sub")]
    [InlineData("file")]
    public void A_folder_that_cannot_be_made_costs_a_compile_and_one_warning(string folderName)
    {
        using TemporaryFolder folder = new();
        File.WriteAllText(folder.File("file"), "a regular file");
        using FakeLog log = new();
        KernelCompiler compiler = TestNvrtc.Compiler(folder.File(folderName), log);

        Assert.Equal(KernelOrigin.Compiled, compiler.Compile(TestUnits.Tiny(), "sm_80").Origin);
        Assert.Equal(KernelOrigin.Compiled, compiler.Compile(TestUnits.Tiny(3), "sm_80").Origin);

        string warning = Assert.Single(log.Warnings);
        Assert.StartsWith($"The kernel cache folder '{folder.File(folderName)}' cannot be written (", warning, StringComparison.Ordinal);
        Assert.Contains("FLASHINFER_CACHE_DIR", warning, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Temporary_files_of_dead_processes_are_removed_after_a_day()
    {
        using TemporaryFolder folder = new();
        string[] names = ["fi_a-sm_80-00.cubin.1-old.tmp", "fi_a-sm_80-00.cubin.1-new.tmp", "unrelated.tmp"];
        foreach (string name in names)
        {
            File.WriteAllText(folder.File(name), "");
            File.SetLastWriteTimeUtc(
                folder.File(name),
                DateTime.UtcNow - TimeSpan.FromHours(name.Contains("new", StringComparison.Ordinal) ? 23 : 25)
            );
        }

        TestNvrtc.Compiler(folder.Path).Compile(TestUnits.Tiny(), "sm_80");

        Assert.Equal(3, folder.Files.Length);
        Assert.DoesNotContain(names[0], folder.Files);
    }

    [Fact]
    public void The_key_changes_with_everything_that_matters()
    {
        KernelHeaders headers = TestUnits.Headers(("a.cuh", "1"), ("b.cuh", "2"));
        string[] options = NvrtcOptions.For("sm_80", lineInfo: false);
        TranslationUnit unit = TestUnits.Tiny();
        byte[][] keys =
        [
            KernelCacheKey.Create(unit, headers, options, "libnvrtc|1|1"),
            KernelCacheKey.Create(TestUnits.Tiny(3), headers, options, "libnvrtc|1|1"),
            KernelCacheKey.Create(new TranslationUnit("fi_other", unit.Source.Span), headers, options, "libnvrtc|1|1"),
            KernelCacheKey.Create(unit, TestUnits.Headers(("a.cuh", "1"), ("b.cuh", "3")), options, "libnvrtc|1|1"),
            KernelCacheKey.Create(unit, TestUnits.Headers(("a.cuh", "1"), ("c.cuh", "2")), options, "libnvrtc|1|1"),
            KernelCacheKey.Create(unit, TestUnits.Headers(("a.cuh", "12"), ("b.cuh", "")), options, "libnvrtc|1|1"),
            KernelCacheKey.Create(unit, headers, NvrtcOptions.For("sm_80", lineInfo: true), "libnvrtc|1|1"),
            KernelCacheKey.Create(unit, headers, NvrtcOptions.For("sm_90a", lineInfo: false), "libnvrtc|1|1"),
            KernelCacheKey.Create(unit, headers, options, "libnvrtc|1|2"),
        ];

        Assert.Equal(keys.Length, keys.Select(Convert.ToHexString).Distinct().Count());
        KernelHeaders reordered = TestUnits.Headers(("b.cuh", "2"), ("a.cuh", "1"));
        Assert.Equal(keys[0], KernelCacheKey.Create(TestUnits.Tiny(), reordered, options, "libnvrtc|1|1"));
    }

    [SkippableFact]
    public void A_changed_header_or_option_compiles_again()
    {
        using TemporaryFolder folder = new();
        TranslationUnit unit = TestUnits.Unit("fi_h", "#include \"value.cuh\"\nextern \"C\" __global__ void fi_h(int* x) { *x = kValue; }");

        bool[] fromCache =
        [
            Compile("enum { kValue = 1 };", "sm_80", lineInfo: false),
            Compile("enum { kValue = 1 };", "sm_80", lineInfo: false),
            Compile("enum { kValue = 2 };", "sm_80", lineInfo: false),
            Compile("enum { kValue = 2 };", "sm_86", lineInfo: false),
            Compile("enum { kValue = 2 };", "sm_86", lineInfo: true),
            Compile("enum { kValue = 1 };", "sm_80", lineInfo: false),
        ];

        Assert.Equal([false, true, false, false, false, true], fromCache);
        Assert.Equal(4, folder.Files.Length);

        bool Compile(string header, string architecture, bool lineInfo)
        {
            KernelCompilerOptions options = new()
            {
                NvrtcPath = TestNvrtc.Require(),
                CacheDirectory = folder.Path,
                LineInfo = lineInfo,
            };
            KernelCompiler compiler = new(options, TestUnits.Headers(("value.cuh", header)), NativeLocatorHost.System);
            return compiler.Compile(unit, architecture).Origin == KernelOrigin.Cache;
        }
    }

    [SkippableFact]
    public void The_longest_unit_name_still_makes_a_file()
    {
        using TemporaryFolder folder = new();
        TranslationUnit unit = TestUnits.Tiny(2, "fi_" + new string('x', 400));
        TestNvrtc.Compiler(folder.Path).Compile(unit, "sm_80");

        Assert.Equal(KernelOrigin.Cache, TestNvrtc.Compiler(folder.Path).Compile(unit, "sm_80").Origin);
    }

    [Theory]
    [InlineData("/chosen", "/xdg", "/home/u", false, "/chosen")]
    [InlineData(null, "/xdg", "/home/u", false, "/xdg/flashinfer-net")]
    [InlineData(null, "relative", "/home/u", false, "/home/u/.cache/flashinfer-net")]
    [InlineData(null, null, "/home/u", false, "/home/u/.cache/flashinfer-net")]
    [InlineData(null, null, "", false, null)]
    [InlineData(null, null, "", true, null)]
    public void The_default_folder_follows_the_variables(string? chosen, string? xdg, string profile, bool windows, string? expected)
    {
        Dictionary<string, string?> variables = new() { ["FLASHINFER_CACHE_DIR"] = chosen, ["XDG_CACHE_HOME"] = xdg };

        Assert.Equal(expected, KernelCache.DefaultFolder(variables.GetValueOrDefault, profile, windows));
    }

    [Fact]
    public void On_Windows_the_default_folder_is_in_local_application_data() =>
        Assert.Equal(
            Path.Combine(@"C:\local", "flashinfer-net"),
            KernelCache.DefaultFolder(name => name == "LOCALAPPDATA" ? @"C:\local" : null, "", isWindows: true)
        );

    [SkippableFact]
    public void A_hit_of_100_KB_takes_at_most_two_milliseconds()
    {
        using TemporaryFolder folder = new();
        using FakeLog log = new(static entry => Assert.Fail(entry.Message));
        KernelCache cache = new(folder.Path, log.CreateLogger(""));
        byte[] key = new byte[KernelCacheKey.Size];
        string path = cache.PathOf("fi_big", "sm_90a", key);
        cache.Write(path, key, new KernelCacheEntry("sm_90a", "NVRTC 12.4", "log", new byte[100 * 1024]));

        // The best of many: what the code costs, not what else a shared machine was doing.
        double best = Enumerable
            .Range(0, 50)
            .Min(_ =>
            {
                long start = System.Diagnostics.Stopwatch.GetTimestamp();
                Assert.NotNull(KernelCache.Read(path, key));
                return System.Diagnostics.Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            });

        Assert.True(best <= 2, $"{best:F3} ms");
    }
}
