using System;
using System.Linq;
using System.Text;
using FlashInfer.Generators.Emit;
using FlashInfer.Generators.Model;
using FlashInfer.Generators.Parsing;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Text;

namespace FlashInfer.Generators;

/// <summary>
/// Adds to each class with <c>[AttentionConfig]</c> its constants, typed tensors, cache and wrappers, and its CUDA units, and to the
/// assembly an attribute that lists these classes. Reports nothing: diagnostics are the analyzer's, so that the pipeline carries values only.
/// </summary>
[Generator(LanguageNames.CSharp)]
public sealed class AttentionConfigGenerator : IIncrementalGenerator
{
    /// <summary>The step from attributed class to model, null where nothing can be added.</summary>
    internal const string ParsedStep = "ParsedConfigs";

    /// <summary>The models, each of which becomes a few files.</summary>
    internal const string ModelStep = "ConfigModels";

    /// <summary>The names that go into the assembly attribute.</summary>
    internal const string NamesStep = "ConfigNames";

    /// <inheritdoc/>
    public void Initialize(IncrementalGeneratorInitializationContext context)
    {
        IncrementalValuesProvider<AttentionModel> models = context
            .SyntaxProvider.ForAttributeWithMetadataName(
                AttributeReader.MetadataName,
                AttentionConfigParser.IsCandidate,
                AttentionConfigParser.Parse
            )
            .WithTrackingName(ParsedStep)
            .Where(static model => model is not null)
            .Select(static (model, _) => model!)
            .WithTrackingName(ModelStep);

        context.RegisterSourceOutput(
            models,
            static (output, model) =>
            {
                foreach ((string hintName, string text) in ConfigEmitter.Emit(model, output.CancellationToken))
                {
                    output.AddSource(hintName, SourceText.From(text, Encoding.UTF8));
                }
            }
        );

        IncrementalValueProvider<EquatableArray<string>> names = models
            .Where(static model => model.HasUnits)
            .Select(static (model, _) => model.MetadataName)
            .Collect()
            .Select(static (names, _) => new EquatableArray<string>(names.Sort(StringComparer.Ordinal).ToArray()))
            .WithTrackingName(NamesStep);

        context.RegisterSourceOutput(
            names,
            static (output, names) =>
            {
                if (names.Count > 0)
                {
                    string text = AssemblyEmitter.Emit(names, output.CancellationToken);
                    output.AddSource(AssemblyEmitter.HintName, SourceText.From(text, Encoding.UTF8));
                }
            }
        );
    }
}
