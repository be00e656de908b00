using System.Diagnostics;

namespace FlashInfer.Runtime.Tests.Compilation;

/// <summary>Real processes on one cache folder; FlashInfer.CacheRacer is the contestant.</summary>
public sealed class KernelCacheRaceTests
{
    private const int Processes = 6;

    [SkippableFact]
    public void Processes_that_start_on_an_empty_cache_agree_and_leave_one_entry()
    {
        using TemporaryFolder folder = new();
        string cache = folder.File("cache");

        string[] lines = [.. Race(cache, times: 1, corrupter: false)];

        Assert.Equal(Processes, lines.Length);
        Assert.Single(lines.Select(HashOf).Distinct());
        AssertOneEntry(cache, HashOf(lines[0]));
    }

    [SkippableFact]
    public void A_process_that_finds_its_kernel_in_the_cache_never_loads_NVRTC()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "The racer asks /proc which libraries it has loaded.");
        using TemporaryFolder folder = new();
        using Racer first = new("compile", folder.Path, "1");
        string compiled = Assert.Single(first.GoAndWait());

        using Racer second = new("compile", folder.Path, "1");
        string cached = Assert.Single(second.GoAndWait());

        Assert.EndsWith(" compiled nvrtc", compiled, StringComparison.Ordinal);
        Assert.EndsWith(" cache no-nvrtc", cached, StringComparison.Ordinal);
        Assert.Equal(HashOf(compiled), HashOf(cached));
    }

    [SkippableFact]
    public void Nobody_gets_a_damaged_kernel_while_a_process_corrupts_the_entry()
    {
        using TemporaryFolder folder = new();

        string[] lines = [.. Race(folder.Path, times: 40, corrupter: true)];

        Assert.Equal(Processes * 40, lines.Length);
        string hash = Assert.Single(lines.Select(HashOf).Distinct());
        Assert.Contains(lines, line => line.Contains(" compiled ", StringComparison.Ordinal));

        // The corrupter may have had the last word; whoever comes next mends the entry.
        using Racer last = new("compile", folder.Path, "1");
        Assert.Equal(hash, HashOf(Assert.Single(last.GoAndWait())));
        AssertOneEntry(folder.Path, hash);
    }

    [SkippableFact]
    public void An_NVRTC_that_does_not_load_is_passed_over_for_the_next_one()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "The test makes folders as Linux names them.");
        string nvrtc = TestNvrtc.Require();
        using TemporaryFolder folder = new();
        string broken = Directory.CreateDirectory(folder.File("toolkit/lib64")).FullName;
        File.WriteAllText(Path.Combine(broken, "libnvrtc.so.12"), "not a library");
        File.WriteAllText(Path.Combine(broken, "libnvrtc-builtins.so.12.4"), "not a library");
        Dictionary<string, string> environment = new()
        {
            ["FLASHINFER_NVRTC"] = "",
            ["CUDA_PATH"] = folder.File("toolkit"),
            ["LD_LIBRARY_PATH"] = Directory.Exists(nvrtc) ? nvrtc : Path.GetDirectoryName(nvrtc)!,
        };

        using Racer first = new(environment, "compile", folder.File("cache"), "1");
        string compiled = Assert.Single(first.GoAndWait());
        using Racer second = new(environment, "compile", folder.File("cache"), "1");
        string cached = Assert.Single(second.GoAndWait());

        // The entry is kept under the identity of the one that made it, so the second process finds it once it knows which that is.
        Assert.EndsWith(" compiled nvrtc", compiled, StringComparison.Ordinal);
        Assert.EndsWith(" cache nvrtc", cached, StringComparison.Ordinal);
        Assert.Single(Directory.GetFiles(folder.File("cache")));
    }

    private static List<string> Race(string cache, int times, bool corrupter)
    {
        List<Racer> racers = [];
        Racer? saboteur = corrupter ? new("corrupt", cache) : null;
        try
        {
            for (int i = 0; i < Processes; i++)
            {
                racers.Add(new Racer("compile", cache, times.ToString()));
            }

            racers.ForEach(racer => racer.WaitUntilReady());
            saboteur?.WaitUntilReady();
            saboteur?.Go();
            racers.ForEach(racer => racer.Go());
            List<string> lines = [.. racers.SelectMany(racer => racer.Lines())];
            if (saboteur is not null)
            {
                saboteur.EndInput();
                Assert.True(int.Parse(Assert.Single(saboteur.Lines())) > 0, "nothing was damaged, so nothing was tested");
            }

            return lines;
        }
        finally
        {
            racers.ForEach(racer => racer.Dispose());
            saboteur?.Dispose();
        }
    }

    private static string HashOf(string line) => line.Split(' ')[0];

    private static void AssertOneEntry(string cache, string hash)
    {
        string file = Path.GetFileName(Assert.Single(Directory.GetFileSystemEntries(cache)));
        Assert.Matches(@"^fi_race-sm_80-[0-9a-f]{16}\.cubin$", file);
        using Racer reader = new("compile", cache, "1");
        Assert.Equal($"{hash} cache", string.Join(' ', Assert.Single(reader.GoAndWait()).Split(' ')[..2]));
    }

    private sealed class Racer : IDisposable
    {
        private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

        private readonly Process process;
        private readonly Task<string> errors;

        public Racer(params string[] arguments)
            : this(new Dictionary<string, string> { ["FLASHINFER_NVRTC"] = TestNvrtc.Require() }, arguments) { }

        public Racer(Dictionary<string, string> environment, params string[] arguments)
        {
            string program = Path.Combine(AppContext.BaseDirectory, "FlashInfer.CacheRacer.dll");
            ProcessStartInfo start = new(Environment.GetEnvironmentVariable("DOTNET_HOST_PATH") ?? "dotnet", [program, .. arguments])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            };
            foreach ((string name, string value) in environment)
            {
                start.Environment[name] = value;
            }

            process = Process.Start(start)!;
            errors = process.StandardError.ReadToEndAsync();
        }

        public void WaitUntilReady()
        {
            Assert.Equal("ready", process.StandardOutput.ReadLine());
        }

        public void Go()
        {
            process.StandardInput.WriteLine();
            process.StandardInput.Flush();
        }

        public void EndInput() => process.StandardInput.Close();

        /// <summary>What it printed, once it has ended well.</summary>
        public string[] Lines()
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            Assert.True(process.WaitForExit(Patience), "the racer does not end");
            Assert.Equal("", errors.GetAwaiter().GetResult());
            Assert.Equal(0, process.ExitCode);
            return output.GetAwaiter().GetResult().Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        }

        public string[] GoAndWait()
        {
            WaitUntilReady();
            Go();
            return Lines();
        }

        public void Dispose()
        {
            if (!process.HasExited)
            {
                process.Kill();
                process.WaitForExit();
            }

            process.Dispose();
        }
    }
}
