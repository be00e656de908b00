using System.Text;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>Source text in which <c>[|...|]</c> marks what is to be reported.</summary>
internal static class MarkedSource
{
    /// <summary>The text without the marks, and what they enclose as <c>line N: text</c>.</summary>
    public static (string Source, IReadOnlyList<string> Marked) Unmark(string marked)
    {
        StringBuilder source = new();
        List<string> found = [];
        int line = 1;
        int start = -1;
        int startLine = 0;
        for (int i = 0; i < marked.Length; i++)
        {
            if (marked.AsSpan(i).StartsWith("[|"))
            {
                (start, startLine) = (source.Length, line);
                i++;
            }
            else if (marked.AsSpan(i).StartsWith("|]"))
            {
                found.Add($"line {startLine}: {source.ToString(start, source.Length - start)}");
                i++;
            }
            else
            {
                line += marked[i] == '\n' ? 1 : 0;
                source.Append(marked[i]);
            }
        }

        return (source.ToString(), found);
    }

    /// <summary>Where a diagnostic stands, as <see cref="Unmark"/> says it.</summary>
    public static string Where(Diagnostic diagnostic)
    {
        FileLinePositionSpan span = diagnostic.Location.GetLineSpan();
        string text = diagnostic.Location.SourceTree?.GetText().ToString(diagnostic.Location.SourceSpan) ?? "";
        return $"line {span.StartLinePosition.Line + 1}: {text}";
    }
}
