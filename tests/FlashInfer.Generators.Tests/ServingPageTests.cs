using System.Reflection;
using System.Runtime.Loader;
using System.Text.RegularExpressions;
using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>The loop of docs/serving.md serves: more requests than fit, prompts longer than a step, and a cache so small that it preempts.</summary>
public sealed partial class ServingPageTests
{
    // The model's queries are 0, so attention is the mean of values; a value tells the request and the position.
    private const string Program = """
        using System;
        using System.Collections.Generic;
        using System.Linq;
        using FlashInfer;

        public static class Program
        {
            public static (int Steps, int Unfinished, int Pages, int Recomputed) Main(int seed)
            {
                using Device device = Device.OpenCpu();
                using LlamaAttention.PagedKvCache cache = new(device, layers: 2, pages: 40);
                MeanModel model = new();
                using Server server = new(cache, model, maxSequences: 8, maxRows: 96);
                Random random = new(seed);
                Request[] requests =
                [
                    .. Enumerable.Range(0, 12).Select(id => new Request([.. Enumerable.Repeat(id, random.Next(60, 180))], random.Next(1, 60))),
                ];
                Array.ForEach(requests, server.Submit);
                int steps = 0;
                while (server.Step())
                {
                    steps++;
                }

                // Of each request all tokens but the last are computed, once if nobody preempts it.
                int once = requests.Sum(static request => request.Tokens.Count - 1);
                return (steps, requests.Count(static request => !request.IsFinished), cache.FreePages, model.Rows - once);
            }
        }

        public sealed class MeanModel : IModel
        {
            private int[] _requests = [];
            private int[] _positions = [];

            public int Rows { get; private set; }

            public void Begin(ReadOnlySpan<int> tokens, ReadOnlySpan<int> positions)
            {
                _requests = tokens.ToArray();
                _positions = positions.ToArray();
                Rows += _requests.Length;
            }

            public void Project(int layer, LlamaAttention.Query query, LlamaAttention.Key key, LlamaAttention.Value value)
            {
                query.View.ToTensorView().CopyFrom(new float[query.Shape.Elements]);
                key.View.ToTensorView().CopyFrom(new float[key.Shape.Elements]);
                const int Row = LlamaAttention.KvHeads * LlamaAttention.HeadDim;
                float[] values = new float[value.Shape.Elements];
                for (int row = 0; row < _requests.Length; row++)
                {
                    Array.Fill(values, (_requests[row] * 20) + (_positions[row] / 4f) + layer, row * Row, Row);
                }

                value.View.ToTensorView().CopyFrom(values);
            }

            public void Absorb(int layer, LlamaAttention.Output output)
            {
                float[] means = new float[output.Shape.Elements];
                output.View.ToTensorView().CopyTo(means);
                for (int row = 0; row < _requests.Length; row++)
                {
                    float expected = (_requests[row] * 20) + (_positions[row] / 8f) + layer;
                    float mean = means[(row * LlamaAttention.Heads * LlamaAttention.HeadDim) + row];
                    if (MathF.Abs(mean - expected) > 0.01f * MathF.Max(1, expected))
                    {
                        throw new InvalidOperationException($"request {_requests[row]}, position {_positions[row]}: {mean}, expected {expected}");
                    }
                }
            }

            public int Sample(int row) => _requests[row];
        }

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
        public partial class LlamaAttention;
        """;

    [Fact]
    public void The_loop_serves_every_request()
    {
        string page = File.ReadAllText(Path.Combine(TestPaths.RepositoryRoot, "docs", "serving.md"));
        string server = Blocks()
            .Matches(page)
            .Select(static match => match.Groups[1].Value)
            .Single(static block => block.Contains("class Server"));
        GeneratorRun run = GeneratorHarness.RunProgram(
            Program,
            [$"global using System;\nglobal using System.Collections.Generic;\nglobal using System.Linq;\n{server}"]
        );
        using MemoryStream image = new();
        Assert.Empty(
            run.Compilation.Emit(image).Diagnostics.Where(static d => d.Severity == Microsoft.CodeAnalysis.DiagnosticSeverity.Error)
        );
        image.Position = 0;
        MethodInfo main = AssemblyLoadContext.Default.LoadFromStream(image).GetType("Program")!.GetMethod("Main")!;

        int seed = Random.Shared.Next();
        var (steps, unfinished, pages, recomputed) = ((int, int, int, int))main.Invoke(null, [seed])!;

        Assert.True((unfinished, pages) == (0, 40), $"seed {seed}: {unfinished} requests left, {pages} pages free");
        Assert.True(recomputed > 0, $"seed {seed}: nobody was preempted in {steps} steps");
    }

    [GeneratedRegex("```csharp\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex Blocks();
}
