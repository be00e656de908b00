using System.Globalization;
using System.Runtime.InteropServices;

namespace FlashInfer.Cuda;

/// <summary>The folders where CUDA libraries live, in the order in which they are tried.</summary>
internal static class NativeLocatorPlaces
{
    /// <summary>Folders of NVRTC: toolkit, loader path, conda, pip. Lazy; notes the variables that are not set.</summary>
    public static IEnumerable<string> Nvrtc(NativeLocatorHost host, List<NativeSearchStep> trace)
    {
        foreach (string root in ToolkitRoots(host, trace))
        {
            foreach (string folder in ToolkitFolders(host, root))
            {
                yield return folder;
            }
        }

        foreach (string folder in LoaderFolders(host, trace))
        {
            yield return folder;
        }

        string? conda = Variable(host, "CONDA_PREFIX", trace);
        if (conda is not null)
        {
            yield return host.IsWindows ? host.Join(conda, "Library", "bin") : host.Join(conda, "lib");
        }

        string? virtualEnvironment = Variable(host, "VIRTUAL_ENV", trace);
        foreach (string packages in SitePackages(host, virtualEnvironment, conda))
        {
            // cu13 first: where both are installed, the newer compiler is the better one.
            yield return host.IsWindows
                ? host.Join(packages, "nvidia", "cu13", "bin", "x86_64")
                : host.Join(packages, "nvidia", "cu13", "lib");
            yield return host.Join(packages, "nvidia", "cuda_nvrtc", host.IsWindows ? "bin" : "lib");
        }
    }

    /// <summary>The folders that an override may mean: itself, or a toolkit's root.</summary>
    public static IEnumerable<string> Override(NativeLocatorHost host, string folder) =>
        [folder, .. ToolkitFolders(host, folder).Where(host.FolderExists)];

    /// <summary>The driver: the loader first, because the installer of the driver registers it there; then where containers and WSL mount it.</summary>
    public static IReadOnlyList<string> Driver(NativeLocatorHost host) =>
        host.IsWindows
            ? ["nvcuda.dll"]
            :
            [
                "libcuda.so.1",
                "/usr/lib/wsl/lib/libcuda.so.1",
                "/usr/local/nvidia/lib64/libcuda.so.1",
                "/usr/local/nvidia/lib/libcuda.so.1",
                "/run/opengl-driver/lib/libcuda.so.1",
                $"/usr/lib/{Triplet(host)}/libcuda.so.1",
                "/usr/lib64/libcuda.so.1",
            ];

    private static IEnumerable<string> ToolkitRoots(NativeLocatorHost host, List<NativeSearchStep> trace)
    {
        foreach (string name in (string[])["CUDA_PATH", "CUDA_HOME"])
        {
            if (Variable(host, name, trace) is { } root)
            {
                yield return root;
            }
        }

        if (!host.IsWindows)
        {
            yield return "/usr/local/cuda";
        }

        string parent = host.IsWindows
            ? host.Join(host.Variable("ProgramFiles") ?? @"C:\Program Files", "NVIDIA GPU Computing Toolkit", "CUDA")
            : "/usr/local";
        string prefix = host.IsWindows ? "v" : "cuda-";
        foreach (string root in NewestFirst(host, host.Folders(parent, prefix), prefix.Length))
        {
            yield return root;
        }
    }

    private static string[] ToolkitFolders(NativeLocatorHost host, string root) =>
        host.IsWindows
            ? [host.Join(root, "bin", "x64"), host.Join(root, "bin")]
            : [host.Join(root, "lib64"), host.Join(root, "lib"), host.Join(root, "targets", TargetName(host), "lib")];

    private static IEnumerable<string> LoaderFolders(NativeLocatorHost host, List<NativeSearchStep> trace)
    {
        string name = host.IsWindows ? "PATH" : "LD_LIBRARY_PATH";
        string value = Variable(host, name, trace) ?? "";
        foreach (
            string folder in value.Split(host.IsWindows ? ';' : ':', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
        )
        {
            yield return folder.Trim('"');
        }

        if (!host.IsWindows)
        {
            string triplet = Triplet(host);
            string[] system = [$"/usr/lib/{triplet}", "/usr/local/lib", $"/lib/{triplet}", "/usr/lib64", "/lib64", "/usr/lib"];
            foreach (string folder in system)
            {
                yield return folder;
            }
        }
    }

    private static IEnumerable<string> SitePackages(NativeLocatorHost host, string? virtualEnvironment, string? conda)
    {
        foreach (string? environment in (string?[])[virtualEnvironment, conda])
        {
            if (environment is null)
            {
                continue;
            }

            if (host.IsWindows)
            {
                yield return host.Join(environment, "Lib", "site-packages");
                continue;
            }

            foreach (string python in Pythons(host, host.Join(environment, "lib"), "python3."))
            {
                yield return host.Join(python, "site-packages");
            }
        }

        if (host.IsWindows)
        {
            string? roaming = host.Variable("APPDATA");
            string? local = host.Variable("LOCALAPPDATA");
            IEnumerable<string> users = roaming is null ? [] : Pythons(host, host.Join(roaming, "Python"), "Python3");
            IEnumerable<string> machines = local is null ? [] : Pythons(host, host.Join(local, "Programs", "Python"), "Python3");
            foreach (string packages in users.Select(p => host.Join(p, "site-packages")))
            {
                yield return packages;
            }

            foreach (string packages in machines.Select(p => host.Join(p, "Lib", "site-packages")))
            {
                yield return packages;
            }

            yield break;
        }

        string[] parents = host.Variable("HOME") is { } home ? [host.Join(home, ".local", "lib"), "/usr/local/lib"] : ["/usr/local/lib"];
        foreach (string python in parents.SelectMany(parent => Pythons(host, parent, "python3.")))
        {
            yield return host.Join(python, "site-packages");
            yield return host.Join(python, "dist-packages");
        }
    }

    private static IEnumerable<string> Pythons(NativeLocatorHost host, string parent, string prefix) =>
        NewestFirst(host, host.Folders(parent, prefix), prefix.Length);

    /// <summary>Folders such as cuda-12.4 or python3.11, ordered by the numbers behind the prefix and not as text: 12.10 comes before 12.9.</summary>
    private static IEnumerable<string> NewestFirst(NativeLocatorHost host, IEnumerable<string> folders, int prefixLength) =>
        folders
            .OrderByDescending(folder => VersionOf(host.NameOf(folder)[prefixLength..]))
            .ThenBy(folder => folder, StringComparer.Ordinal);

    private static Version VersionOf(string text)
    {
        if (Version.TryParse(text, out Version? version))
        {
            return version;
        }

        return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int major)
            ? new Version(major, 0)
            : new Version(0, 0);
    }

    private static string? Variable(NativeLocatorHost host, string name, List<NativeSearchStep> trace)
    {
        string? value = host.Variable(name);
        if (value is null)
        {
            trace.Add(new NativeSearchStep(host.IsWindows ? $"%{name}%" : $"${name}", "not set"));
        }

        return value;
    }

    private static string Triplet(NativeLocatorHost host) =>
        host.Architecture == Architecture.Arm64 ? "aarch64-linux-gnu" : "x86_64-linux-gnu";

    // CUDA's own name for server-class arm64 is sbsa.
    private static string TargetName(NativeLocatorHost host) => host.Architecture == Architecture.Arm64 ? "sbsa-linux" : "x86_64-linux";
}
