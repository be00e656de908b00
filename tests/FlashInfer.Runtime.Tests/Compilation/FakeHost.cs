using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer.Runtime.Tests.Compilation;

/// <summary>A machine stated by its variables and files.</summary>
internal sealed class FakeHost(bool isWindows = false, Architecture architecture = Architecture.X64) : NativeLocatorHost
{
    public Dictionary<string, string> Variables { get; } = [];

    /// <summary>Files, each with the file that it links to (itself when it is no link).</summary>
    public Dictionary<string, string> FilesAndTargets { get; } = [];

    public override bool IsWindows => isWindows;

    public override Architecture Architecture => architecture;

    public FakeHost Set(string name, string value)
    {
        Variables[name] = value;
        return this;
    }

    public FakeHost Add(params ReadOnlySpan<string> paths)
    {
        foreach (string path in paths)
        {
            FilesAndTargets[path] = path;
        }

        return this;
    }

    public FakeHost Link(string path, string target)
    {
        FilesAndTargets[path] = target;
        return Add(target);
    }

    public override string? Variable(string name) => Variables.GetValueOrDefault(name);

    public override bool FileExists(string path) => FilesAndTargets.ContainsKey(path);

    public override bool FolderExists(string path) =>
        FilesAndTargets.Keys.Any(file => file.StartsWith(Join(path, ""), StringComparison.Ordinal));

    public override string RealFile(string path) => FilesAndTargets[path];

    public override (long Size, long WriteTime) Stamp(string path) => (path.Length, 7);

    public override IReadOnlyList<string> Folders(string parent, string prefix)
    {
        string start = Join(parent, prefix);
        char separator = IsWindows ? '\\' : '/';
        return
        [
            .. FilesAndTargets
                .Keys.Where(file => file.StartsWith(start, StringComparison.Ordinal) && file.IndexOf(separator, start.Length) > 0)
                .Select(file => file[..file.IndexOf(separator, start.Length)])
                .Distinct(),
        ];
    }
}
