extern alias runtime;

using System.Text;
using Basic.Reference.Assemblies;
using FlashInfer.Generators;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.Text;

namespace FlashInfer.EditorBenchmarks;

/// <summary>
/// A project of many configurations, each in a file of its own with code that uses it, beside as many files without one: open in an
/// editor, which compiles it anew after every edit.
/// </summary>
internal sealed class EditorProject
{
    private static readonly CSharpParseOptions s_parse = new(LanguageVersion.CSharp14);

    private readonly SyntaxTree _config;
    private readonly SyntaxTree _other;
    private CSharpCompilation _compilation;
    private GeneratorDriver _driver;

    public EditorProject(int configs)
    {
        SyntaxTree[] trees =
        [
            .. Enumerable.Range(0, configs).Select(static i => Parse(Config(i, pageSize: 16), $"Config{i}.cs")),
            .. Enumerable.Range(0, configs).Select(static i => Parse(Other(i, 0), $"Other{i}.cs")),
        ];
        _config = trees[0];
        _other = trees[configs];
        _compilation = CSharpCompilation.Create(
            "Project",
            trees,
            [
                .. Net100.References.All,
                MetadataReference.CreateFromFile(typeof(runtime::FlashInfer.AttentionConfigAttribute).Assembly.Location),
            ],
            new CSharpCompilationOptions(OutputKind.DynamicallyLinkedLibrary, nullableContextOptions: NullableContextOptions.Enable)
        );
        _driver = CSharpGeneratorDriver.Create(
            [new AttentionConfigGenerator().AsSourceGenerator()],
            parseOptions: s_parse,
            driverOptions: new GeneratorDriverOptions(IncrementalGeneratorOutputKind.None, trackIncrementalGeneratorSteps: true)
        );
    }

    /// <summary>With the generated files, after the last <see cref="Generate"/>.</summary>
    public Compilation Output { get; private set; } = null!;

    /// <summary>The file of the first configuration, as it is now.</summary>
    public SyntaxTree ConfigTree => _compilation.SyntaxTrees.Single(tree => tree.FilePath == _config.FilePath);

    /// <summary>Changes the value of the first configuration.</summary>
    public void EditConfig(int edit) => Replace(_config.FilePath, Config(0, pageSize: 17 + (edit % 1000)));

    /// <summary>Changes a file without a configuration.</summary>
    public void EditOther(int edit) => Replace(_other.FilePath, Other(0, edit + 1));

    /// <summary>Runs the generator on the project as it is now.</summary>
    /// <returns>The time that the generator took by the clock, and how many models and files it made or changed.</returns>
    public (TimeSpan Time, int Changed) Generate()
    {
        _driver = _driver.RunGeneratorsAndUpdateCompilation(_compilation, out Compilation output, out _);
        Output = output;
        GeneratorRunResult result = _driver.GetRunResult().Results.Single();
        int changed = result
            .TrackedSteps.Where(static step => step.Key is AttentionConfigGenerator.ParsedStep or AttentionConfigGenerator.ModelStep)
            .SelectMany(static step => step.Value)
            .Concat(result.TrackedOutputSteps.SelectMany(static step => step.Value))
            .SelectMany(static run => run.Outputs)
            .Count(static output => output.Reason is IncrementalStepRunReason.New or IncrementalStepRunReason.Modified);
        return (_driver.GetTimingInfo().GeneratorTimes.Single().ElapsedTime, changed);
    }

    private void Replace(string path, string text)
    {
        SyntaxTree old = _compilation.SyntaxTrees.Single(tree => tree.FilePath == path);
        _compilation = _compilation.ReplaceSyntaxTree(old, Parse(text, path));
    }

    private static SyntaxTree Parse(string text, string path) =>
        CSharpSyntaxTree.ParseText(SourceText.From(text, Encoding.UTF8), s_parse, path);

    private static string Config(int index, int pageSize) =>
        $$"""
            using FlashInfer;

            namespace Models;

            [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: {{pageSize}}, dtype: DType.BFloat16)]
            public partial class Attention{{index}};

            public sealed class Step{{index}}(Device device, Attention{{index}}.PagedKvCache cache, Attention{{index}}.BatchDecodeWithPagedKvCache decode)
            {
                public void Run(Sequence[] batch, int[] ones, System.Func<int, bool> layerDone)
                {
                    using Attention{{index}}.Query query = Attention{{index}}.AllocateQuery(device, batch.Length);
                    using Attention{{index}}.Key key = Attention{{index}}.AllocateKey(device, batch.Length);
                    using Attention{{index}}.Value value = Attention{{index}}.AllocateValue(device, batch.Length);
                    using Attention{{index}}.Output output = Attention{{index}}.AllocateOutput(device, batch.Length);
                    if (!cache.TryBeginForward(batch, ones))
                    {
                        return;
                    }

                    decode.Plan(batch);
                    for (int layer = 0; layer < cache.Layers; layer++)
                    {
                        decode.Append(layer, key, value);
                        decode.Run(layer, query, output);
                        if (!layerDone(layer))
                        {
                            cache.AbandonForward(batch);
                            return;
                        }
                    }

                    cache.EndForward(batch);
                }
            }
            """;

    private static string Other(int index, int edit) =>
        $$"""
            namespace Models;

            public sealed class Other{{index}}
            {
                public int Value => {{edit}};

                public int Sum(int[] numbers)
                {
                    int sum = 0;
                    foreach (int number in numbers)
                    {
                        sum += number * Value;
                    }

                    return sum;
                }
            }
            """;
}
