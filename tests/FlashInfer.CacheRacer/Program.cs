// One contestant in the races for the kernel cache; the tests start several of these processes at once.
//
//   FlashInfer.CacheRacer compile DIR TIMES   makes a kernel TIMES times, each time with a new compiler, and prints one line per kernel:
//                                             SHA-256 of the cubin, "cache" or "compiled", and whether this process has loaded NVRTC
//   FlashInfer.CacheRacer corrupt DIR         damages the entries of the folder in every way, until its standard input ends
//
// Both print "ready" and wait for a line, so that all of them start together however long each took to come up.
using System.Security.Cryptography;
using FlashInfer;
using FlashInfer.Compilation;

string mode = args[0];
string folder = args[1];
Console.WriteLine("ready");
Console.ReadLine();
if (mode == "compile")
{
    Compile(folder, int.Parse(args[2]));
}
else
{
    Corrupt(folder);
}

static void Compile(string folder, int times)
{
    TranslationUnit unit = new("fi_race", """extern "C" __global__ void fi_race(float* x) { x[threadIdx.x] *= 2; }"""u8);
    for (int i = 0; i < times; i++)
    {
        KernelCompiler compiler = new(new KernelCompilerOptions { CacheDirectory = folder, Report = WriteWarning });
        CompiledKernel kernel = compiler.Compile(unit, "sm_80");
        string hash = Convert.ToHexStringLower(SHA256.HashData(kernel.Cubin.Span));
        Console.WriteLine(
            $"{hash} {(kernel.Origin == KernelOrigin.Cache ? "cache" : "compiled")} {(NvrtcIsLoaded() ? "nvrtc" : "no-nvrtc")}"
        );
    }
}

// Progress is no news here: whatever else stands on the standard error fails the test.
static void WriteWarning(string line)
{
    if (!line.StartsWith("compil", StringComparison.Ordinal))
    {
        Console.Error.WriteLine(line);
    }
}

// The operating system's word, where it gives one: the library's own flag could be wrong.
static bool NvrtcIsLoaded() =>
    OperatingSystem.IsLinux() && File.ReadLines("/proc/self/maps").Any(line => line.Contains("libnvrtc", StringComparison.Ordinal));

static void Corrupt(string folder)
{
    Task<string?> end = Task.Run(Console.ReadLine);
    Random random = new(1);
    int damaged = 0;
    while (!end.IsCompleted)
    {
        foreach (string path in Directory.Exists(folder) ? Directory.GetFiles(folder, "*.cubin") : [])
        {
            // In place and not by a rename: readers shall meet files that change under their hands.
            using FileStream file = new(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
            damaged++;
            if (random.Next(3) == 0)
            {
                file.SetLength(random.NextInt64(file.Length + 1));
            }
            else if (file.Length > 0)
            {
                file.Position = random.NextInt64(file.Length);
                file.WriteByte((byte)random.Next(256));
            }
        }

        Thread.Sleep(1);
    }

    Console.WriteLine(damaged);
}
