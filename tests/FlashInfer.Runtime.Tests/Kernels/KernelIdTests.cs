namespace FlashInfer.Tests.Kernels;

/// <summary>Which units a kind of kernel stands for: warm-up, bundles and the tool ask here.</summary>
public sealed class KernelIdTests
{
    private static readonly AttentionSpec s_spec = new(32, 8, 128, 16, DType.BFloat16);

    [Theory]
    [InlineData(KernelKinds.None, "")]
    [InlineData(KernelKinds.Append, "append")]
    [InlineData(KernelKinds.Decode, "append decode")]
    [InlineData(KernelKinds.ShortDecode, "append decode decode_team")]
    [InlineData(KernelKinds.SpeculativeDecode, "append decode decode_q2 decode_q4 decode_q8 decode_q8_wide")]
    [InlineData(
        KernelKinds.SpeculativeDecode | KernelKinds.ShortDecode,
        "append decode decode_team decode_q2 decode_q2_team decode_q4 decode_q4_team decode_q8 decode_q8_wide decode_q8_team"
    )]
    [InlineData(KernelKinds.PrefillPaged, "append prefill_paged")]
    [InlineData(KernelKinds.PrefillRagged, "prefill_ragged")]
    [InlineData(KernelKinds.SingleDecode, "decode_ragged")]
    [InlineData(KernelKinds.Cascade, "append decode decode_team prefill_paged merge_states_bf16")]
    [InlineData(
        KernelKinds.All,
        "append decode decode_team decode_q2 decode_q2_team decode_q4 decode_q4_team decode_q8 decode_q8_wide decode_q8_team prefill_paged decode_ragged prefill_ragged merge_states_bf16"
    )]
    public void A_kind_stands_for_these_units(KernelKinds kinds, string expected)
    {
        IEnumerable<string> names = s_spec
            .UnitsFor(kinds)
            .Select(static unit => unit.Name.Replace("fi_", "").Replace("_bf16_h32_kv8_d128", "").Replace("_p16", ""));

        Assert.Equal(expected, string.Join(' ', names));
    }

    [Theory]
    [InlineData(KernelKinds.PrefillPaged, "sm_90a", "append decode decode_team prefill_paged prefill_staged")]
    [InlineData(KernelKinds.PrefillPaged, "sm_80", "append prefill_paged")]
    [InlineData(KernelKinds.PrefillPaged | KernelKinds.Decode, "sm_90a", "append decode decode_team prefill_paged prefill_staged")]
    [InlineData(KernelKinds.PrefillPaged | KernelKinds.Decode, "sm_80", "append decode prefill_paged")]
    [InlineData(KernelKinds.PrefillPaged | KernelKinds.ShortDecode, "sm_80", "append decode decode_team prefill_paged")]
    [InlineData(KernelKinds.Append, "sm_90a", "append")]
    public void Prefill_over_a_quantised_cache_decodes_single_tokens_where_it_stages(
        KernelKinds kinds,
        string architecture,
        string expected
    )
    {
        AttentionSpec spec = new(32, 8, 128, 16, DType.BFloat16, DType.Float8E4M3);

        IEnumerable<string> names = spec.UnitsFor(kinds)
            .Where(unit => unit.Serves(architecture))
            .Select(static unit => unit.Name.Replace("fi_", "").Replace("_bf16_e4m3_h32_kv8_d128", "").Replace("_p16", ""));

        Assert.Equal(expected, string.Join(' ', names));
    }

