using System.Reflection;
using System.Runtime.InteropServices;

namespace FlashInfer.Cuda;

/// <summary>
/// The names by which LibraryImport asks for the CUDA libraries, and the one resolver that turns them into handles. A binding calls
/// <see cref="TryLoadDriver"/> (or <see cref="NvrtcLibrary.TryLoad"/>) before its first native call; that is where "not there" is an
/// answer. A static constructor would turn it into a TypeInitializationException.
/// </summary>
internal static class NativeLibraries
{
    public const string Driver = "cuda-driver";
    public const string Nvrtc = "nvrtc";

    private static readonly Lock Gate = new();
    private static bool installed;
    private static nint driver;
    private static nint nvrtc;

    /// <summary>Loads the CUDA driver unless it is loaded already. Safe to repeat; a failure is not remembered.</summary>
    /// <param name="trace">Every path tried, also when it succeeds.</param>
    public static bool TryLoadDriver(out IReadOnlyList<NativeSearchStep> trace)
    {
        NativeLocatorHost host = NativeLocatorHost.System;
        List<NativeSearchStep> steps = [];
        trace = steps;
        lock (Gate)
        {
            Install();
            if (driver != 0)
            {
                steps.Add(new NativeSearchStep(Driver, "loaded already"));
                return true;
            }

            foreach (string path in NativeLocator.DriverPaths(host))
            {
                if (Path.IsPathRooted(path) && !host.FileExists(path))
                {
                    steps.Add(new NativeSearchStep(path, "no such file"));
                    continue;
                }

                bool loaded = TryLoad(path, out driver, out string reason);
                steps.Add(new NativeSearchStep(path, loaded ? "loaded" : reason));
                if (loaded)
                {
                    return true;
                }
            }

            return false;
        }
    }

    /// <summary>The handle that <see cref="Nvrtc"/> stands for from now on.</summary>
    public static void SetNvrtc(nint handle)
    {
        lock (Gate)
        {
            Install();
            nvrtc = handle;
        }
    }

    /// <summary>Loads a library by path or bare name. Without success, says why in the loader's words.</summary>
    public static bool TryLoad(string path, out nint handle, out string reason)
    {
        try
        {
            handle = NativeLibrary.Load(path);
            reason = "";
            return true;
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            handle = 0;
            reason = LoaderReason(path, e.Message);
            return false;
        }
    }

    private static void Install()
    {
        if (installed)
        {
            return;
        }

        installed = true;
        try
        {
            NativeLibrary.SetDllImportResolver(typeof(NativeLibraries).Assembly, Resolve);
        }
        catch (InvalidOperationException)
        {
            // The program has set a resolver of its own for this assembly: it wants to decide, and may.
        }
    }

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? searchPath) =>
        name switch
        {
            Driver => driver,
            Nvrtc => nvrtc,
            _ => 0,
        };

    /// <summary>The loader's own line: what precedes it in .NET's message is advice about LD_DEBUG.</summary>
    private static string LoaderReason(string path, string message)
    {
        string[] lines = message.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        string line = lines.Length == 0 ? "cannot be loaded" : lines[^1];
        return line.StartsWith(path + ": ", StringComparison.Ordinal) ? line[(path.Length + 2)..] : line;
    }
}
