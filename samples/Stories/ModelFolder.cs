namespace Stories;

/// <summary>Finds the two files of a model: the tokenizer is <c>tok*.bin</c>, the checkpoint the other <c>.bin</c>.</summary>
internal static class ModelFolder
{
    public static (string Checkpoint, string Tokenizer) Find(string folder)
    {
        if (!Directory.Exists(folder))
        {
            throw new InvalidDataException($"The model folder '{folder}' does not exist.");
        }

        ILookup<bool, string> files = Directory
            .EnumerateFiles(folder, "*.bin")
            .ToLookup(file => Path.GetFileName(file).StartsWith("tok", StringComparison.Ordinal));
        return (One(folder, files[false], "checkpoint (*.bin)"), One(folder, files[true], "tokenizer (tok*.bin)"));
    }

    private static string One(string folder, IEnumerable<string> files, string what)
    {
        string[] found = [.. files.Order(StringComparer.Ordinal)];
        return found.Length == 1
            ? found[0]
            : throw new InvalidDataException(
                $"The model folder '{folder}' has {found.Length} files that may be the {what}; expected 1{(found.Length == 0 ? "" : ": ")}{string.Join(", ", found.Select(Path.GetFileName))}."
            );
    }
}
