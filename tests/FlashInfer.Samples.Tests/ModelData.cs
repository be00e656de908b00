namespace FlashInfer.Tests.Samples;

/// <summary>The trained model stories260K: data beside the repository, never in it.</summary>
internal static class ModelData
{
    private const string Variable = "FLASHINFER_TEST_DATA";
    private const string Name = "stories260K";

    /// <summary>The model's folder; the test reports itself skipped when there is none.</summary>
    public static string Folder()
    {
        string? found = Candidates().FirstOrDefault(folder => File.Exists(Path.Combine(folder, $"{Name}.bin")));
        Skip.If(found is null, $"The model {Name} is neither in ../shared/data/{Name} beside the repository nor in {Variable}.");
        return found!;
    }

    public static string Checkpoint => Path.Combine(Folder(), $"{Name}.bin");

    public static string Tokenizer => Path.Combine(Folder(), "tok512.bin");

    public static byte[] Golden => File.ReadAllBytes(Path.Combine(Folder(), "golden.txt"));

    private static IEnumerable<string> Candidates()
    {
        if (Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } folder)
        {
            yield return folder;
            yield return Path.Combine(folder, Name);
        }

        for (DirectoryInfo? place = new(AppContext.BaseDirectory); place is not null; place = place.Parent)
        {
            if (File.Exists(Path.Combine(place.FullName, "FlashInfer.sln")))
            {
                yield return Path.Combine(place.FullName, "..", "shared", "data", Name);
            }
        }
    }
}
