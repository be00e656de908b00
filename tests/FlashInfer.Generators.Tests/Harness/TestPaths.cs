using System.Reflection;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>Where the sources lie; the build writes it into the assembly, so that a mapped source path does no harm.</summary>
internal static class TestPaths
{
    public static string RepositoryRoot { get; } = Metadata("RepositoryRoot");

    public static string ProjectDirectory { get; } = Metadata("ProjectDirectory");

    private static string Metadata(string key) =>
        typeof(TestPaths).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().Single(a => a.Key == key).Value!;
}
