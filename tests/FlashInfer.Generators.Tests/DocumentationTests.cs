using System.Text.RegularExpressions;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests;

/// <summary>Every diagnostic has its page, its line in the index and its release row, and the pages' examples do what they say.</summary>
public sealed partial class DocumentationTests
{
    private static readonly string s_pages = Path.Combine(TestPaths.RepositoryRoot, "docs", "diagnostics");
    private static readonly string s_generators = Path.Combine(TestPaths.RepositoryRoot, "src", "FlashInfer.Generators");

    public static TheoryData<string> Ids => [.. Descriptors.All.Select(static d => d.Id)];

    [Fact]
    public void Ids_are_unique_and_the_analyzer_supports_them_all()
    {
        Assert.Equal(Descriptors.All.Length, Descriptors.All.Select(static d => d.Id).Distinct().Count());
        Assert.Equal(Descriptors.All, new AttentionConfigAnalyzer().SupportedDiagnostics);
        Assert.Equal(AttentionRules.All.Select(static r => r.Id), Descriptors.Rules.Select(static d => d.Id));
    }

    [Theory]
    [MemberData(nameof(Ids))]
    public void A_descriptor_is_an_error_with_a_help_link(string id)
    {
        DiagnosticDescriptor descriptor = Descriptor(id);
        Assert.Equal("FlashInfer", descriptor.Category);
        Assert.Equal(DiagnosticSeverity.Error, descriptor.DefaultSeverity);
        Assert.True(descriptor.IsEnabledByDefault);
        Assert.Equal($"https://github.com/flashinfer-net/flashinfer-net/blob/main/docs/diagnostics/{id}.md", descriptor.HelpLinkUri);
    }

    [Theory]
    [MemberData(nameof(Ids))]
    public void It_has_a_page_an_index_entry_and_a_release_row(string id)
    {
        string title = Descriptor(id).Title.ToString();
        string page = File.ReadAllText(Path.Combine(s_pages, id + ".md"));
        Assert.StartsWith($"# {id}: {title}\n", page, StringComparison.Ordinal);
        foreach (string section in new[] { "## Example", "## Fix", "## Legal" })
        {
            Assert.Contains($"\n{section}\n", page, StringComparison.Ordinal);
        }

        Assert.Contains($"| [{id}]({id}.md) | {title} |\n", File.ReadAllText(Path.Combine(s_pages, "README.md")), StringComparison.Ordinal);
        Assert.Single(ReleaseRows(), row => row == (id, "FlashInfer", "Error"));
    }

    /// <summary>Tests of one diagnostic start with its id.</summary>
    [Theory]
    [MemberData(nameof(Ids))]
    public void It_has_a_test(string id) =>
        Assert.Contains(
            new[] { typeof(RuleDiagnosticTests), typeof(TargetDiagnosticTests) }.SelectMany(static type => type.GetMethods()),
            method => method.Name.StartsWith(id + "_", StringComparison.Ordinal)
        );

    [Fact]
    public void Nothing_is_documented_or_released_that_does_not_exist()
    {
        string[] ids = [.. Descriptors.All.Select(static d => d.Id).Order()];
        Assert.Equal(ids, Directory.GetFiles(s_pages, "FI*.md").Select(static f => Path.GetFileNameWithoutExtension(f)).Order());
        Assert.Equal(ids, ReleaseRows().Select(static row => row.Id).Order());
    }

    /// <summary>The first code block of a page breaks the rule of that page and no other; the second is legal.</summary>
    [Theory]
    [MemberData(nameof(Ids))]
    public void The_examples_do_what_the_page_says(string id)
    {
        string page = File.ReadAllText(Path.Combine(s_pages, id + ".md"));
        string[] blocks = [.. CodeBlock().Matches(page).Select(static m => m.Groups[1].Value)];
        Assert.Equal(2, blocks.Length);
        Assert.Equal([id], Run(blocks[0]).Distinct());
        Assert.Empty(Run(blocks[1]));
    }

    // Statements of an example come after its types; what they use is declared here.
    private static IEnumerable<string> Run(string example)
    {
        string types = string.Join('\n', example.Split('\n').Where(static line => !line.StartsWith("decode.", StringComparison.Ordinal)));
        return GeneratorHarness.Run($"using FlashInfer;\n{types}").Diagnostics().Select(static d => d.Id);
    }

    private static DiagnosticDescriptor Descriptor(string id) => Descriptors.All.Single(d => d.Id == id);

    private static IEnumerable<(string Id, string Category, string Severity)> ReleaseRows() =>
        new[] { "AnalyzerReleases.Shipped.md", "AnalyzerReleases.Unshipped.md" }
            .SelectMany(static file => File.ReadAllLines(Path.Combine(s_generators, file)))
            .Where(static line => line.StartsWith("FI", StringComparison.Ordinal))
            .Select(static line => line.Split('|', StringSplitOptions.TrimEntries))
            .Select(static cells => (cells[0], cells[1], cells[2]));

    [GeneratedRegex("```csharp\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex CodeBlock();
}
