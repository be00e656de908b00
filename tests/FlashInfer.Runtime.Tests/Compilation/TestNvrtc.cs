using FlashInfer.Compilation;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Runtime.Tests.Compilation;

/// <summary>
/// The NVRTC that tests compile with: FLASHINFER_NVRTC, else artifacts/nvrtc/lib of the repository, which eng/install-nvrtc.sh fills.
/// Deliberately no search of the machine: a test run uses the compiler it was given, or says that it was given none.
/// </summary>
internal static class TestNvrtc
{
    private static readonly Lazy<string?> LazyPath = new(Find);

    /// <summary>The library's folder or file; skips the test when there is none.</summary>
    public static string Require()
    {
        Skip.If(
            LazyPath.Value is null,
            "NVRTC is not here: run eng/install-nvrtc.sh artifacts/nvrtc, or set FLASHINFER_NVRTC to the folder that holds it."
        );
        return LazyPath.Value!;
    }

    /// <summary>nvdisasm, in the folder bin beside NVRTC's; skips the test when there is none.</summary>
    public static string RequireDisassembler()
    {
        string path = Require();
        string library = Directory.Exists(path) ? path : Path.GetDirectoryName(path)!;
        string tool = Path.GetFullPath(Path.Combine(library, "..", "bin", "nvdisasm"));
        Skip.If(!File.Exists(tool), $"{tool} is not here: run eng/install-nvrtc.sh artifacts/nvrtc --tools.");
        return tool;
    }

    /// <summary>A compiler that uses it; skips the test when there is none.</summary>
    public static KernelCompiler Compiler(string? cacheDirectory = null, ILoggerFactory? log = null) =>
        new(
            new KernelCompilerOptions
            {
                NvrtcPath = Require(),
                CacheDirectory = cacheDirectory,
                UseCache = cacheDirectory is not null,
                LoggerFactory = log,
            }
        );

    private static string? Find()
    {
        if (Environment.GetEnvironmentVariable("FLASHINFER_NVRTC") is { Length: > 0 } given)
        {
            return given;
        }

        DirectoryInfo? folder = new(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "FlashInfer.sln")))
        {
            folder = folder.Parent;
        }

        string? library = folder is null ? null : Path.Combine(folder.FullName, "artifacts", "nvrtc", "lib");
        return Directory.Exists(library) ? library : null;
    }
}
