extern alias runtime;

using FlashInfer.GenerationSandbox;
using FlashInfer.Generators.Tests.Harness;
using BFloat16 = runtime::FlashInfer.BFloat16;
using Device = runtime::FlashInfer.Device;

namespace FlashInfer.Generators.Tests.Variants;

/// <summary>What is generated for a variant: it computes what its methods say, and its arguments cannot be forgotten.</summary>
public sealed class VariantPlanTests
{
    private const int Heads = 32;
    private const int KvHeads = 8;
    private const int HeadDim = 128;

    [Fact]
    public void The_cpu_device_calls_the_classes_methods()
    {
        using Device device = Device.OpenCpu();
        Random random = new(1);
        int[] documents = [0, 0, 1, 1, 1, 0, 2, 2, 0, 1];
        int tokens = documents.Length;
        BFloat16[] key = Draw(tokens * KvHeads * HeadDim);
        BFloat16[] value = Draw(tokens * KvHeads * HeadDim);
        BFloat16[] query = Draw(tokens * Heads * HeadDim);

        (BFloat16[] paged, BFloat16[] ragged, BFloat16[] single, BFloat16[] decoded, BFloat16[] singleDecoded) = VariantStep.Run(
            device,
            documents,
            key,
            value,
            query
        );

        Assert.Equal(ragged, single);
        for (int token = 0; token < tokens; token++)
        {
            for (int head = 0; head < Heads; head++)
            {
                int kvHead = head / (Heads / KvHeads);
                int at = ((token * Heads) + head) * HeadDim;
                int[] seen = [.. Enumerable.Range(0, token + 1).Where(other => documents[other] == documents[token])];
                double[] weights =
                [
                    .. seen.Select(other =>
                        Math.Exp(
                            Enumerable.Range(0, HeadDim).Sum(d => (double)(float)query[at + d] * (float)key[Kv(other) + d])
                                / Math.Sqrt(HeadDim)
                        )
                    ),
                ];
                for (int d = 0; d < HeadDim; d += 17)
                {
                    double expected = seen.Select((other, i) => weights[i] * (float)value[Kv(other) + d]).Sum() / weights.Sum();
                    Assert.Equal(expected, (float)paged[at + d], 0.02);
                    Assert.Equal(expected, (float)ragged[at + d], 0.02);
                    if (token == tokens - 1)
                    {
                        Assert.Equal(expected, (float)decoded[(head * HeadDim) + d], 0.02);
                        Assert.Equal(expected, (float)singleDecoded[(head * HeadDim) + d], 0.02);
                    }
                }

                int Kv(int other) => ((other * KvHeads) + kvHead) * HeadDim;
            }
        }

        BFloat16[] Draw(int count) => [.. Enumerable.Range(0, count).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))];
    }

    [Fact]
    public void A_plan_without_the_arguments_does_not_compile()
    {
        string source =
            VariantHarness.Usings
            + """

                namespace Models;

                [AttentionConfig(heads: 8, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.Float16)]
                public partial class SlopedAttention
                {
                    [VariantArguments]
                    public readonly ref struct Arguments
                    {
                        public required ReadOnlySpan<float> Slopes { get; init; }
                    }

                    [LogitsTransform]
                    private static float Transform(float logit, in LogitsContext at, in Arguments a) => logit + a.Slopes[at.Head];
                }

                public static class Steps
                {
                    public static void Plan(
                        SlopedAttention.BatchDecodeWithPagedKvCache decode,
                        SlopedAttention.BatchPrefillWithPagedKvCache paged,
                        SlopedAttention.BatchPrefillWithRaggedKvCache ragged,
                        Sequence sequence,
                        ReadOnlySpan<float> slopes
                    )
                    {
                        decode.Plan([sequence], new SlopedAttention.Arguments { Slopes = slopes });
                        decode.Plan([sequence], new() { Slopes = slopes });
                        paged.Plan([sequence], [3], new() { Slopes = slopes }, causal: false);
                        ragged.Plan([0, 3], [0, 3], new() { Slopes = slopes }, smScale: 0.1f);
                        decode.Plan([sequence]);
                        decode.Plan([sequence], [1]);
                        paged.Plan([sequence], causal: true);
                        paged.Plan([sequence], [3]);
                        ragged.Plan([0, 3], [0, 3]);
                    }
                }
                """;
        var errors = GeneratorHarness
            .Run(source)
            .Compilation.GetDiagnostics()
            .Where(static diagnostic => diagnostic.Severity == Microsoft.CodeAnalysis.DiagnosticSeverity.Error)
            .ToArray();

        Assert.Equal(5, errors.Length);
        Assert.All(
            errors,
            error =>
            {
                Assert.Equal("CS0619", error.Id);
                Assert.Contains(
                    "Give the plan the arguments of SlopedAttention's variant of attention: Slopes.",
                    error.GetMessage(System.Globalization.CultureInfo.InvariantCulture),
                    StringComparison.Ordinal
                );
            }
        );
    }
}
