extern alias runtime;

using System.Collections.Immutable;
using System.Diagnostics.CodeAnalysis;
using System.Text;
using Basic.Reference.Assemblies;
using FlashInfer.Generators.Diagnostics;
using FlashInfer.Generators.Diagnostics.Usage;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Diagnostics;
using Microsoft.CodeAnalysis.Text;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>One file that the generator added.</summary>
/// <param name="HintName">Its name.</param>
/// <param name="Text">Its text.</param>
internal sealed record GeneratedFile(string HintName, string Text);

/// <summary>What came out of a run.</summary>
/// <param name="Compilation">The compilation with the generated files.</param>
/// <param name="Files">The generated files.</param>
internal sealed record GeneratorRun(Compilation Compilation, IReadOnlyList<GeneratedFile> Files)
{
    /// <summary>
    /// The errors and warnings of the compiler, and all that our analyzers say. Undocumented snippets are fine, undocumented generated code
    /// is not.
    /// </summary>
    /// <param name="architectures">The project's <c>FlashInferArchitectures</c>.</param>
    public IReadOnlyList<Diagnostic> Diagnostics(string architectures = "")
    {
        AnalyzerOptions options = new([], new ProjectOptions(architectures));
        CompilationWithAnalyzers compilation = Compilation.WithAnalyzers(
            [new AttentionConfigAnalyzer(), new VariantAnalyzer(), new UsageAnalyzer()],
            new CompilationWithAnalyzersOptions(
                options,
                static (failure, _, _) => throw new InvalidOperationException("An analyzer failed.", failure),
                concurrentAnalysis: false,
                logAnalyzerExecutionTime: false
            )
        );
        ImmutableArray<Diagnostic> all = compilation.GetAllDiagnosticsAsync(CancellationToken.None).GetAwaiter().GetResult();
        return
        [
            .. all.Where(static d => d.Severity >= DiagnosticSeverity.Warning || d.Descriptor.Category == "FlashInfer")
                .Where(static d => d.Id != "CS1591" || d.Location.SourceTree?.FilePath.EndsWith(".g.cs", StringComparison.Ordinal) == true)
                .OrderBy(static d => d.Location.SourceSpan.Start)
                .ThenBy(static d => d.Id, StringComparer.Ordinal),
        ];
    }

    // What a project file would hand to analyzers.
    private sealed class ProjectOptions(string architectures) : AnalyzerConfigOptionsProvider
    {
        public override AnalyzerConfigOptions GlobalOptions { get; } = new Properties(architectures);

        public override AnalyzerConfigOptions GetOptions(SyntaxTree tree) => GlobalOptions;

        public override AnalyzerConfigOptions GetOptions(AdditionalText textFile) => GlobalOptions;
    }

    private sealed class Properties(string architectures) : AnalyzerConfigOptions
    {
        public override bool TryGetValue(string key, [NotNullWhen(true)] out string? value)
        {
            value = key == "build_property.FlashInferArchitectures" ? architectures : null;
            return value is not null;
        }
    }
}

/// <summary>Runs the generator over source text, against the real runtime and the reference assemblies of .NET.</summary>
internal static class GeneratorHarness
{
    /// <summary>The tracked steps of the generator, in order.</summary>
    public static readonly string[] Steps =
    [
        AttentionConfigGenerator.ParsedStep,
        AttentionConfigGenerator.ModelStep,
        AttentionConfigGenerator.NamesStep,
    ];

    /// <summary>How sources are parsed.</summary>
    public static CSharpParseOptions ParseOptions => s_parse;

    /// <summary>The runtime and .NET.</summary>
    public static IReadOnlyList<MetadataReference> References => s_references;

    private static readonly CSharpParseOptions s_parse = new(LanguageVersion.CSharp14, DocumentationMode.Diagnose);

    private static readonly CSharpCompilationOptions s_options = new(
        OutputKind.DynamicallyLinkedLibrary,
        nullableContextOptions: NullableContextOptions.Enable
    );

