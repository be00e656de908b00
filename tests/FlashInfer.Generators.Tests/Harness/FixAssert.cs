using System.Collections.Immutable;
using FlashInfer.CodeFixes;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CodeActions;
using Microsoft.CodeAnalysis.CodeFixes;
using Microsoft.CodeAnalysis.CSharp;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>Applies code fixes to source text, one diagnostic at a time or all at once, as an editor does.</summary>
internal static class FixAssert
{
    /// <summary>Every provider of the product.</summary>
    public static readonly CodeFixProvider[] Providers =
    [
        .. typeof(FixProvider)
            .Assembly.GetTypes()
            .Where(static type => type.IsSubclassOf(typeof(CodeFixProvider)) && !type.IsAbstract)
            .OrderBy(static type => type.Name, StringComparer.Ordinal)
            .Select(static type => (CodeFixProvider)Activator.CreateInstance(type)!),
    ];

    /// <summary>The titles of what is offered for the first diagnostic with an id.</summary>
    public static IEnumerable<string> Titles(string source, string id, string architectures = "")
    {
        (Document document, IReadOnlyList<Diagnostic> diagnostics) = Open(source, architectures);
        return Actions(document, diagnostics.First(d => d.Id == id)).Select(static action => action.Title);
    }

    /// <summary>Fails unless a fix of the first diagnostic turns the source into the expected one.</summary>
    public static void Fixes(string source, string id, string title, string expected, string architectures = "")
    {
        (Document document, IReadOnlyList<Diagnostic> diagnostics) = Open(source, architectures);
        CodeAction action = Actions(document, diagnostics.First(d => d.Id == id)).Single(action => action.Title == title);
        Assert.Equal(expected, Text(document, action));
    }

    /// <summary>Fails unless a fix of all diagnostics with an id turns the source into the expected one, of which nothing is reported.</summary>
    public static void FixesAll(string source, string id, string title, string expected, string architectures = "")
    {
        (Document document, IReadOnlyList<Diagnostic> diagnostics) = Open(source, architectures);
        ImmutableArray<Diagnostic> all = [.. diagnostics.Where(d => d.Id == id)];
        Assert.True(all.Length > 1, "one diagnostic is no test of fixing all");
        CodeAction first = Actions(document, all[0]).First(action => action.Title == title);
        CodeFixProvider provider = Providers.Single(provider => provider.FixableDiagnosticIds.Contains(id));
        FixAllContext context = new(
            document,
            provider,
            FixAllScope.Document,
            first.EquivalenceKey,
            [id],
            new Known(all),
            CancellationToken.None
        );
        CodeAction? action = provider.GetFixAllProvider()!.GetFixAsync(context).GetAwaiter().GetResult();
        Assert.NotNull(action);
        Assert.Equal(expected, Text(document, action));
        Assert.Empty(GeneratorHarness.Run(expected).Diagnostics(architectures));
    }

    private static (Document Document, IReadOnlyList<Diagnostic> Diagnostics) Open(string source, string architectures)
    {
        GeneratorRun run = GeneratorHarness.Run(source);
        using AdhocWorkspace workspace = new();
        Project project = workspace.AddProject(
            ProjectInfo.Create(
                ProjectId.CreateNewId(),
                VersionStamp.Default,
                "Test",
                "Test",
                LanguageNames.CSharp,
                compilationOptions: new CSharpCompilationOptions(OutputKind.DynamicallyLinkedLibrary),
                parseOptions: GeneratorHarness.ParseOptions,
                metadataReferences: GeneratorHarness.References
            )
        );
        foreach (GeneratedFile file in run.Files)
        {
            project = project.AddDocument(file.HintName, file.Text).Project;
        }

        return (project.AddDocument("Test.cs", source), run.Diagnostics(architectures));
    }

    private static List<CodeAction> Actions(Document document, Diagnostic diagnostic)
    {
        List<CodeAction> actions = [];
        foreach (CodeFixProvider provider in Providers.Where(provider => provider.FixableDiagnosticIds.Contains(diagnostic.Id)))
        {
            CodeFixContext context = new(document, diagnostic, (action, _) => actions.Add(action), CancellationToken.None);
            provider.RegisterCodeFixesAsync(context).GetAwaiter().GetResult();
        }

        return actions;
    }

    private static string Text(Document document, CodeAction action)
    {
        ApplyChangesOperation change = Assert.IsType<ApplyChangesOperation>(
            Assert.Single(action.GetOperationsAsync(CancellationToken.None).GetAwaiter().GetResult())
        );
        return change.ChangedSolution.GetDocument(document.Id)!.GetTextAsync().GetAwaiter().GetResult().ToString();
    }

    private sealed class Known(ImmutableArray<Diagnostic> diagnostics) : FixAllContext.DiagnosticProvider
    {
        public override Task<IEnumerable<Diagnostic>> GetAllDiagnosticsAsync(Project project, CancellationToken cancellationToken) =>
            Task.FromResult<IEnumerable<Diagnostic>>(diagnostics);

        public override Task<IEnumerable<Diagnostic>> GetDocumentDiagnosticsAsync(Document document, CancellationToken cancellationToken) =>
            Task.FromResult<IEnumerable<Diagnostic>>(diagnostics);

        public override Task<IEnumerable<Diagnostic>> GetProjectDiagnosticsAsync(Project project, CancellationToken cancellationToken) =>
            Task.FromResult<IEnumerable<Diagnostic>>(diagnostics);
    }
}
