using System.Reflection;
using System.Runtime.Loader;
using FlashInfer.Compilation;

namespace FlashInfer.Tool;

/// <summary>A configuration found in an assembly.</summary>
/// <param name="Type">Its class.</param>
/// <param name="Assembly">The assembly's name.</param>
/// <param name="Spec">What its generated code says.</param>
internal sealed record FoundConfig(string Type, string Assembly, AttentionSpec Spec);

/// <summary>
/// Finds the configurations of a built assembly and of those that it references. Generated code is asked for them, and runs in this
/// process against this tool's own FlashInfer.Runtime: the two have to be of one version, or the kernels would not be those that the
/// program asks for.
/// </summary>
internal sealed class ConfigAssembly : AssemblyLoadContext
{
    private const string RuntimeName = "FlashInfer.Runtime";

    private readonly string _path;
    private readonly Dictionary<string, string> _paths = new(StringComparer.OrdinalIgnoreCase);

    private ConfigAssembly(string path, IEnumerable<string> references)
    {
        _path = path;
        foreach (string reference in references)
        {
            _paths.TryAdd(Path.GetFileNameWithoutExtension(reference), Path.GetFullPath(reference));
        }
    }

    /// <summary>The configurations, those of the assembly itself first.</summary>
    /// <param name="path">The assembly.</param>
    /// <param name="references">Paths of assemblies that it references, for those that do not lie beside it.</param>
    /// <exception cref="ToolException">It is no assembly, or one for another version.</exception>
    public static IReadOnlyList<FoundConfig> Find(string path, IEnumerable<string> references)
    {
        path = Path.GetFullPath(path);
        if (!File.Exists(path))
        {
            throw new ToolException(
                ExitCode.Usage,
                $"The assembly '{path}' is not there; build the project, and give the .dll in its output folder."
            );
        }

        if (AssemblyMetadata.Read(path) is null)
        {
            throw new ToolException(
                ExitCode.Usage,
                $"'{path}' is no .NET assembly; give the .dll of the project's output folder, not a native or published program."
            );
        }

        return new ConfigAssembly(path, references).Find();
    }

    /// <inheritdoc/>
    protected override Assembly? Load(AssemblyName assemblyName) =>
        assemblyName.Name is { } name && name != RuntimeName && PathOf(name) is { } path ? LoadFromAssemblyPath(path) : null;

    private static AttentionSpec SpecOf<T>()
        where T : IAttentionConfig => T.Spec;

    private List<FoundConfig> Find()
    {
        List<FoundConfig> found = [];
        HashSet<string> seen = [_path];
        Queue<string> paths = new(seen);
        while (paths.TryDequeue(out string? path))
        {
            // What is no assembly is nothing that kernels are in.
            if (AssemblyMetadata.Read(path) is not { } metadata)
            {
                continue;
            }

            if (metadata.Configs.Count > 0)
            {
                CheckVersion(path, metadata);
                Assembly assembly = LoadFromAssemblyPath(path);
                string name = Path.GetFileNameWithoutExtension(path);
                found.AddRange(metadata.Configs.Select(type => new FoundConfig(type, name, Spec(assembly, type))));
            }

            foreach ((string name, _) in metadata.References)
            {
                if (name != RuntimeName && PathOf(name) is { } reference && seen.Add(reference))
                {
                    paths.Enqueue(reference);
                }
            }
        }

        return found;
    }

    private static AttentionSpec Spec(Assembly assembly, string type)
    {
        MethodInfo specOf = typeof(ConfigAssembly).GetMethod(nameof(SpecOf), BindingFlags.NonPublic | BindingFlags.Static)!;
        try
        {
            return (AttentionSpec)specOf.MakeGenericMethod(assembly.GetType(type, throwOnError: true)!).Invoke(null, null)!;
        }
        catch (Exception e) when (e is TargetInvocationException or TypeLoadException or FileNotFoundException or ArgumentException)
        {
            Exception cause = e;
            while (cause is TargetInvocationException or TypeInitializationException && cause.InnerException is { } inner)
            {
                cause = inner;
            }

            throw new ToolException(ExitCode.Bad, $"The configuration {type} of {assembly.Location} cannot be read: {cause.Message}");
        }
    }

    private string? PathOf(string name)
    {
        if (_paths.TryGetValue(name, out string? path))
        {
            return path;
        }

        string beside = Path.Combine(Path.GetDirectoryName(_path)!, name + ".dll");
        return File.Exists(beside) ? beside : null;
    }

    private void CheckVersion(string path, AssemblyMetadata metadata)
    {
        Version own = typeof(Device).Assembly.GetName().Version!;
        Version theirs = metadata.References.First(static reference => reference.Name == RuntimeName).Version;
        if (theirs != own)
        {
            throw new ToolException(
                ExitCode.Bad,
                $"'{path}' was built with FlashInfer {theirs.ToString(3)}, but this tool is of version {own.ToString(3)}, whose kernels are others; use the tool of that version: dotnet tool update FlashInfer.Tool --version {theirs.ToString(3)}"
            );
        }

        // Builds between releases share a version; their kernels tell them apart.
        if (PathOf(RuntimeName) is { } runtime && !HasOwnKernels(runtime))
        {
            throw new ToolException(
                ExitCode.Bad,
                $"'{runtime}' has other kernels than this tool, although both are of version {own.ToString(3)}; use the tool of the same build."
            );
        }
    }

    private static bool HasOwnKernels(string runtime)
    {
        AssemblyLoadContext aside = new("runtime of the program", isCollectible: true);
        try
        {
            byte[] hash = KernelHeaders.EmbeddedIn(aside.LoadFromAssemblyPath(runtime)).Hash;
            return hash.AsSpan().SequenceEqual(KernelHeaders.Embedded.Hash);
        }
        finally
        {
            aside.Unload();
        }
    }
}
