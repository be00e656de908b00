namespace FlashInfer.Tests.BadInput;

/// <summary>Configurations that no kernel is built for.</summary>
public class SpecInputTests
{
    [Theory]
    [InlineData(0, 1, 64, 16, "heads", "heads is 0; expected 1 to 1024. Give the number of query heads of the model. [FI0003]")]
    [InlineData(-8, 1, 64, 16, "heads", "heads is -8; expected 1 to 1024.")]
    [InlineData(1025, 1025, 64, 16, "heads", "heads is 1025; expected 1 to 1024.")]
    [InlineData(8, 0, 64, 16, "kvHeads", "kvHeads is 0; expected 1 to 1024.")]
    [InlineData(8, 1025, 64, 16, "kvHeads", "[FI0004]")]
    [InlineData(32, 5, 64, 16, "kvHeads", "heads is 32 and kvHeads is 5; heads must be a multiple of kvHeads")]
    [InlineData(32, 5, 64, 16, "kvHeads", "The nearest kvHeads below is 4. [FI0005]")]
    [InlineData(8, 16, 64, 16, "kvHeads", "The nearest kvHeads below is 8. [FI0005]")]
    [InlineData(8, 1, 80, 16, "headDim", "headDim is 80; supported: 64, 96, 128, 192, 256, 512. Pad the head dimension with zeros")]
    [InlineData(8, 1, 0, 16, "headDim", "[FI0006]")]
    [InlineData(8, 1, 64, 0, "pageSize", "pageSize is 0; expected 1 to 1024 tokens per page. 16 suits most models. [FI0007]")]
    [InlineData(8, 1, 64, 1025, "pageSize", "pageSize is 1025; expected 1 to 1024")]
    public void A_broken_rule_is_named(int heads, int kvHeads, int headDim, int pageSize, string parameter, string message)
    {
        Refused.Argument(parameter, message, () => _ = new AttentionSpec(heads, kvHeads, headDim, pageSize, DType.BFloat16));
        Refused.Argument(parameter, message, () => Generated(CudaUnits.AbiVersion, heads, kvHeads, headDim, pageSize));
    }

    [Theory]
    [InlineData(DType.Float32, null, "dtype is Float32; supported: Float16, BFloat16. Query and output have 16 bits. [FI0008]")]
    [InlineData(DType.Float8E4M3, null, "dtype is Float8E4M3; supported:")]
    [InlineData(DType.Float8E5M2, DType.Float16, "dtype is Float8E5M2; supported:")]
    [InlineData((DType)99, null, "dtype is 99; supported:")]
    public void Element_types_of_a_query_without_kernels_are_refused(DType dtype, DType? kvDtype, string message) =>
        Refused.Argument("dtype", message, () => _ = new AttentionSpec(8, 1, 64, 16, dtype, kvDtype));

    [Theory]
    [InlineData(
        DType.Float16,
        DType.BFloat16,
        "KvDtype is BFloat16 and dtype is Float16; supported: the same as dtype, Float8E4M3, Float8E5M2. Leave KvDtype out unless the cache is to be quantised. [FI0010]"
    )]
    [InlineData(DType.BFloat16, DType.Float32, "KvDtype is Float32 and dtype is BFloat16; supported:")]
    [InlineData(DType.BFloat16, (DType)99, "KvDtype is 99 and dtype is BFloat16; supported:")]
    public void Element_types_of_a_cache_without_kernels_are_refused(DType dtype, DType kvDtype, string message) =>
        Refused.Argument("kvDtype", message, () => _ = new AttentionSpec(8, 1, 64, 16, dtype, kvDtype));

    [Theory]
    [InlineData(192, 64, null, "valueDim", "ValueDim is 64 and headDim is 192; supported: the same as headDim, or 128 with headDim 192.")]
    [InlineData(128, 0, null, "valueDim", "[FI0015]")]
    [InlineData(
        192,
        128,
        DType.Float8E4M3,
        "kvDtype",
        "KvDtype is Float8E4M3, but a configuration with headDim 192 and ValueDim 128 has no cache"
    )]
    public void Values_of_a_size_without_kernels_are_refused(int headDim, int valueDim, DType? kvDtype, string parameter, string message) =>
        Refused.Argument(parameter, message, () => _ = new AttentionSpec(8, 1, headDim, 16, DType.Float16, kvDtype, valueDim: valueDim));

    [Fact]
    public void Values_of_another_size_have_ragged_prefill_and_no_cache()
    {
        AttentionSpec spec = new(8, 2, 192, 16, DType.BFloat16, valueDim: 128);
        Assert.Equal((192, 128, false), (spec.HeadDim, spec.ValueDim, spec.HasCache));
        Assert.Equal("8 heads, 2 kvHeads, headDim 192, valueDim 128, BFloat16, no cache", spec.ToString());
        Assert.Equal(["fi_prefill_ragged_bf16_h8_kv2_d192_dv128"], spec.Units.Select(unit => unit.Name));
        Assert.Equal(spec.Units, spec.UnitsFor(KernelKinds.All));
        Assert.Empty(spec.UnitsFor(KernelKinds.SpeculativeDecode | KernelKinds.PrefillPaged));
        foreach (Func<object> unit in (Func<object>[])[() => spec.DecodeUnit, () => spec.AppendUnit, () => spec.PrefillPagedUnit])
        {
            Assert.Contains(
                "Use BatchPrefillWithRaggedKvCache.",
                Assert.Throws<InvalidOperationException>(unit).Message,
                StringComparison.Ordinal
            );
        }

        using Device device = Device.OpenCpu();
        Refused.Argument("spec", "headDim is 192 and valueDim 128: a paged cache holds", () => _ = new PagedKvCache(device, spec, 1, 1));

        AttentionSpec same = new(8, 2, 192, 16, DType.BFloat16, valueDim: 192);
        Assert.Equal(
            new AttentionSpec(8, 2, 192, 16, DType.BFloat16).Units.Select(unit => unit.Name),
            same.Units.Select(unit => unit.Name)
        );
        Assert.True(same.HasCache);
    }

