using System.Text.RegularExpressions;
using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests;

/// <summary>
/// Every C# block of the README, CONTRIBUTING and the pages under docs compiles without a warning, against the runtime and with the
/// generator, as a user's program would. On every page of the repository relative links lead to files and headings, and the files that are
/// named are there.
/// </summary>
/// <remarks>
/// A block that is a fragment has an HTML comment on the line above it: <c>&lt;!-- context: NAME --&gt;</c> puts it behind the statements
/// of <see cref="s_contexts"/>, <c>&lt;!-- package: NAME --&gt;</c> needs a package that this repository does not (it is compiled where the
/// machine's NuGet folder has it), <c>&lt;!-- does not compile: CS1503 --&gt;</c> (behind the context <c>step</c>) expects these errors.
/// </remarks>
public sealed partial class ExampleTests
{
    // What the SDK adds to a program with ImplicitUsings.
    private const string ImplicitUsings = """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Threading;
        global using System.Threading.Tasks;
        """;

    private const string Config = """
        using FlashInfer;

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
        public partial class LlamaAttention;

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, KvDtype = DType.Float8E4M3)]
        public partial class QuantisedAttention;
        """;

    private static readonly Dictionary<string, string> s_contexts = new()
    {
        [""] = "",
        // One step of two sequences; their forwards are open and their tensors allocated.
        ["step"] = """
            using Device device = Device.Open();
            using LlamaAttention.PagedKvCache cache = new(device, layers: 32, pages: 1024);
            using LlamaAttention.BatchDecodeWithPagedKvCache decode = new(cache);
            Sequence[] sequences = [cache.NewSequence(), cache.NewSequence()];
            using LlamaAttention.Query query = LlamaAttention.AllocateQuery(device, sequences.Length);
            using LlamaAttention.Key key = LlamaAttention.AllocateKey(device, sequences.Length);
            using LlamaAttention.Value value = LlamaAttention.AllocateValue(device, sequences.Length);
            using LlamaAttention.Output output = LlamaAttention.AllocateOutput(device, sequences.Length);
            """,
        // A cache, and tensors for 50 tokens.
        ["prefill"] = """
            using Device device = Device.Open();
            using LlamaAttention.PagedKvCache cache = new(device, layers: 32, pages: 1024);
            using LlamaAttention.BatchPrefillWithPagedKvCache prefill = new(cache);
            using LlamaAttention.Query query = LlamaAttention.AllocateQuery(device, tokens: 50);
            using LlamaAttention.Key key = LlamaAttention.AllocateKey(device, tokens: 50);
            using LlamaAttention.Value value = LlamaAttention.AllocateValue(device, tokens: 50);
            using LlamaAttention.Output output = LlamaAttention.AllocateOutput(device, tokens: 50);
            """,
        // A cache of 8-bit elements.
        ["quantised"] = """
            using Device device = Device.Open();
            using QuantisedAttention.PagedKvCache cache = new(device, layers: 32, pages: 1024);
            """,
        // Handles of another library.
        ["handles"] = """
            nint foreignContext = nint.Parse(args[0]);
            nint foreignStream = nint.Parse(args[1]);
            nint queryPointer = nint.Parse(args[2]);
            nint outputPointer = nint.Parse(args[3]);
            """,
    };

    private static readonly string[] s_pages =
    [
        Path.Combine(TestPaths.RepositoryRoot, "README.md"),
        Path.Combine(TestPaths.RepositoryRoot, "CONTRIBUTING.md"),
        Path.Combine(TestPaths.RepositoryRoot, "CHANGELOG.md"),
        .. Directory.GetFiles(Path.Combine(TestPaths.RepositoryRoot, "docs"), "*.md").Order(StringComparer.Ordinal),
    ];