    private static readonly MetadataReference[] s_references =
    [
        .. Net100.References.All,
        MetadataReference.CreateFromFile(typeof(runtime::FlashInfer.AttentionConfigAttribute).Assembly.Location),
        MetadataReference.CreateFromFile(typeof(System.Numerics.Tensors.TensorPrimitives).Assembly.Location),
        MetadataReference.CreateFromFile(typeof(Microsoft.Extensions.Logging.ILoggerFactory).Assembly.Location),
    ];

    public static SyntaxTree Parse(string source, string path = "Test.cs") =>
        CSharpSyntaxTree.ParseText(SourceText.From(source, Encoding.UTF8), s_parse, path);

    public static CSharpCompilation Compile(params SyntaxTree[] trees) => CSharpCompilation.Create("Test", trees, s_references, s_options);

    public static CSharpGeneratorDriver CreateDriver() =>
        CSharpGeneratorDriver.Create(
            [new AttentionConfigGenerator().AsSourceGenerator()],
            parseOptions: s_parse,
            driverOptions: new GeneratorDriverOptions(IncrementalGeneratorOutputKind.None, trackIncrementalGeneratorSteps: true)
        );

    /// <summary>Runs the generator twice, the second time on a clone of the compilation, where every tracked step must be cached.</summary>
    public static GeneratorRun Run(string source) => Run(Compile(Parse(source)));

    /// <summary>As <see cref="Run(string)"/> for a program: statements may stand at the top of its first file.</summary>
    public static GeneratorRun RunProgram(string source, params IEnumerable<string> others) => RunProgram(source, others, []);

    /// <summary>As the other one, with references to further assemblies.</summary>
    public static GeneratorRun RunProgram(string source, IEnumerable<string> others, IEnumerable<MetadataReference> references)
    {
        SyntaxTree[] trees = [Parse(source, "Program.cs"), .. others.Select(static (text, i) => Parse(text, $"File{i}.cs"))];
        bool isProgram = trees[0].GetCompilationUnitRoot().Members.Any(static member => member is GlobalStatementSyntax);
        OutputKind kind = isProgram ? OutputKind.ConsoleApplication : OutputKind.DynamicallyLinkedLibrary;
        return Run(Compile(trees).AddReferences(references).WithOptions(s_options.WithOutputKind(kind)));
    }

    private static GeneratorRun Run(CSharpCompilation compilation)
    {
        GeneratorDriver driver = CreateDriver().RunGeneratorsAndUpdateCompilation(compilation, out Compilation output, out var reported);
        Assert.Empty(reported);
        GeneratorRunResult result = Assert.Single(driver.GetRunResult().Results);
        Assert.Null(result.Exception);

        AssertCached(driver.RunGenerators(compilation.Clone()).GetRunResult(), ExpectedSteps(result));
        return new GeneratorRun(
            output,
            [.. result.GeneratedSources.Select(static s => new GeneratedFile(s.HintName, s.SourceText.ToString()))]
        );
    }

    /// <summary>Fails unless each of the steps ran and took everything from the cache, and no output was written again.</summary>
    public static void AssertCached(GeneratorDriverRunResult run, IEnumerable<string> steps)
    {
        GeneratorRunResult result = Assert.Single(run.Results);
        foreach (string step in steps)
        {
            Assert.True(result.TrackedSteps.ContainsKey(step), $"step {step} did not run");
            AssertReused(result.TrackedSteps[step], step);
        }

        foreach ((string step, ImmutableArray<IncrementalGeneratorRunStep> runs) in result.TrackedOutputSteps)
        {
            AssertReused(runs, step);
        }
    }

    private static void AssertReused(ImmutableArray<IncrementalGeneratorRunStep> runs, string step) =>
        Assert.All(
            runs.SelectMany(static run => run.Outputs),
            output =>
                Assert.True(
                    output.Reason is IncrementalStepRunReason.Cached or IncrementalStepRunReason.Unchanged,
                    $"step {step} was {output.Reason}"
                )
        );

    // A source without any attributed class reaches no step; one whose class cannot be extended only the first.
    private static IEnumerable<string> ExpectedSteps(GeneratorRunResult first) => Steps.Where(first.TrackedSteps.ContainsKey);
}
