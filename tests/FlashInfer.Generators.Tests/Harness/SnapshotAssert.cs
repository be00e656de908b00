using System.Runtime.CompilerServices;
using System.Text;
using DiffPlex.DiffBuilder;
using DiffPlex.DiffBuilder.Model;
using Xunit.Sdk;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>
/// Compares text with the file <c>Snapshots/Class.Method#hint.verified.ext</c>. On a difference the text is written beside it as
/// <c>.received.</c>; rename that file to accept it.
/// </summary>
internal static class SnapshotAssert
{
    private const int ContextLines = 2;

    /// <summary>Fails unless the snapshot holds exactly this text.</summary>
    /// <param name="text">The text.</param>
    /// <param name="className">The test's class.</param>
    /// <param name="hint">What the text is, for the file's name.</param>
    /// <param name="extension">Without the dot.</param>
    /// <param name="method">The test.</param>
    public static void Matches(string text, string className, string hint, string extension, [CallerMemberName] string method = "")
    {
        string prefix = Path.Combine(TestPaths.ProjectDirectory, "Snapshots", $"{className}.{method}#{hint}");
        string verified = $"{prefix}.verified.{extension}";
        string received = $"{prefix}.received.{extension}";
        string expected = File.Exists(verified) ? File.ReadAllText(verified) : "";
        if (text == expected)
        {
            File.Delete(received);
            return;
        }

        Directory.CreateDirectory(Path.GetDirectoryName(received)!);
        File.WriteAllText(received, text);
        throw new XunitException(
            $"{Path.GetFileName(verified)} differs; if the new text is right, rename {received}\n{Diff(expected, text)}"
        );
    }

    private static string Diff(string expected, string actual)
    {
        List<DiffPiece> lines = InlineDiffBuilder.Diff(expected, actual, ignoreWhiteSpace: false).Lines;
        StringBuilder text = new();
        for (int i = 0; i < lines.Count; i++)
        {
            int from = Math.Max(0, i - ContextLines);
            int to = Math.Min(lines.Count, i + ContextLines + 1);
            if (lines[from..to].Any(static line => line.Type != ChangeType.Unchanged))
            {
                char mark = lines[i].Type switch
                {
                    ChangeType.Inserted => '+',
                    ChangeType.Deleted => '-',
                    _ => ' ',
                };
                text.Append(mark).Append(' ').Append(lines[i].Text).Append('\n');
            }
        }

        return text.Length > 0 ? text.ToString() : "(only line ends differ)";
    }
}