    [Fact]
    public void The_largest_heads_have_decode_and_no_prefill()
    {
        AttentionSpec spec = new(8, 2, 512, 16, DType.BFloat16);
        Assert.Equal((512, 512, true, false), (spec.HeadDim, spec.ValueDim, spec.HasCache, spec.HasPrefill));
        Assert.Equal(["fi_decode_bf16_h8_kv2_d512_p16", "fi_append_bf16_h8_kv2_d512_p16"], spec.Units.Select(static unit => unit.Name));
        Assert.Equal(
            spec.UnitsFor(KernelKinds.ShortDecode | KernelKinds.SpeculativeDecode).Select(static unit => unit.Name),
            spec.UnitsFor(KernelKinds.All).Select(static unit => unit.Name)
        );
        Assert.Empty(spec.UnitsFor(KernelKinds.PrefillRagged));
        foreach (Func<object> unit in (Func<object>[])[() => spec.PrefillPagedUnit, () => spec.PrefillRaggedUnit])
        {
            Assert.Contains(
                "Use BatchDecodeWithPagedKvCache",
                Assert.Throws<InvalidOperationException>(unit).Message,
                StringComparison.Ordinal
            );
        }

        const string Message =
            "headDim is 512: prefill, and what is made of it (cascades, SinglePrefill, SingleDecode), has kernels up to 256.";
        using Device device = Device.OpenCpu();
        using PagedKvCache cache = new(device, spec, layers: 1, pages: 1);
        Refused.Argument("cache", Message, () => _ = new BatchPrefillWithPagedKvCache(cache));
        Refused.Argument("cache", Message, () => _ = new MultiLevelCascadeAttention(cache));
        Refused.Argument("spec", Message, () => _ = new BatchPrefillWithRaggedKvCache(device, spec));
        Refused.Argument("spec", Message, () => _ = new SinglePrefill(device, spec));
        Refused.Argument("spec", Message, () => _ = new SingleDecode(device, spec));
    }

    [Fact]
    public void A_layout_that_is_none_is_refused() =>
        Refused.Argument(
            "kvLayout",
            "KvLayout is 7; expected KvLayout.Nhd or KvLayout.Hnd. [FI0009]",
            () => _ = new AttentionSpec(8, 1, 64, 16, DType.Float16, kvLayout: (KvLayout)7)
        );

    [Theory]
    [InlineData(1024, 1024, 64, 1)]
    [InlineData(1024, 1, 512, 1024)]
    [InlineData(1, 1, 128, 16)]
    public void The_limits_themselves_are_legal(int heads, int kvHeads, int headDim, int pageSize)
    {
        AttentionSpec spec = new(heads, kvHeads, headDim, pageSize, DType.Float16);

        Assert.Equal(
            (heads, kvHeads, headDim, pageSize, heads / kvHeads),
            (spec.Heads, spec.KvHeads, spec.HeadDim, spec.PageSize, spec.GroupSize)
        );
    }

    [Theory]
    [InlineData(DType.Float16, null, DType.Float16)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.BFloat16)]
    [InlineData(DType.Float16, DType.Float8E4M3, DType.Float8E4M3)]
    [InlineData(DType.Float16, DType.Float8E5M2, DType.Float8E5M2)]
    [InlineData(DType.BFloat16, DType.Float8E4M3, DType.Float8E4M3)]
    [InlineData(DType.BFloat16, DType.Float8E5M2, DType.Float8E5M2)]
    public void Every_head_dimension_goes_with_every_cache_type(DType dtype, DType? kvDtype, DType expected)
    {
        foreach (int headDim in (int[])[64, 96, 128, 192, 256, 512])
        {
            AttentionSpec spec = new(8, 1, headDim, 16, dtype, kvDtype);
            Assert.Equal((dtype, expected, headDim), (spec.Dtype, spec.KvDtype, spec.HeadDim));
        }
    }

    [Theory]
    [InlineData(CudaUnits.AbiVersion - 1)]
    [InlineData(CudaUnits.AbiVersion + 1)]
    public void Code_of_another_generator_is_refused(int version)
    {
        FlashInferException e = Assert.Throws<FlashInferException>(() => Generated(version, 8, 1, 64, 16));

        Assert.Equal(
            $"This program was compiled with a generator of contract version {version}, but FlashInfer.Runtime has version {CudaUnits.AbiVersion}; rebuild it against the FlashInfer package that it runs with.",
            e.Message
        );
    }

    [Fact]
    public void A_unit_has_a_name() => Assert.Throws<ArgumentException>(() => new TranslationUnit(" ", "text"u8));

    private static AttentionSpec Generated(int version, int heads, int kvHeads, int headDim, int pageSize) =>
        AttentionSpec.FromGenerated(
            version,
            heads,
            kvHeads,
            headDim,
            pageSize,
            DType.BFloat16,
            DType.BFloat16,
            KvLayout.Nhd,
            "// decode"u8,
            "// append"u8,
            "// paged prefill"u8,
            "// ragged prefill"u8
        );
}
