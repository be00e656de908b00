using System.Globalization;

namespace FlashInfer.Cuda;

/// <summary>
/// Finds the CUDA libraries: a pure function of the machine's variables, folders and files. It loads nothing, and notes every step.
/// Where to look is in <see cref="NativeLocatorPlaces"/>; what counts as a usable NVRTC is here.
/// </summary>
internal static class NativeLocator
{
    /// <summary>Names a file or folder of NVRTC to use; nothing else is searched then.</summary>
    public const string NvrtcVariable = "FLASHINFER_NVRTC";

    // CUDA 12 is the first whose NVRTC has what the kernels use. The upper end only bounds how many names are looked at.
    private const int OldestMajor = 12;
    private const int NewestMajor = 19;
    private const int NewestMinor = 20;

    /// <summary>
    /// The usable NVRTCs of a machine, best first. Lazy: it looks no further than the caller reads, since a process that finds its
    /// kernels in the cache needs the first only.
    /// </summary>
    /// <param name="host">The machine.</param>
    /// <param name="overridePath">A file or folder that is used instead of searching; null for <see cref="NvrtcVariable"/>, else the search.</param>
    /// <param name="trace">Gets every step.</param>
    public static IEnumerable<NvrtcCandidate> FindNvrtc(NativeLocatorHost host, string? overridePath, List<NativeSearchStep> trace)
    {
        // A wrong override is reported, never passed over: falling back to another compiler would hide the mistake.
        if ((overridePath ?? host.Variable(NvrtcVariable)) is { } wanted)
        {
            return AtOverride(host, wanted, trace);
        }

        return Search(host, trace);
    }

    /// <summary>The names and paths to ask the loader for the CUDA driver, in order.</summary>
    public static IReadOnlyList<string> DriverPaths(NativeLocatorHost host) => NativeLocatorPlaces.Driver(host);

    private static IEnumerable<NvrtcCandidate> Search(NativeLocatorHost host, List<NativeSearchStep> trace)
    {
        HashSet<string> seen = [];
        foreach (string folder in NativeLocatorPlaces.Nvrtc(host, trace))
        {
            if (!seen.Add(folder))
            {
                continue;
            }

            foreach (NvrtcCandidate candidate in InFolder(host, folder, trace))
            {
                yield return candidate;
            }
        }

        // The loader comes last because asking it means loading, even on a cache hit; it also knows folders that no rule above names.
        for (int major = NewestMajor; major >= OldestMajor; major--)
        {
            yield return new NvrtcCandidate(LibraryName(host, major), null, null, null);
        }
    }

    private static IEnumerable<NvrtcCandidate> AtOverride(NativeLocatorHost host, string wanted, List<NativeSearchStep> trace)
    {
        if (host.FileExists(wanted))
        {
            if (Examine(host, wanted, trace) is { } candidate)
            {
                yield return candidate;
            }

            yield break;
        }

        if (!host.FolderExists(wanted))
        {
            trace.Add(new NativeSearchStep(wanted, "no such file or folder"));
            yield break;
        }

        foreach (string folder in NativeLocatorPlaces.Override(host, wanted))
        {
            foreach (NvrtcCandidate candidate in InFolder(host, folder, trace))
            {
                yield return candidate;
            }
        }
    }

    private static IEnumerable<NvrtcCandidate> InFolder(NativeLocatorHost host, string folder, List<NativeSearchStep> trace)
    {
        if (!host.FolderExists(folder))
        {
            trace.Add(new NativeSearchStep(folder, "no such folder"));
            yield break;
        }

        bool any = false;

        // Names are asked for one by one: a look at nine names is far cheaper than listing a system folder of thousands of files.
        for (int major = NewestMajor; major >= OldestMajor; major--)
        {
            string file = host.Join(folder, LibraryName(host, major));
            if (host.FileExists(file))
            {
                any = true;
                if (Examine(host, file, trace) is { } candidate)
                {
                    yield return candidate;
                }
            }
        }

        if (!any)
        {
            trace.Add(new NativeSearchStep(folder, $"no {LibraryName(host, OldestMajor)} or newer"));
        }
    }

    /// <summary>Pairs a library with its builtins: NVRTC opens exactly its own minor, and finds it only if it is loaded already.</summary>
    private static NvrtcCandidate? Examine(NativeLocatorHost host, string file, List<NativeSearchStep> trace)
    {
        string real = host.RealFile(file);
        (int? major, int? minor) = StatedVersion(host.NameOf(real));
        major ??= StatedVersion(host.NameOf(file)).Major;
        int firstMajor = major ?? NewestMajor;
        int lastMajor = major ?? OldestMajor;
        int firstMinor = minor ?? NewestMinor;
        int lastMinor = minor ?? 0;
        string besideFile = host.FolderOf(file);
        string besideReal = host.FolderOf(real);
        string[] folders = besideReal == besideFile ? [besideFile] : [besideFile, besideReal];
        for (int m = firstMajor; m >= lastMajor; m--)
        {
            for (int n = firstMinor; n >= lastMinor; n--)
            {
                foreach (string folder in folders)
                {
                    string builtins = host.Join(folder, BuiltinsName(host, m, n));
                    if (host.FileExists(builtins))
                    {
                        (long size, long writeTime) = host.Stamp(real);
                        string identity = string.Create(CultureInfo.InvariantCulture, $"{host.NameOf(real)}|{size}|{writeTime}");
                        trace.Add(new NativeSearchStep(file, $"NVRTC {m}.{n} with its builtins"));
                        return new NvrtcCandidate(file, builtins, new Version(m, n), identity);
                    }
                }
            }
        }

        string missing =
            major is null ? "NVRTC's builtins library"
            : minor is null ? BuiltinsName(host, major.Value, null)
            : BuiltinsName(host, major.Value, minor);
        trace.Add(new NativeSearchStep(file, $"{missing} is not beside it"));
        return null;
    }

    private static string LibraryName(NativeLocatorHost host, int major) =>
        host.IsWindows ? $"nvrtc64_{major}0_0.dll" : $"libnvrtc.so.{major}";

    private static string BuiltinsName(NativeLocatorHost host, int major, int? minor)
    {
        string n = minor?.ToString(CultureInfo.InvariantCulture) ?? "*";
        return host.IsWindows ? $"nvrtc-builtins64_{major}{n}.dll" : $"libnvrtc-builtins.so.{major}.{n}";
    }

    /// <summary>What a file name says: libnvrtc.so.12.4.127 is 12.4, libnvrtc.so.12 and nvrtc64_120_0.dll are some 12.</summary>
    private static (int? Major, int? Minor) StatedVersion(string name)
    {
        const string Linux = "libnvrtc.so.";
        const string Windows = "nvrtc64_";
        if (name.StartsWith(Linux, StringComparison.Ordinal))
        {
            string[] parts = name[Linux.Length..].Split('.');
            return (Number(parts[0]), parts.Length > 1 ? Number(parts[1]) : null);
        }

        if (name.StartsWith(Windows, StringComparison.OrdinalIgnoreCase))
        {
            // The Windows name states major and a zero, 120; the minor is in the name of the builtins only.
            return (Number(name[Windows.Length..].Split('_')[0]) / 10, null);
        }

        return (null, null);
    }

    private static int? Number(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : null;
}
