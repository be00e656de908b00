using System.ComponentModel;
using System.Text;

namespace FlashInfer;

/// <summary>
/// A legal attention configuration and its CUDA translation units. Generated classes hold one; a configuration known only at run time
/// (a checkpoint's <c>config.json</c>) is made with the public constructor and gets the same kernels.
/// </summary>
public sealed class AttentionSpec
{
    // Null where there is no cache, or no prefill.
    private readonly TranslationUnit? _decodeUnit;
    private readonly TranslationUnit? _appendUnit;
    private readonly TranslationUnit? _prefillPagedUnit;
    private readonly TranslationUnit? _prefillRaggedUnit;

    /// <summary>Makes a configuration from values known at run time.</summary>
    /// <param name="heads">Query heads, 1 to 1,024; a multiple of <paramref name="kvHeads"/>.</param>
    /// <param name="kvHeads">Key/value heads, 1 to 1,024.</param>
    /// <param name="headDim">Elements of one head of query and key: 64, 96, 128, 192, 256, or 512 for decode only.</param>
    /// <param name="pageSize">Tokens per page, 1 to 1,024.</param>
    /// <param name="dtype">Element type of query, output, and new keys and values: <see cref="DType.Float16"/> or <see cref="DType.BFloat16"/>.</param>
    /// <param name="kvDtype">Element type of keys and values in the cache: <paramref name="dtype"/>, which null means, or <see cref="DType.Float8E4M3"/> or <see cref="DType.Float8E5M2"/> for a quantised cache.</param>
    /// <param name="kvLayout">Order of dimensions inside a page.</param>
    /// <param name="variant">What attention does besides the softmax of scaled products; nothing when null.</param>
    /// <param name="valueDim">Elements of one head of value and output: <paramref name="headDim"/>, which null means, or 128 where headDim is 192. Then there is no cache: pageSize and kvLayout do not matter.</param>
    /// <exception cref="ArgumentException">A rule of the configuration is broken; the message names the rule, the value and the legal set.</exception>
    public AttentionSpec(
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        DType dtype,
        DType? kvDtype = null,
        KvLayout kvLayout = KvLayout.Nhd,
        AttentionVariant? variant = null,
        int? valueDim = null
    )
    {
        AttentionShape shape = Checked(
            With(
                new AttentionShape(heads, kvHeads, headDim, pageSize, dtype, kvDtype ?? dtype, kvLayout) { ValueDim = valueDim ?? headDim },
                variant
            )
        );
        Shape = shape;
        Variant = variant;
        if (shape.HasCache)
        {
            _decodeUnit = Unit(CudaUnits.DecodeName(shape), CudaUnits.Decode(shape));
            _appendUnit = Unit(CudaUnits.AppendName(shape), CudaUnits.Append(shape));
        }

        if (shape.HasPrefill)
        {
            _prefillPagedUnit = shape.HasCache ? Unit(CudaUnits.PrefillPagedName(shape), CudaUnits.PrefillPaged(shape)) : null;
            _prefillRaggedUnit = Unit(CudaUnits.PrefillRaggedName(shape), CudaUnits.PrefillRagged(shape));
        }
    }

    private AttentionSpec(
        AttentionShape shape,
        AttentionVariant? variant,
        TranslationUnit? decode,
        TranslationUnit? append,
        TranslationUnit? prefillPaged,
        TranslationUnit? prefillRagged
    )
    {
        Shape = shape;
        Variant = variant;
        _decodeUnit = decode;
        _appendUnit = append;
        _prefillPagedUnit = prefillPaged;
        _prefillRaggedUnit = prefillRagged;
    }

    /// <summary>Query heads.</summary>
    public int Heads => Shape.Heads;

    /// <summary>Key/value heads.</summary>
    public int KvHeads => Shape.KvHeads;

    /// <summary>Query heads per key/value head.</summary>
    public int GroupSize => Shape.GroupSize;

    /// <summary>Elements of one head of query and key.</summary>
    public int HeadDim => Shape.HeadDim;

    /// <summary>Elements of one head of value and output.</summary>
    public int ValueDim => Shape.ValueDim;

