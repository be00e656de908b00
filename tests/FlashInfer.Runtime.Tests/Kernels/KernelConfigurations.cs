using System.Text;

namespace FlashInfer.Tests.Kernels;

/// <summary>Configurations that stand for all: every group kind, head dimension, element type, and pages of one token, an odd number, one tile and several tiles.</summary>
internal static class KernelConfigurations
{
    /// <summary>What the kernels are meant for; those that NVRTC does not know yet are left out.</summary>
    public static readonly string[] Architectures = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

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
    ];

    /// <summary>
    /// Prefill over pages: every head dimension with pages that the copy engine takes, whole and in pieces, and with pages that it does
    /// not; checked where registers are scarcest.
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
        Paged(Shape(16, 16, 256, 16, DType.BFloat16), isChecked: true),
    ];

    /// <summary>Prefill over ragged keys and values.</summary>
    public static readonly TranslationUnit[] PrefillRagged =
    [
        Ragged(Shape(32, 8, 128, 16, DType.BFloat16)),
        Ragged(Shape(12, 12, 64, 16, DType.Float16)),
        Ragged(Shape(8, 2, 96, 16, DType.BFloat16)),
        Ragged(Shape(8, 2, 192, 16, DType.BFloat16)),
        Ragged(Shape(8, 1, 256, 16, DType.Float16)),
    ];

    /// <summary>All units.</summary>
    public static IEnumerable<TranslationUnit> Units => [.. Specs.SelectMany(spec => spec.Units), .. PrefillPaged, .. PrefillRagged];

    private static AttentionShape Shape(int heads, int kvHeads, int headDim, int pageSize, DType dtype) =>
        new(heads, kvHeads, headDim, pageSize, dtype, dtype, KvLayout.Nhd);

    private static TranslationUnit Paged(AttentionShape shape, bool isChecked = false) =>
        new(CudaUnits.PrefillPagedName(shape, isChecked), Encoding.UTF8.GetBytes(CudaUnits.PrefillPaged(shape, isChecked)));

    private static TranslationUnit Ragged(AttentionShape shape) =>
        new(CudaUnits.PrefillRaggedName(shape), Encoding.UTF8.GetBytes(CudaUnits.PrefillRagged(shape)));
}
