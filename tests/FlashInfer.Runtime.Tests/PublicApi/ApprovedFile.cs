namespace FlashInfer.Tests.PublicApi;

/// <summary>A text that is recorded in the repository; a change of it is a decision that somebody takes.</summary>
internal static class ApprovedFile
{
    /// <summary>The file's text with line ends as written here; empty when there is none.</summary>
    public static string Read(string folder, string name)
    {
        string path = PathOf(folder, name);
        return File.Exists(path) ? File.ReadAllText(path).ReplaceLineEndings("\n") : "";
    }

    /// <summary>Fails unless the recorded text is this one, and writes what was received beside it.</summary>
    public static void Check(string folder, string name, string what, string actual)
    {
        actual = actual.ReplaceLineEndings("\n").TrimEnd('\n') + "\n";
        string approved = Read(folder, name);
        string path = PathOf(folder, name);
        string kind = Path.GetExtension(Path.GetFileNameWithoutExtension(name));
        string received = path[..^(kind.Length + Path.GetExtension(name).Length)] + ".received.txt";
        if (approved == actual)
        {
            File.Delete(received);
            return;
        }

        File.WriteAllText(received, actual);
        string[] before = approved.Split('\n');
        string[] after = actual.Split('\n');
        Assert.Fail(
            $"{what} differs from {name}:\n{Lines("-", before.Except(after))}{Lines("+", after.Except(before))}"
                + $"If the change is meant, accept it: mv '{received}' '{path}'"
        );
    }

    /// <summary>A path in the repository.</summary>
    public static string RepositoryPath(params ReadOnlySpan<string> parts)
    {
        DirectoryInfo? root = new(AppContext.BaseDirectory);
        while (root is not null && !File.Exists(Path.Combine(root.FullName, "FlashInfer.sln")))
        {
            root = root.Parent;
        }

        string path = Path.Combine(parts);
        Assert.True(
            root is not null,
            $"{path} lies in the repository, and no folder above {AppContext.BaseDirectory} holds FlashInfer.sln."
        );
        return Path.Combine(root.FullName, path);
    }

    private static string PathOf(string folder, string name) => RepositoryPath("tests", "FlashInfer.Runtime.Tests", folder, name);

    private static string Lines(string sign, IEnumerable<string> lines)
    {
        string[] all = [.. lines];
        string shown = string.Concat(all.Take(40).Select(line => $"{sign} {line}\n"));
        return all.Length > 40 ? $"{shown}{sign} ... and {all.Length - 40} more lines\n" : shown;
    }
}
