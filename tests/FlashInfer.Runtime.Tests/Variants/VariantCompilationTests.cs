using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Variants;

public class VariantCompilationTests
{
    /// <summary>A variant that does everything, one that hides keys only, and as many options as go together, in every family of kernels.</summary>
    [SkippableTheory]
    [InlineData("Everything", "sm_80")]
    [InlineData("Everything", "sm_90a")]
    [InlineData("Tree", "sm_90a")]
    [InlineData("Options", "sm_80")]
    [InlineData("Options", "sm_90a")]
    public void Units_of_a_variant_compile(string name, string architecture)
    {
        KernelCompiler compiler = TestNvrtc.Compiler();
        AttentionVariant variant =
            name == "Options"
                ? AttentionVariant.Of(OptionCase.Sets.MaxBy(options => int.PopCount((int)options)))!
                : TestVariant.All.Single(variant => variant.ToString() == name);
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16, variant: variant);
        foreach (TranslationUnit unit in (TranslationUnit[])[spec.DecodeUnit, spec.PrefillPagedUnit, spec.PrefillRaggedUnit])
        {
            CompiledKernel kernel = compiler.Compile(unit, architecture);
            Assert.True(kernel.Cubin.Span.StartsWith("\u007fELF"u8));
            Assert.False(kernel.Log.Contains("warning", StringComparison.OrdinalIgnoreCase), kernel.Log);
        }
    }
}
