using System.Text.RegularExpressions;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Diagnostics.Usage;
using FlashInfer.Generators.Tests.Harness;
using FlashInfer.Generators.Tests.Variants;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests;

/// <summary>Every diagnostic has its page, its line in the index and its release row, and the pages' examples do what they say.</summary>
public sealed partial class DocumentationTests
{
    private static readonly string s_pages = Path.Combine(TestPaths.RepositoryRoot, "docs", "diagnostics");
    private static readonly string s_generators = Path.Combine(TestPaths.RepositoryRoot, "src", "FlashInfer.Generators");

    public static TheoryData<string> Ids => [.. Descriptors.All.Select(static d => d.Id)];

    [Fact]
    public void Ids_are_unique_and_an_analyzer_supports_each()
    {
        Assert.Equal(Descriptors.All.Length, Descriptors.All.Select(static d => d.Id).Distinct().Count());
        Assert.Equal(
            Descriptors.All,
            new AttentionConfigAnalyzer()
                .SupportedDiagnostics.Concat(new VariantAnalyzer().SupportedDiagnostics)
                .Concat(new UsageAnalyzer().SupportedDiagnostics)
        );
        Assert.Equal(AttentionRules.All.Select(static r => r.Id), Descriptors.Rules.Select(static d => d.Id));
        Assert.Equal(ArchitectureRules.All.Select(static r => r.Id), Descriptors.ArchitectureRules.Select(static d => d.Id));
    }

    [Theory]
    [MemberData(nameof(Ids))]
    public void A_descriptor_is_on_and_has_a_help_link(string id)
    {
        DiagnosticDescriptor descriptor = Descriptor(id);
        Assert.Equal("FlashInfer", descriptor.Category);
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
        Assert.Single(ReleaseRows(), row => row == (id, "FlashInfer", Descriptor(id).DefaultSeverity.ToString()));
    }

    /// <summary>Tests of one diagnostic start with its id.</summary>
    [Theory]
    [MemberData(nameof(Ids))]
    public void It_has_a_test(string id) =>
        Assert.Contains(
            new[]
            {
                typeof(RuleDiagnosticTests),
                typeof(TargetDiagnosticTests),
                typeof(UsageDiagnosticTests),
                typeof(VariantDiagnosticTests),
            }.SelectMany(static type => type.GetMethods()),
            method => method.Name.StartsWith(id + "_", StringComparison.Ordinal)
        );

    [Fact]
    public void Nothing_is_documented_or_released_that_does_not_exist()
    {
        string[] ids = [.. Descriptors.All.Select(static d => d.Id).Order()];
        Assert.Equal(ids, Directory.GetFiles(s_pages, "FI*.md").Select(static f => Path.GetFileNameWithoutExtension(f)).Order());
        Assert.Equal(ids, ReleaseRows().Select(static row => row.Id).Order());
    }

    /// <summary>
    /// The first code block of a page breaks the rule of that page and no other; the second is legal. Each in a project with the
    /// <c>FlashInferArchitectures</c> that were named last before it.
    /// </summary>
    [Theory]
    [MemberData(nameof(Ids))]
    public void The_examples_do_what_the_page_says(string id)
    {
        string page = File.ReadAllText(Path.Combine(s_pages, id + ".md"));
        Match[] blocks = CodeBlock().Matches(page).ToArray();
        Assert.Equal(2, blocks.Length);
        Assert.Equal([id], Run(id, page, blocks[0]).Distinct());
        Assert.Empty(Run(id, page, blocks[1]));
    }

    private static IEnumerable<string> Run(string id, string page, Match block)
    {
        string example = block.Groups[1].Value;
        string architectures = Architectures().Matches(page[..block.Index]).LastOrDefault()?.Groups[1].Value ?? "";
        return GeneratorHarness
            .Run(Descriptors.Usage.Any(d => d.Id == id) ? Statements(example) : Types(example))
            .Diagnostics(architectures)
            .Select(static d => d.Id);
    }

    // Statements of an example come after its types; what they use is declared here.
    private static string Types(string example) =>
        $"using FlashInfer;\n{string.Join('\n', example.Split('\n').Where(static line => !line.StartsWith("decode.", StringComparison.Ordinal)))}";

    private static string Statements(string example) =>
        $$"""
            using System;
            using FlashInfer;
            using FlashInfer.Cuda;

            [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
            public partial class LlamaAttention;

            public static class Example
            {
                public static void Run(
                    Device device,
                    LlamaAttention.PagedKvCache cache,
                    LlamaAttention.BatchDecodeWithPagedKvCache decode,
                    Sequence[] sequences,
                    LlamaAttention.Query query,
                    LlamaAttention.Output output,
                    LlamaAttention.Lse2 given,
                    bool stop
                )
                {
            {{example}}
                }
            }
            """;

    private static DiagnosticDescriptor Descriptor(string id) => Descriptors.All.Single(d => d.Id == id);

    private static IEnumerable<(string Id, string Category, string Severity)> ReleaseRows() =>
        new[] { "AnalyzerReleases.Shipped.md", "AnalyzerReleases.Unshipped.md" }
            .SelectMany(static file => File.ReadAllLines(Path.Combine(s_generators, file)))
            .Where(static line => line.StartsWith("FI", StringComparison.Ordinal))
            .Select(static line => line.Split('|', StringSplitOptions.TrimEntries))
            .Select(static cells => (cells[0], cells[1], cells[2]));

    [GeneratedRegex("<FlashInferArchitectures>(.*?)</FlashInferArchitectures>")]
    private static partial Regex Architectures();

    [GeneratedRegex("```csharp\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex CodeBlock();
}
