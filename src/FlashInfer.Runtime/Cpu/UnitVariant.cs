using FlashInfer.Attention;

namespace FlashInfer.Cpu;

/// <summary>A variant of attention as one unit of work meets it; nothing where there is none.</summary>
internal readonly unsafe struct UnitVariant
{
    private readonly AttentionVariant? _variant;
    private readonly nint _arguments;
    private readonly ItemContext _context;
    private readonly int _kvHead;
    private readonly int _group;

    /// <param name="variant">The configuration's variant.</param>
    /// <param name="data">Its <see cref="VariantData"/>.</param>
    /// <param name="item">Index of the unit's item in the list.</param>
    /// <param name="kvHead">The unit's key/value head.</param>
    /// <param name="group">Query heads of a key/value head.</param>
    public UnitVariant(AttentionVariant? variant, nint data, int item, int kvHead, int group)
    {
        if (variant is not null)
        {
            _variant = variant;
            _arguments = data + sizeof(VariantData);
            _context = ((ItemContext*)((VariantData*)data)->Contexts)[item];
            _kvHead = kvHead;
            _group = group;
        }
    }

    /// <summary>Whether logits are wanted in natural units, to be replaced.</summary>
    public bool ReplacesLogits => Has(VariantHooks.Transform | VariantHooks.Mask);

    /// <summary>Whether some of the keys may be hidden, or logits replaced.</summary>
    public bool TouchesLogits => Has(VariantHooks.Transform | VariantHooks.Mask | VariantHooks.FirstKey);

    /// <summary>Whether a logit without a value joins each softmax.</summary>
    public bool HasSink => Has(VariantHooks.Sink);

    /// <summary>Whether queries and keys turn with their positions.</summary>
    public bool Rotates => _variant is { Rotates: true };

    /// <summary>How they turn.</summary>
    public Rotation Rotation => _variant!.Rotation(new VariantReader(_arguments));

    /// <summary>The position of a query token, by its row of the query.</summary>
    public int Position(int row) => _context.KvLen - _context.QoLen + row - _context.FirstRow;

    /// <summary>Replaces the logits of one query token and head for consecutive keys; -infinity for those hidden.</summary>
    /// <param name="logits">The logits.</param>
    /// <param name="begin">Position of the first key.</param>
    /// <param name="row">Row of the query token.</param>
    /// <param name="head">The head's place in its group.</param>
    public void Apply(Span<float> logits, int begin, int row, int head)
    {
        LogitsContext at = At(row, (_kvHead * _group) + head);
        if (Has(VariantHooks.FirstKey))
        {
            int hidden = (int)Math.Clamp((long)_variant!.FirstKey(at, new VariantReader(_arguments)) - begin, 0, logits.Length);
            logits[..hidden].Fill(float.NegativeInfinity);
            logits = logits[hidden..];
            begin += hidden;
        }

        if (ReplacesLogits)
        {
            _variant!.Apply(logits, at with { KvPosition = begin }, new VariantReader(_arguments));
        }
    }

    /// <summary>Whether elements of the query are replaced.</summary>
    public bool TransformsQuery => Has(VariantHooks.QueryTransform);

    /// <summary>Whether elements of the output are replaced.</summary>
    public bool TransformsOutput => Has(VariantHooks.OutputTransform);

    /// <summary>Replaces the elements of one query token and head.</summary>
    /// <param name="elements">The elements.</param>
    /// <param name="row">Row of the query token.</param>
    /// <param name="head">The query head.</param>
    public void TransformQuery(Span<float> elements, int row, int head) =>
        _variant!.TransformQuery(elements, ElementContext.Of(At(row, head)), new VariantReader(_arguments));

    /// <summary>Replaces the elements of the output of one query token and head.</summary>
    /// <param name="elements">The elements.</param>
    /// <param name="row">Row of the query token.</param>
    /// <param name="head">The query head.</param>
    /// <param name="lse2">Base-2 log-sum-exp of the row.</param>
    public void TransformOutput(Span<float> elements, int row, int head, float lse2) =>
        _variant!.TransformOutput(elements, lse2, ElementContext.Of(At(row, head)), new VariantReader(_arguments));

    /// <summary>The logit without a value that joins a head's softmax.</summary>
    /// <param name="head">The query head.</param>
    public float Sink(int head) => _variant!.Sink(head, new VariantReader(_arguments));

    /// <summary>Where a query token and head stand.</summary>
    private LogitsContext At(int row, int head) =>
        new()
        {
            Head = head,
            KvHead = _kvHead,
            Sequence = _context.Sequence,
            QoIndex = row - _context.FirstRow,
            QoPosition = Position(row),
            QoLen = _context.QoLen,
            KvLen = _context.KvLen,
        };

    private bool Has(VariantHooks hooks) => _variant is not null && _variant.Does(hooks);
}