    /// <summary>Whether it has a paged cache, and with it decode: not where <see cref="ValueDim"/> differs from <see cref="HeadDim"/>.</summary>
    public bool HasCache => Shape.HasCache;

    /// <summary>Whether it has prefill, and with it cascades and attention without a cache: not where <see cref="HeadDim"/> is 512.</summary>
    public bool HasPrefill => Shape.HasPrefill;

    /// <summary>Tokens per page.</summary>
    public int PageSize => Shape.PageSize;

    /// <summary>Element type of query, output, and new keys and values.</summary>
    public DType Dtype => Shape.Dtype;

    /// <summary>Element type of keys and values in the cache.</summary>
    public DType KvDtype => Shape.KvDtype;

    /// <summary>Order of dimensions inside a page.</summary>
    public KvLayout KvLayout => Shape.KvLayout;

    /// <summary>What attention does besides the softmax of scaled products; null when nothing.</summary>
    public AttentionVariant? Variant { get; }

    /// <summary>The unit of batch decode with one query token a sequence.</summary>
    /// <exception cref="InvalidOperationException">The configuration has no cache.</exception>
    public TranslationUnit DecodeUnit => _decodeUnit ?? throw NoCache();

    /// <summary>The unit that writes new keys and values into the pages.</summary>
    /// <exception cref="InvalidOperationException">The configuration has no cache.</exception>
    public TranslationUnit AppendUnit => _appendUnit ?? throw NoCache();

    /// <summary>The unit of batch prefill over the paged KV cache.</summary>
    /// <exception cref="InvalidOperationException">The configuration has no cache, or no prefill.</exception>
    public TranslationUnit PrefillPagedUnit => _prefillPagedUnit ?? throw (HasCache ? NoPrefill() : NoCache());

    /// <summary>The unit of batch prefill over ragged keys and values, which have the type of the query.</summary>
    /// <exception cref="InvalidOperationException">The configuration has no prefill.</exception>
    public TranslationUnit PrefillRaggedUnit => _prefillRaggedUnit ?? throw NoPrefill();

    /// <summary>The units of the usual kernels. A program compiles those that it uses; <see cref="UnitsFor"/> has all that there are.</summary>
    public IReadOnlyList<TranslationUnit> Units =>
        [.. new[] { _decodeUnit, _appendUnit, _prefillPagedUnit, _prefillRaggedUnit }.OfType<TranslationUnit>()];

    /// <summary>
    /// Bytes of the keys and values of one page in one layer: a cache takes <c>layers * pages * PageBytes</c>, and a little for its page
    /// table and scales.
    /// </summary>
    /// <exception cref="InvalidOperationException">The configuration has no cache.</exception>
    public long PageBytes => HasCache ? 2L * PageSize * KvHeads * HeadDim * KvDtype.Size() : throw NoCache();

    internal AttentionShape Shape { get; }

    /// <summary>The units of some kinds of kernels, as a device compiles them.</summary>
    /// <param name="kernels">Which kernels.</param>
    /// <param name="isChecked">Whether for checked mode; see <see cref="DeviceOptions.IsChecked"/>.</param>
    public IEnumerable<TranslationUnit> UnitsFor(KernelKinds kernels, bool isChecked = false) =>
        KernelId
            .Of(kernels, Shape)
            .Select(kernel =>
                (
                    kernel.Family switch
                    {
                        KernelFamily.Append => AppendUnitFor(isChecked),
                        KernelFamily.Decode => DecodeUnitFor(kernel.QueryTokens, kernel.TeamUnits, isChecked),
                        KernelFamily.WideDecode => WideDecodeUnitFor(kernel.QueryTokens, isChecked),
                        KernelFamily.DecodeRagged => DecodeRaggedUnit,
                        KernelFamily.MergeStates => MergeStatesUnit(Dtype),
                        KernelFamily.PrefillPagedStaged => PrefillStagedUnitFor(isPaged: true, isChecked),
                        KernelFamily.PrefillRaggedStaged => PrefillStagedUnitFor(isPaged: false, isChecked),
                        _ => PrefillUnitFor(kernel.Family == KernelFamily.PrefillPaged, isChecked),
                    }
                ).For(kernel.Architecture)
            );

