using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Text;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>What a test expects of one diagnostic.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Line">The line, from 1.</param>
/// <param name="Column">The column, from 1.</param>
/// <param name="Text">The source text that it underlines.</param>
/// <param name="Message">The whole message; not compared when null (the compiler's own).</param>
internal sealed record ExpectedDiagnostic(string Id, int Line, int Column, string Text, string? Message);

/// <summary>Compares everything that compiler and analyzer report, warnings included, with what is expected.</summary>
internal static class DiagnosticAssert
{
    private const int MaxLines = 12;

    /// <summary>Fails unless these are all the errors and warnings, in the order of their position.</summary>
    public static void Reports(string source, params ExpectedDiagnostic[] expected) => ReportsFor("", source, expected);

    /// <summary>As <see cref="Reports"/>, in a project for these architectures.</summary>
    public static void ReportsFor(string architectures, string source, params ExpectedDiagnostic[] expected)
    {
        ExpectedDiagnostic[] actual = [.. GeneratorHarness.Run(source).Diagnostics(architectures).Select(Describe)];
        ExpectedDiagnostic[] comparable =
        [
            .. actual.Select((d, i) => i < expected.Length && expected[i].Message is null ? d with { Message = null } : d),
        ];
        Assert.True(expected.SequenceEqual(comparable), $"expected\n{Lines(expected)}\nbut got\n{Lines(actual)}");
    }

    private static ExpectedDiagnostic Describe(Diagnostic diagnostic)
    {
        LinePosition start = diagnostic.Location.GetLineSpan().StartLinePosition;
        string text = diagnostic.Location.SourceTree?.GetText().ToString(diagnostic.Location.SourceSpan) ?? "";
        return new ExpectedDiagnostic(diagnostic.Id, start.Line + 1, start.Character + 1, text, diagnostic.GetMessage());
    }

    private static string Lines(IEnumerable<ExpectedDiagnostic> diagnostics) => string.Join("\n", diagnostics.Take(MaxLines));
}
