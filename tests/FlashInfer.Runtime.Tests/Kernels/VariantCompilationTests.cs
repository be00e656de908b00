using System.Text;
using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Compilation;
using FlashInfer.Tests.PublicApi;

namespace FlashInfer.Tests.Kernels;

/// <summary>
/// The catalogue of variants, as the generator's snapshots have it, through the real compiler: the hooks alone, in a kernel that calls
/// all of them.
/// </summary>
public class VariantCompilationTests
{
    private const string Kernel = """
        extern "C" __global__ void variant(const flashinfer::LogitsContext* at, const Variant::Arguments* a, float* out) {
          if (Variant::kTransformsLogits) out[0] = Variant::transform(out[4], *at, *a);
          if (Variant::kMasksLogits) out[1] = Variant::keep(*at, *a) ? 1.f : 0.f;
          if (Variant::kBoundsKeys) out[2] = Variant::first_key(*at, *a);
          if (Variant::kHasSink) out[3] = Variant::sink(at->head, *a);
          out[5] = Variant::kHasLoops;
          if (Variant::kAddsLine) out[6] = Variant::line(*at, *a).slope;
          const flashinfer::ElementContext element = {at->head, at->kv_head, at->sequence, at->qo_index, at->qo_position, at->qo_len,
                                                      at->kv_len, at->kv_position};
          if (Variant::kTransformsQuery) out[17] = Variant::transform_query(out[17], element, *a);
          if (Variant::kTransformsOutput) out[18] = Variant::transform_output(out[18], out[16], element, *a);
          if (Variant::kTransformsScores) {
            const flashinfer::LogitsContext rows[2] = {at[0], at[1]};
            float scores[8];
            for (int i = 0; i < 8; i++) scores[i] = out[8 + i];
            Variant::transform_scores(scores, Variant::score_scale(out[7], *a), rows, *a);
            for (int i = 0; i < 8; i++) out[8 + i] = scores[i];
          }
        }

        """;

    public static TheoryData<string> Names =>
        [
            .. Directory
                .GetFiles(ApprovedFile.RepositoryPath("tests", "Shared", "Variants"), "*.cs")
                .Select(static file => Path.GetFileNameWithoutExtension(file))
                .Order(StringComparer.Ordinal),
        ];

    [SkippableTheory]
    [MemberData(nameof(Names))]
    public void It_compiles_without_a_warning_a_call_or_local_memory(string name)
    {
        KernelCompiler compiler = TestNvrtc.Compiler();
        string text = File.ReadAllText(
            ApprovedFile.RepositoryPath(
                "tests",
                "FlashInfer.Generators.Tests",
                "Snapshots",
                $"VariantCatalogueTests.Cuda#{name}.verified.cu"
            )
        );
        string unit = $"#include \"attention/variant.cuh\"\n#include \"core/csharp.cuh\"\n\nnamespace {{\n\n{text}\n}}\n\n{Kernel}";
        foreach (string architecture in new[] { "sm_80", "sm_90a" })
        {
            CompiledKernel kernel = compiler.Compile(new TranslationUnit("variant", Encoding.UTF8.GetBytes(unit)), architecture);

            Assert.DoesNotContain("warning", kernel.Log, StringComparison.OrdinalIgnoreCase);
            KernelResources entry = Assert.Single(kernel.Resources);
            Assert.Equal((0, 0), (entry.StackBytes, entry.SpillStoreBytes));
            // A function that the GPU's division calls, say: between asynchronous tensor products it would cost more than it does itself.
            Assert.True(kernel.Cubin.Span.IndexOf("__internal_"u8) < 0, $"{name} for {architecture} calls a function");
        }
    }
}