    /// <summary>A unit of batch decode; parameters as <see cref="CudaUnits.Decode"/>.</summary>
    internal TranslationUnit DecodeUnitFor(int queryTokens = 1, bool teamUnits = false, bool isChecked = false) =>
        queryTokens == 1 && !teamUnits && !isChecked
            ? DecodeUnit
            : Unit(
                CudaUnits.DecodeName(Shape, queryTokens, teamUnits, isChecked),
                CudaUnits.Decode(Shape, queryTokens, teamUnits, isChecked)
            );

    /// <summary>A unit of batch decode for many columns; parameters as <see cref="CudaUnits.WideDecode"/>.</summary>
    internal TranslationUnit WideDecodeUnitFor(int queryTokens = 1, bool isChecked = false) =>
        Unit(CudaUnits.WideDecodeName(Shape, queryTokens, isChecked), CudaUnits.WideDecode(Shape, queryTokens, isChecked));

    /// <summary>The unit of decode over ragged keys and values; there is nothing that a checked one would check.</summary>
    internal TranslationUnit DecodeRaggedUnit => Unit(CudaUnits.DecodeRaggedName(Shape), CudaUnits.DecodeRagged(Shape));

    /// <summary>The unit of append, with checks or without.</summary>
    internal TranslationUnit AppendUnitFor(bool isChecked) =>
        isChecked ? Unit(CudaUnits.AppendName(Shape, isChecked: true), CudaUnits.Append(Shape, isChecked: true)) : AppendUnit;

    /// <summary>The unit of prefill, paged or ragged, with checks or without: without pages there is nothing to check.</summary>
    internal TranslationUnit PrefillUnitFor(bool isPaged, bool isChecked) =>
        !isPaged ? PrefillRaggedUnit
        : isChecked ? Unit(CudaUnits.PrefillPagedName(Shape, isChecked: true), CudaUnits.PrefillPaged(Shape, isChecked: true))
        : PrefillPagedUnit;

    /// <summary>The unit of prefill over staged keys and values, with checks or without.</summary>
    internal TranslationUnit PrefillStagedUnitFor(bool isPaged, bool isChecked) =>
        Unit(CudaUnits.PrefillStagedName(Shape, isPaged, isChecked), CudaUnits.PrefillStaged(Shape, isPaged, isChecked));

    /// <summary>The unit that merges states of attention, of one element type: the same for all configurations.</summary>
    internal static TranslationUnit MergeStatesUnit(DType dtype) => Unit(CudaUnits.MergeStatesName(dtype), CudaUnits.MergeStates(dtype));

