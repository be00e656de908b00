using System.Text;

namespace FlashInfer.Tests.Kernels;

/// <summary>Configurations that stand for all: every group kind, head dimension, element type of query and cache, and pages of one token, an odd number, one tile and several tiles.</summary>
internal static class KernelConfigurations
{
    /// <summary>What the kernels are meant for (sm_90: the portable kernels on Hopper); those that NVRTC does not know yet are left out.</summary>
    public static readonly string[] Architectures = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"];

    public static readonly AttentionSpec[] Specs =
    [
        new(12, 12, 64, 1, DType.Float16),
        new(12, 4, 128, 5, DType.Float16),
        new(32, 8, 128, 16, DType.BFloat16),
        new(64, 8, 128, 16, DType.BFloat16),
        new(32, 2, 64, 64, DType.Float16),
        new(71, 1, 64, 16, DType.BFloat16),
        new(16, 16, 256, 16, DType.BFloat16),
        new(8, 1, 256, 5, DType.Float16),
        new(16, 1, 256, 1, DType.BFloat16, kvLayout: KvLayout.Hnd),
        new(32, 8, 96, 16, DType.BFloat16),
        new(12, 12, 192, 16, DType.Float16),
        new(16, 1, 192, 16, DType.BFloat16),
        new(32, 8, 128, 16, DType.BFloat16, DType.Float8E4M3),
        new(12, 12, 64, 5, DType.Float16, DType.Float8E4M3),
        new(12, 2, 96, 32, DType.Float16, DType.Float8E5M2, KvLayout.Hnd),
        new(24, 8, 192, 1, DType.BFloat16, DType.Float8E5M2),
        new(8, 1, 256, 16, DType.BFloat16, DType.Float8E4M3),
    ];

    /// <summary>
    /// Prefill over pages: every head dimension with pages that the copy engine takes, whole and in pieces, and with pages whose tokens
    /// are gathered; checked where registers are scarcest; and every head dimension over a quantised cache.
    /// </summary>
    public static readonly TranslationUnit[] PrefillPaged =
    [
        Paged(Shape(32, 8, 128, 16, DType.BFloat16)),
        Paged(Shape(6, 2, 128, 24, DType.Float16), isChecked: true),
        Paged(Shape(12, 4, 128, 5, DType.Float16)),
        Paged(Shape(32, 2, 64, 64, DType.Float16)),
        Paged(Shape(71, 1, 64, 1, DType.BFloat16)),
        Paged(Shape(8, 2, 96, 16, DType.BFloat16)),
        Paged(Shape(8, 2, 192, 64, DType.Float16)),
        Paged(Shape(8, 2, 96, 5, DType.BFloat16)),
        Paged(Shape(8, 2, 192, 1, DType.Float16)),
        Paged(Shape(16, 16, 256, 16, DType.BFloat16), isChecked: true),
        Paged(Shape(8, 1, 256, 1, DType.BFloat16), isChecked: true),
        Paged(Shape(28, 4, 128, 5, DType.BFloat16), isChecked: true),
        Paged(Shape(32, 8, 128, 16, DType.BFloat16, DType.Float8E4M3)),
        Paged(Shape(28, 4, 128, 5, DType.Float16, DType.Float8E5M2), isChecked: true),
        Paged(Shape(71, 1, 64, 64, DType.Float16, DType.Float8E4M3)),
        Paged(Shape(12, 2, 96, 32, DType.BFloat16, DType.Float8E5M2)),
        Paged(Shape(24, 8, 192, 1, DType.BFloat16, DType.Float8E4M3)),
        Paged(Shape(8, 1, 256, 16, DType.BFloat16, DType.Float8E4M3)),
    ];

    /// <summary>Prefill over ragged keys and values, of one head dimension and of two.</summary>
    public static readonly TranslationUnit[] PrefillRagged =
    [
        Ragged(Shape(32, 8, 128, 16, DType.BFloat16)),
        Ragged(Shape(12, 12, 64, 16, DType.Float16)),
        Ragged(Shape(8, 2, 96, 16, DType.BFloat16)),
        Ragged(Shape(8, 2, 192, 16, DType.BFloat16)),
        Ragged(Shape(8, 1, 256, 16, DType.Float16)),
        Ragged(Shape(16, 16, 192, 16, DType.BFloat16) with { ValueDim = 128 }),
    ];

    /// <summary>Decode of more columns than a unit of its own has room for.</summary>
    public static readonly TranslationUnit[] Wide =
    [
        new AttentionSpec(32, 1, 128, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(71, 1, 128, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(71, 1, 64, 5, DType.Float16).WideDecodeUnitFor(isChecked: true),
        new AttentionSpec(64, 2, 64, 64, DType.Float16).WideDecodeUnitFor(),
        new AttentionSpec(24, 1, 96, 16, DType.BFloat16).WideDecodeUnitFor(queryTokens: 2),
        new AttentionSpec(32, 8, 128, 16, DType.BFloat16).WideDecodeUnitFor(queryTokens: 8),
        new AttentionSpec(64, 1, 192, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(128, 1, 256, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(32, 1, 256, 16, DType.Float16).WideDecodeUnitFor(isChecked: true),
        new AttentionSpec(71, 1, 128, 16, DType.BFloat16, DType.Float8E4M3).WideDecodeUnitFor(),
        new AttentionSpec(32, 8, 96, 16, DType.BFloat16).WideDecodeUnitFor(),
        new AttentionSpec(32, 4, 96, 32, DType.Float16).WideDecodeUnitFor(isChecked: true),
    ];

    /// <summary>
    /// All units of the configurations; of two (pages that hold a tile, and pages that do not) those of checked mode as well; of the usual
    /// one those for short sequences and for several query tokens, up to as many columns as a block has room for; those for many
    /// columns, of one row of warps and of two, of every head dimension; and what merges states of every element type.
    /// </summary>
    public static readonly TranslationUnit[] Units =
    [
        .. Specs.SelectMany(spec => spec.Units),
        .. Specs.Skip(1).Take(2).SelectMany(spec => new[] { spec.DecodeUnitFor(isChecked: true), spec.AppendUnitFor(isChecked: true) }),
        Specs[2].DecodeUnitFor(teamUnits: true),
        Specs[2].DecodeUnitFor(queryTokens: 4),
        Specs[3].DecodeUnitFor(queryTokens: 8, teamUnits: true),
        new AttentionSpec(71, 1, 128, 16, DType.BFloat16).DecodeUnitFor(queryTokens: 2),
        new AttentionSpec(8, 1, 192, 1, DType.BFloat16, DType.Float8E4M3).DecodeUnitFor(queryTokens: 4),
        AttentionSpec.MergeStatesUnit(DType.Float16),
        AttentionSpec.MergeStatesUnit(DType.BFloat16),
        AttentionSpec.MergeStatesUnit(DType.Float32),
        .. Wide,
        .. PrefillPaged,
        .. PrefillRagged,
    ];

    private static AttentionShape Shape(int heads, int kvHeads, int headDim, int pageSize, DType dtype, DType? kvDtype = null) =>
        new(heads, kvHeads, headDim, pageSize, dtype, kvDtype ?? dtype, KvLayout.Nhd);

    private static TranslationUnit Paged(AttentionShape shape, bool isChecked = false) =>
        new(CudaUnits.PrefillPagedName(shape, isChecked), Encoding.UTF8.GetBytes(CudaUnits.PrefillPaged(shape, isChecked)));

    private static TranslationUnit Ragged(AttentionShape shape) =>
        new(CudaUnits.PrefillRaggedName(shape), Encoding.UTF8.GetBytes(CudaUnits.PrefillRagged(shape)));
}
