using System.Runtime.InteropServices;

namespace FlashInfer.Cuda;

/// <summary>
/// What the search for native libraries sees of a machine. Everything the search decides follows from these answers, so that tests
/// state a machine of either operating system instead of depending on the one they run on.
/// </summary>
internal abstract class NativeLocatorHost
{
    /// <summary>The machine that this process runs on.</summary>
    public static NativeLocatorHost System { get; } = new SystemHost();

    public abstract bool IsWindows { get; }

    public abstract Architecture Architecture { get; }

    /// <summary>An environment variable; null when it is not set or empty.</summary>
    public abstract string? Variable(string name);

    public abstract bool FolderExists(string path);

    public abstract bool FileExists(string path);

    /// <summary>The file that a chain of links ends at.</summary>
    public abstract string RealFile(string path);

    /// <summary>Size and time of last write (UTC ticks) of a file.</summary>
    public abstract (long Size, long WriteTime) Stamp(string path);

    /// <summary>The folders of a folder whose name begins with a prefix, as full paths in any order; none when the parent is missing.</summary>
    public abstract IReadOnlyList<string> Folders(string parent, string prefix);

    /// <summary>Joins parts with this machine's separator.</summary>
    public string Join(params ReadOnlySpan<string> parts)
    {
        char separator = IsWindows ? '\\' : '/';
        string path = parts[0].Length > 1 ? parts[0].TrimEnd(separator) : parts[0];
        foreach (string part in parts[1..])
        {
            path += path.EndsWith(separator) ? part : separator + part;
        }

        return path;
    }

    /// <summary>The folder of a file.</summary>
    public string FolderOf(string file)
    {
        int end = file.LastIndexOfAny(IsWindows ? ['\\', '/'] : ['/']);
        return end < 0 ? "." : file[..Math.Max(end, 1)];
    }

    /// <summary>The name of a file without its folder.</summary>
    public string NameOf(string file) => file[(file.LastIndexOfAny(IsWindows ? ['\\', '/'] : ['/']) + 1)..];

    private sealed class SystemHost : NativeLocatorHost
    {
        public override bool IsWindows => OperatingSystem.IsWindows();

        public override Architecture Architecture => RuntimeInformation.ProcessArchitecture;

        public override string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;

        public override bool FolderExists(string path) => Directory.Exists(path);

        public override bool FileExists(string path) => File.Exists(path);

        public override string RealFile(string path)
        {
            try
            {
                return File.ResolveLinkTarget(path, returnFinalTarget: true)?.FullName ?? path;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return path;
            }
        }

        public override (long Size, long WriteTime) Stamp(string path)
        {
            FileInfo file = new(path);
            return file.Exists ? (file.Length, file.LastWriteTimeUtc.Ticks) : (0, 0);
        }

        public override IReadOnlyList<string> Folders(string parent, string prefix)
        {
            try
            {
                return Directory.Exists(parent) ? Directory.GetDirectories(parent, prefix + "*") : [];
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return [];
            }
        }
    }
}
