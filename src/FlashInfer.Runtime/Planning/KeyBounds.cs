namespace FlashInfer.Planning;

/// <summary>The first keys that query tokens see, and those that they skip, where a variant of attention says so; else they see all.</summary>
/// <param name="variant">The variant.</param>
/// <param name="arguments">Its arguments, in host memory.</param>
internal readonly ref struct KeyBounds(AttentionVariant variant, VariantReader arguments)
{
    private readonly AttentionVariant? _variant = variant;
    private readonly VariantReader _arguments = arguments;

    /// <summary>Whether every query token sees all keys.</summary>
    public bool IsEmpty => _variant is null;

    /// <summary>Where the keys of some query tokens of a sequence begin: at the tile that holds the first one's first key.</summary>
    /// <param name="sequence">The sequence's place in the batch.</param>
    /// <param name="qoIndex">The first of the query tokens; what later ones see does not begin before.</param>
    /// <param name="qoLen">Query tokens of the sequence.</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    /// <param name="end">Where the keys end; above 0 there is always a tile, also when none of it is seen.</param>
    /// <param name="tileTokens">Tokens of a tile.</param>
    public int Begin(int sequence, int qoIndex, int qoLen, int kvLen, int end, int tileTokens)
    {
        if (_variant is null || !_variant.Does(VariantHooks.FirstKey))
        {
            return 0;
        }

        int first = _variant.FirstKey(Place(sequence, qoIndex, qoLen, kvLen), _arguments);
        return Math.Clamp(first, 0, Math.Max(0, end - 1)) / tileTokens * tileTokens;
    }

    /// <summary>Keys between others that a query token of a sequence skips, and no later one sees; none where the end is not behind the first.</summary>
    /// <param name="sequence">The sequence's place in the batch.</param>
    /// <param name="qoIndex">The query token.</param>
    /// <param name="qoLen">Query tokens of the sequence.</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    public (int First, int End) Skipped(int sequence, int qoIndex, int qoLen, int kvLen) =>
        _variant is { SkipsKeys: true } ? _variant.Skipped(Place(sequence, qoIndex, qoLen, kvLen), _arguments) : default;

    private static LogitsContext Place(int sequence, int qoIndex, int qoLen, int kvLen) =>
        new()
        {
            Sequence = sequence,
            QoIndex = qoIndex,
            QoPosition = kvLen - qoLen + qoIndex,
            QoLen = qoLen,
            KvLen = kvLen,
        };
}
