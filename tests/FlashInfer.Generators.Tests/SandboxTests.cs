extern alias runtime;

using System.Reflection;
using FlashInfer.GenerationSandbox;
using FlashInfer.Tests.Variants;
using AttentionConfigsAttribute = runtime::FlashInfer.AttentionConfigsAttribute;
using AttentionSpec = runtime::FlashInfer.AttentionSpec;
using RuntimeDType = runtime::FlashInfer.DType;
using RuntimeKvLayout = runtime::FlashInfer.KvLayout;

namespace FlashInfer.Generators.Tests;

/// <summary>
/// What the real compiler made of the sandbox's configurations: their constants, and that the runtime makes the same units from the
/// same values without any generator.
/// </summary>
public sealed class SandboxTests
{
    public static TheoryData<string, AttentionSpec, AttentionSpec> Specs =>
        new()
        {
            { "root", RootAttention.Spec, new AttentionSpec(32, 8, 128, 16, RuntimeDType.BFloat16) },
            { "half", HalfAttention.Spec, new AttentionSpec(12, 12, 64, 1, RuntimeDType.Float16, kvLayout: RuntimeKvLayout.Hnd) },
            { "internal", InternalAttention.Spec, new AttentionSpec(8, 1, 256, 64, RuntimeDType.BFloat16, RuntimeDType.BFloat16) },
            { "quantised", QuantisedAttention.Spec, new AttentionSpec(16, 8, 96, 16, RuntimeDType.BFloat16, RuntimeDType.Float8E4M3) },
            { "latent", LatentAttention.Spec, new AttentionSpec(4, 4, 192, 16, RuntimeDType.BFloat16, valueDim: 128) },
            { "decode only", GlobalAttention.Spec, new AttentionSpec(16, 1, 512, 16, RuntimeDType.BFloat16) },
            { "nested", Models.OddAttention.Spec, new AttentionSpec(21, 3, 128, 1024, RuntimeDType.Float16) },
            {
                "variant",
                ItemsAttention.Spec,
                new AttentionSpec(32, 8, 128, 16, RuntimeDType.BFloat16, variant: ItemsAttention.Spec.Variant)
            },
        };

    [Theory]
    [MemberData(nameof(Specs))]
    public void Generated_units_are_those_that_the_runtime_makes(string name, AttentionSpec generated, AttentionSpec made)
    {
        Assert.NotEmpty(name);
        Assert.Equal(made.ToString(), generated.ToString());
        Assert.Equal(made.Units.Count, generated.Units.Count);
        for (int i = 0; i < made.Units.Count; i++)
        {
            Assert.Equal(made.Units[i].Name, generated.Units[i].Name);
            Assert.Equal(made.Units[i].Source.ToArray(), generated.Units[i].Source.ToArray());
            Assert.Equal((byte)'\n', generated.Units[i].Source.Span[^1]);
        }
    }

    [Fact]
    public void The_assembly_lists_its_configurations_by_names_that_lead_to_them()
    {
        Assembly assembly = typeof(RootAttention).Assembly;
        AttentionConfigsAttribute listed = assembly.GetCustomAttribute<AttentionConfigsAttribute>()!;

        Assert.Equal(
            [
                "FlashInfer.GenerationSandbox.GlobalAttention",
                "FlashInfer.GenerationSandbox.HalfAttention",
                "FlashInfer.GenerationSandbox.InternalAttention",
                "FlashInfer.GenerationSandbox.LatentAttention",
                "FlashInfer.GenerationSandbox.Models+OddAttention",
                "FlashInfer.GenerationSandbox.Models+OddAttention+Draft",
                "FlashInfer.GenerationSandbox.QuantisedAttention",
                "FlashInfer.Tests.Variants.AlibiAttention",
                "FlashInfer.Tests.Variants.ChunkedAttention",
                "FlashInfer.Tests.Variants.DilatedAttention",
                "FlashInfer.Tests.Variants.DocumentAttention",
                "FlashInfer.Tests.Variants.DocumentMaskAttention",
                "FlashInfer.Tests.Variants.GatedAttention",
                "FlashInfer.Tests.Variants.ItemsAttention",
                "FlashInfer.Tests.Variants.LocalGlobalAttention",
                "FlashInfer.Tests.Variants.PrefixLmAttention",
                "FlashInfer.Tests.Variants.QueryScaleAttention",
                "FlashInfer.Tests.Variants.QuietAttention",
                "FlashInfer.Tests.Variants.RelativeBiasAttention",
                "FlashInfer.Tests.Variants.SinkAttention",
                "FlashInfer.Tests.Variants.SlidingWindowAttention",
                "FlashInfer.Tests.Variants.SlopedAttention",
                "FlashInfer.Tests.Variants.SoftCapAttention",
                "FlashInfer.Tests.Variants.TemperatureAttention",
                "FlashInfer.Tests.Variants.TreeMaskAttention",
                "RootAttention",
            ],
            listed.Types
        );
        Assert.All(
            listed.Types,
            name => Assert.True(assembly.GetType(name, throwOnError: true)!.IsAssignableTo(typeof(runtime::FlashInfer.IAttentionConfig)))
        );
    }

    [Fact]
    public void Constants_are_the_attributes_values()
    {
        Assert.Equal(
            (32, 8, 4, 128, 16),
            (RootAttention.Heads, RootAttention.KvHeads, RootAttention.GroupSize, RootAttention.HeadDim, RootAttention.PageSize)
        );
        Assert.Equal(
            (RuntimeDType.BFloat16, RuntimeDType.BFloat16, RuntimeKvLayout.Nhd),
            (RootAttention.Dtype, RootAttention.KvDtype, RootAttention.KvLayout)
        );
        Assert.Equal((1, RuntimeKvLayout.Hnd), (HalfAttention.GroupSize, HalfAttention.KvLayout));
        Assert.Equal(8, InternalAttention.GroupSize);
        Assert.Equal((RuntimeDType.BFloat16, RuntimeDType.Float8E4M3), (QuantisedAttention.Dtype, QuantisedAttention.KvDtype));
        Assert.Equal((192, 128), (LatentAttention.HeadDim, LatentAttention.ValueDim));
        Assert.Equal((128, 128), (RootAttention.HeadDim, RootAttention.ValueDim));
        Assert.Equal((7, 21 * 128), (Models.OddAttention.GroupSize, Models.OddAttention.QueryElements));
        Assert.Equal(64, Models.OddAttention.DraftElements);
    }

    [Fact]
    public void The_contract_gives_the_same_spec()
    {
        Assert.Same(RootAttention.Spec, SpecOf<RootAttention>());
        Assert.Same(RootAttention.Spec, RootAttention.Spec);
    }

    private static AttentionSpec SpecOf<T>()
        where T : runtime::FlashInfer.IAttentionConfig => T.Spec;
}