    /// <summary>Called by generated code.</summary>
    /// <param name="abiVersion">The contract version that the generator wrote into the units.</param>
    /// <param name="heads">Query heads.</param>
    /// <param name="kvHeads">Key/value heads.</param>
    /// <param name="headDim">Elements of one head.</param>
    /// <param name="pageSize">Tokens per page.</param>
    /// <param name="dtype">Element type of query, output, and new keys and values.</param>
    /// <param name="kvDtype">Element type of keys and values in the cache.</param>
    /// <param name="kvLayout">Order of dimensions inside a page.</param>
    /// <param name="decodeUnit">UTF-8 text of the decode unit.</param>
    /// <param name="appendUnit">UTF-8 text of the append unit.</param>
    /// <param name="prefillPagedUnit">UTF-8 text of the unit of paged prefill.</param>
    /// <param name="prefillRaggedUnit">UTF-8 text of the unit of ragged prefill.</param>
    /// <param name="variant">The configuration's variant of attention; null when it has none.</param>
    /// <param name="valueDim">Elements of one head of value and output; <paramref name="headDim"/> when null. Where they differ, the first three units are empty; those of prefill where it has no kernels.</param>
    /// <exception cref="FlashInferException">The code was generated by another version of the package.</exception>
    [EditorBrowsable(EditorBrowsableState.Never)]
    public static AttentionSpec FromGenerated(
        int abiVersion,
        int heads,
        int kvHeads,
        int headDim,
        int pageSize,
        DType dtype,
        DType kvDtype,
        KvLayout kvLayout,
        ReadOnlySpan<byte> decodeUnit,
        ReadOnlySpan<byte> appendUnit,
        ReadOnlySpan<byte> prefillPagedUnit,
        ReadOnlySpan<byte> prefillRaggedUnit,
        AttentionVariant? variant = null,
        int? valueDim = null
    )
    {
        if (abiVersion != CudaUnits.AbiVersion)
        {
            throw new FlashInferException(
                $"This program was compiled with a generator of contract version {abiVersion}, but FlashInfer.Runtime has version {CudaUnits.AbiVersion}; rebuild it against the FlashInfer package that it runs with."
            );
        }

        AttentionShape shape = Checked(
            With(
                new AttentionShape(heads, kvHeads, headDim, pageSize, dtype, kvDtype, kvLayout) { ValueDim = valueDim ?? headDim },
                variant
            )
        );
        return new AttentionSpec(
            shape,
            variant,
            shape.HasCache ? new TranslationUnit(CudaUnits.DecodeName(shape), decodeUnit) : null,
            shape.HasCache ? new TranslationUnit(CudaUnits.AppendName(shape), appendUnit) : null,
            shape.HasCache && shape.HasPrefill ? new TranslationUnit(CudaUnits.PrefillPagedName(shape), prefillPagedUnit) : null,
            shape.HasPrefill ? new TranslationUnit(CudaUnits.PrefillRaggedName(shape), prefillRaggedUnit) : null
        );
    }

    /// <summary>The configuration in one line.</summary>
    public override string ToString() =>
        $"{Heads} heads, {KvHeads} kvHeads, headDim {HeadDim}, {(HasCache ? $"pageSize {PageSize}, {Dtype}, KV {KvDtype} {KvLayout}" : $"valueDim {ValueDim}, {Dtype}, no cache")}{(Variant is null ? "" : $", variant {Variant}")}";

    /// <summary>The same over ragged keys and values, which have the query's type, whatever a cache holds.</summary>
    internal AttentionSpec WithoutCache() =>
        KvDtype == Dtype ? this : new(Heads, KvHeads, HeadDim, PageSize, Dtype, variant: Variant, valueDim: ValueDim);

    /// <summary>Throws unless there is a cache for it.</summary>
    internal void RequireCache(string parameter)
    {
        if (!HasCache)
        {
            throw new ArgumentException(NoCache().Message, parameter);
        }
    }

    /// <summary>Throws unless there is prefill for it.</summary>
    internal void RequirePrefill(string parameter)
    {
        if (!HasPrefill)
        {
            throw new ArgumentException(NoPrefill().Message, parameter);
        }
    }

    private InvalidOperationException NoPrefill() =>
        new(
            $"headDim is {HeadDim}: prefill, and what is made of it (cascades, SinglePrefill, SingleDecode), has kernels up to {AttentionRules.MaxPrefillHeadDim}. Use BatchDecodeWithPagedKvCache, which takes up to 8 query tokens a sequence."
        );

    private InvalidOperationException NoCache() =>
        new(
            $"headDim is {HeadDim} and valueDim {ValueDim}: a paged cache holds keys and values of one size, so there is none for this configuration, nor decode or paged prefill. Use BatchPrefillWithRaggedKvCache."
        );

    private static TranslationUnit Unit(string name, string text) => new(name, Encoding.UTF8.GetBytes(text));

    private static AttentionShape With(AttentionShape shape, AttentionVariant? variant)
    {
        OptionVariant? options = variant as OptionVariant;
        return shape with { Variant = variant?.Cuda, Options = options?.Options ?? 0, RotaryDim = options?.RotaryDim ?? 0 };
    }

    private static AttentionShape Checked(AttentionShape shape)
    {
        foreach (AttentionRule rule in AttentionRules.All)
        {
            if (!rule.IsMet(shape))
            {
                throw new ArgumentException(
                    $"{rule.Message(shape)} [{rule.Id}]",
                    char.ToLowerInvariant(rule.Parameter[0]) + rule.Parameter[1..]
                );
            }
        }

        return shape;
    }
}