    [Theory]
    [InlineData(64, 2, 128, 16, null, "1 2 4 8")]
    [InlineData(32, 8, 128, 16, null, "8")]
    [InlineData(64, 4, 128, 16, null, "2 4 8")] // 16 heads of a group fit the kernel of few columns
    [InlineData(64, 4, 256, 16, null, "1 2 4 8")] // 8 where the head dimension is large
    [InlineData(64, 4, 512, 16, null, "")] // prefill's kernel, which they are, has none so large
    [InlineData(71, 1, 128, 16, null, "1")] // 142 rows are too many for a tile, and nothing divides 71
    [InlineData(64, 2, 128, 16, DType.Float8E4M3, "2 4 8")] // quantised values are widened slowly
    [InlineData(32, 8, 96, 16, null, "1 8")] // 8 columns a head, but more heads
    [InlineData(12, 6, 96, 16, null, "")] // which do not come in fours
    public void Many_columns_have_a_kernel_of_their_own(
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        DType? kvDtype,
        string queryTokens
    )
    {
        AttentionSpec spec = new(heads, kvHeads, headDim, pageSize, DType.BFloat16, kvDtype);

        IEnumerable<int> wide = KernelId
            .Of(KernelKinds.All, spec.Shape)
            .Where(static kernel => kernel.Family == KernelFamily.WideDecode)
            .Select(static kernel => kernel.QueryTokens);

        Assert.Equal(queryTokens, string.Join(' ', wide));
        Assert.Equal(
            spec.UnitsFor(KernelKinds.All).Where(static unit => unit.Name.EndsWith("_wide", StringComparison.Ordinal)).Count(),
            wide.Count()
        );
    }

    [Theory]
    [InlineData(32, 8, 128, 128, "decode_ragged")]
    [InlineData(32, 1, 128, 128, "prefill_ragged")] // prefill's kernel reads keys and values once for all heads of the group
    [InlineData(71, 1, 64, 64, "prefill_ragged")]
    [InlineData(16, 1, 192, 192, "prefill_ragged")] // without pages there is room for 8 columns only
    [InlineData(16, 16, 192, 128, "prefill_ragged")] // decode has no values of another size
    public void One_sequence_alone_has_a_kernel(int heads, int kvHeads, int headDim, int valueDim, string expected)
    {
        AttentionSpec spec = new(heads, kvHeads, headDim, 16, DType.BFloat16, DType.BFloat16, valueDim: valueDim);

        string name = spec.UnitsFor(KernelKinds.SingleDecode).Single().Name;

        Assert.StartsWith($"fi_{expected}_bf16_h{heads}", name, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(16, null, AttentionOptions.None, false)]
    [InlineData(24, null, AttentionOptions.SlidingWindow, false)]
    [InlineData(1, null, AttentionOptions.None, true)] // tokens are gathered
    [InlineData(5, null, AttentionOptions.Alibi, true)]
    [InlineData(16, DType.Float8E5M2, AttentionOptions.None, true)] // and widened
    [InlineData(16, null, AttentionOptions.RopeInterleaved, true)] // and turned
    public void What_a_kernel_would_prepare_for_every_tile_is_staged(int pageSize, DType? kvDtype, AttentionOptions options, bool expected)
    {
        AttentionSpec spec = new(32, 8, 128, pageSize, DType.BFloat16, kvDtype, variant: AttentionVariant.Of(options));

        TranslationUnit[] staged = [.. Staged(KernelKinds.PrefillPaged), .. Staged(KernelKinds.PrefillRagged)];

        Assert.Equal((expected ? 1 : 0) + (spec.Shape.Turns ? 1 : 0), staged.Length);
        Assert.Empty(Staged(KernelKinds.SingleDecode | KernelKinds.Decode));
        Assert.All(staged, static unit => Assert.True(unit.Serves("sm_90a")));
        Assert.All(staged, static unit => Assert.False(unit.Serves("sm_90") || unit.Serves("sm_80") || unit.Serves("sm_100")));
        Assert.All(spec.Units, static unit => Assert.True(unit.Serves("sm_80") && unit.Serves("sm_90a")));

        IEnumerable<TranslationUnit> Staged(KernelKinds kinds) =>
            spec.UnitsFor(kinds).Where(static unit => unit.Name.StartsWith("fi_prefill_staged_", StringComparison.Ordinal));
    }

    [Fact]
    public void Checked_mode_has_units_of_its_own_where_there_are_pages()
    {
        string[] names = [.. s_spec.UnitsFor(KernelKinds.All, isChecked: true).Select(static unit => unit.Name)];

        Assert.Equal(s_spec.UnitsFor(KernelKinds.All).Count(), names.Length);
        Assert.All(
            names,
            static name =>
                Assert.True(name.EndsWith("_checked", StringComparison.Ordinal) != (name.Contains("ragged") || name.Contains("merge")))
        );
    }
}
