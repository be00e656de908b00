namespace FlashInfer.Planning;

/// <summary>The first keys that query tokens see, where a variant of attention bounds them; else none are bounded.</summary>
/// <param name="variant">The variant.</param>
/// <param name="arguments">Its arguments, in host memory.</param>
/// <param name="places">Place of each sequence in the batch; empty when the sequences are all of it.</param>
internal readonly ref struct KeyBounds(AttentionVariant variant, VariantReader arguments, ReadOnlySpan<int> places)
{
    private readonly AttentionVariant? _variant = variant;
    private readonly VariantReader _arguments = arguments;
    private readonly ReadOnlySpan<int> _places = places;

    /// <summary>Whether every query token sees the keys from the first on.</summary>
    public bool IsEmpty => _variant is null;

    /// <summary>Where the keys of some query tokens of a sequence begin: at the tile that holds the first one's first key.</summary>
    /// <param name="sequence">The sequence.</param>
    /// <param name="qoIndex">The first of the query tokens; what later ones see does not begin before.</param>
    /// <param name="qoLen">Query tokens of the sequence.</param>
    /// <param name="kvLen">Tokens of the sequence.</param>
    /// <param name="end">Where the keys end; above 0 there is always a tile, also when none of it is seen.</param>
    /// <param name="tileTokens">Tokens of a tile.</param>
    public int Begin(int sequence, int qoIndex, int qoLen, int kvLen, int end, int tileTokens)
    {
        if (_variant is null)
        {
            return 0;
        }

        LogitsContext at = new()
        {
            Sequence = _places.IsEmpty ? sequence : _places[sequence],
            QoIndex = qoIndex,
            QoPosition = kvLen - qoLen + qoIndex,
            QoLen = qoLen,
            KvLen = kvLen,
        };
        return Math.Clamp(_variant.FirstKey(at, _arguments), 0, Math.Max(0, end - 1)) / tileTokens * tileTokens;
    }
}
