namespace FlashInfer;

/// <summary>What a plan gives to the <see cref="AttentionOptions"/> of its configuration: a value for each of them, and for no other.</summary>
public readonly ref struct OptionArguments
{
    /// <summary>Makes arguments for no option.</summary>
    public OptionArguments() { }

    /// <summary><see cref="AttentionOptions.LogitsSoftCap"/>: the cap, above 0.</summary>
    public float LogitsSoftCap { get; init; }

    /// <summary>
    /// <see cref="AttentionOptions.SlidingWindow"/>: how many positions before its own a query token sees; below 0 all of them.
    /// </summary>
    public int WindowLeft { get; init; } = -1;

    /// <summary><see cref="AttentionOptions.Alibi"/>: a slope for each query head.</summary>
    public ReadOnlySpan<float> AlibiSlopes { get; init; }

    /// <summary><see cref="AttentionOptions.Sinks"/>: a logit for each query head, in natural units.</summary>
    public ReadOnlySpan<float> Sinks { get; init; }

    /// <summary>
    /// <see cref="AttentionOptions.CustomMask"/>: for each sequence of the batch [query tokens, tokens], one behind the other; true where
    /// the query token sees the key.
    /// </summary>
    public ReadOnlySpan<bool> CustomMask { get; init; }

    /// <summary>
    /// <see cref="AttentionOptions.PackedCustomMask"/>: the same in bits, the lowest of a byte first; each sequence begins with a new byte.
    /// </summary>
    public ReadOnlySpan<byte> PackedCustomMask { get; init; }

    /// <summary>
    /// <see cref="AttentionOptions.Rope"/> or <see cref="AttentionOptions.RopeInterleaved"/>: how far each pair of elements turns from a
    /// position to the next, in radians; see <see cref="FlashInfer.RopeFrequencies"/>.
    /// </summary>
    public ReadOnlySpan<double> RopeFrequencies { get; init; }

    /// <summary><see cref="AttentionOptions.MultiItemScoring"/>: tokens of each sequence's prefix.</summary>
    public ReadOnlySpan<int> PrefixLengths { get; init; }

    /// <summary>
    /// <see cref="AttentionOptions.MultiItemScoring"/>: for each token behind a sequence's prefix its place in its item, one sequence behind
    /// the other. An item begins behind a delimiter, whose place is 0 and which sees the prefix only; items of 3 and 2 tokens, and the last
    /// delimiter: 0, 1, 2, 3, 0, 1, 2, 0.
    /// </summary>
    public ReadOnlySpan<int> ItemPositions { get; init; }
}