    /// <summary>Page and line of every block.</summary>
    public static TheoryData<string, int> Blocks
    {
        get
        {
            TheoryData<string, int> data = [];
            foreach (string page in s_pages)
            {
                string text = File.ReadAllText(page);
                foreach (Match match in Block().Matches(text))
                {
                    if (match.Groups["package"].Value is not { Length: > 0 } package || PackageFile(package) is not null)
                    {
                        data.Add(Relative(page), Line(text, match));
                    }
                }
            }

            return data;
        }
    }

    public static TheoryData<string> Pages => [.. AllPages().Select(Relative)];

    /// <summary>A page elsewhere with code would not be looked at, nor a block that says <c>cs</c>; those of diagnostics are DocumentationTests'.</summary>
    [Fact]
    public void No_page_with_code_is_left_out()
    {
        IEnumerable<string> with = AllPages()
            .Where(static page => CSharpBlock().IsMatch(File.ReadAllText(page)))
            .Where(static page => !Relative(page).StartsWith("docs/diagnostics/", StringComparison.Ordinal));

        Assert.Empty(with.Except(s_pages));
        Assert.DoesNotContain(s_pages, static page => OtherCSharpBlock().IsMatch(File.ReadAllText(page)));
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void The_example_compiles(string page, int line)
    {
        string text = File.ReadAllText(Path.Combine(TestPaths.RepositoryRoot, page));
        Match block = Block().Matches(text).Single(match => Line(text, match) == line);
        string context = block.Groups["context"].Value;
        string[] errors = block.Groups["errors"].Value.Split([',', ' '], StringSplitOptions.RemoveEmptyEntries);
        Assert.True(
            s_contexts.TryGetValue(errors.Length > 0 ? "step" : context, out string? statements),
            $"{page}:{line} names the context '{context}'; there are {string.Join(", ", s_contexts.Keys)}"
        );

        IReadOnlyList<Diagnostic> diagnostics = Compile(statements, block.Groups["code"].Value, block.Groups["package"].Value);

        string found = string.Join('\n', diagnostics);
        Assert.True(errors.SequenceEqual(diagnostics.Select(static d => d.Id).Distinct()), $"{page}:{line}\n{found}");
    }

    [Theory]
    [MemberData(nameof(Pages))]
    public void Relative_links_lead_to_files_and_headings(string page)
    {
        string folder = Path.GetDirectoryName(Path.Combine(TestPaths.RepositoryRoot, page))!;
        foreach (Match link in Link().Matches(File.ReadAllText(Path.Combine(TestPaths.RepositoryRoot, page))))
        {
            string target = link.Groups[1].Value;
            string path = target.Length == 0 ? Path.Combine(TestPaths.RepositoryRoot, page) : Path.Combine(folder, target);
            Assert.True(Path.Exists(path), $"{page} links to {target}, which is not there");
            if (link.Groups[2].Value is { Length: > 0 } anchor)
            {
                Assert.True(Anchors(path).Contains(anchor), $"{page} links to {target}#{anchor}, but there is no such heading");
            }
        }
    }

    /// <summary>Names in code spans: files of this repository, and results of benchmarks, by which figures can be looked up.</summary>
    [Theory]
    [MemberData(nameof(Pages))]
    public void Files_that_are_named_are_there(string page)
    {
        string text = File.ReadAllText(Path.Combine(TestPaths.RepositoryRoot, page));
        string[] missing =
        [
            .. NamedFile()
                .Matches(text)
                .Select(static match => match.Groups["path"].Value)
                .Where(static path => !Placeholder().IsMatch(path))
                .Concat(NamedResults().Matches(text).Select(static match => $"benchmarks/results/{match.Value}"))
                .Where(static path => !Path.Exists(Path.Combine(TestPaths.RepositoryRoot, path))),
        ];

        Assert.Empty(missing);
    }

    private static IEnumerable<string> AllPages()
    {
        string[] ignored = ["artifacts", "bin", "obj", "node_modules"];
        return Directory
            .EnumerateFiles(TestPaths.RepositoryRoot, "*.md", SearchOption.AllDirectories)
            .Where(page => !Relative(page).Split('/').Any(part => part.StartsWith('.') || ignored.Contains(part)))
            .Order(StringComparer.Ordinal);
    }

    /// <summary>Headings as GitHub turns them into anchors: lower case, hyphens for spaces, no punctuation.</summary>
    private static IEnumerable<string> Anchors(string path) =>
        Heading()
            .Matches(File.ReadAllText(path))
            .Select(static match => string.Concat(match.Groups[1].Value.Where(static c => char.IsLetterOrDigit(c) || c is ' ' or '-')))
            .Select(static heading => heading.ToLowerInvariant().Replace(' ', '-'));

    /// <summary>The block's using directives, the context's statements, the block; the configuration unless the block has its own.</summary>
    private static IReadOnlyList<Diagnostic> Compile(string statements, string code, string package)
    {
        string[] lines = code.Split('\n');
        string[] usings = [.. lines.Where(static line => Using().IsMatch(line))];
        if (statements.Length > 0)
        {
            usings = [.. usings.Append("using FlashInfer;").Distinct()];
        }

        string program = string.Join('\n', [.. usings, statements, .. lines.Where(static line => !Using().IsMatch(line))]);
        bool hasConfig = code.Contains("[AttentionConfig", StringComparison.Ordinal);
        return GeneratorHarness
            .RunProgram(
                program,
                hasConfig ? [ImplicitUsings] : [ImplicitUsings, Config],
                PackageFile(package) is { } file ? [MetadataReference.CreateFromFile(file)] : []
            )
            .Diagnostics();
    }

    /// <summary>The assembly of a package in this machine's NuGet folder; null when it is not there.</summary>
    private static string? PackageFile(string name)
    {
        string packages =
            Environment.GetEnvironmentVariable("NUGET_PACKAGES")
            ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        string folder = Path.Combine(packages, name.ToLowerInvariant());
        return name.Length > 0 && Directory.Exists(folder)
            ? Directory.EnumerateFiles(folder, $"{name}.dll", SearchOption.AllDirectories).Order(StringComparer.Ordinal).LastOrDefault()
            : null;
    }

    private static string Relative(string page) => Path.GetRelativePath(TestPaths.RepositoryRoot, page).Replace('\\', '/');

    private static int Line(string text, Match match) => text.AsSpan(0, match.Groups["code"].Index).Count('\n');

    [GeneratedRegex(
        @"(?:<!-- (?:context: (?<context>\w+)|package: (?<package>[\w.]+)|does not compile: (?<errors>[\w, ]+)) -->\n)?```csharp\n(?<code>.*?)```",
        RegexOptions.Singleline
    )]
    private static partial Regex Block();

    [GeneratedRegex("^ *```(cs|c#|csharp)", RegexOptions.IgnoreCase | RegexOptions.Multiline)]
    private static partial Regex CSharpBlock();

    // Not found by the other tests.
    [GeneratedRegex("^ *```(?!csharp\n)(cs|c#)", RegexOptions.IgnoreCase | RegexOptions.Multiline)]
    private static partial Regex OtherCSharpBlock();

    [GeneratedRegex(@"^using [\w.]+;$")]
    private static partial Regex Using();

    [GeneratedRegex(@"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")]
    private static partial Regex Link();

    [GeneratedRegex(@"`(?<path>(benchmarks|docs|eng|kernels|samples|src|tests)/[\w./#-]+)`")]
    private static partial Regex NamedFile();

    [GeneratedRegex(@"\b(FOLDER|NAME|ID|EXT)\b")]
    private static partial Regex Placeholder();

    [GeneratedRegex(@"\b20\d\d-\d\d-\d\d-[a-z0-9-]+\.(json|svg)")]
    private static partial Regex NamedResults();

    [GeneratedRegex(@"^#+ (.*)$", RegexOptions.Multiline)]
    private static partial Regex Heading();
}
