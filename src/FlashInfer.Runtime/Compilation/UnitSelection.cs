namespace FlashInfer.Compilation;

/// <summary>
/// Which units of a configuration are made before a program asks for them: the one answer for warm-up, for bundles and for the tool.
/// When nothing is said, every unit that a device which is not in checked mode can come to ask for.
/// </summary>
internal sealed record UnitSelection
{
    /// <summary>The most query tokens of a sequence that decode is made for, 1 to 8.</summary>
    public int MaxQueryTokens { get; init; } = CudaUnits.QueryTokens[^1];

    /// <summary>Whether the units are those of checked mode.</summary>
    public bool IsChecked { get; init; }

    /// <summary>The units, those needed first in front.</summary>
    public IEnumerable<TranslationUnit> Of(AttentionSpec spec)
    {
        yield return spec.AppendUnitFor(IsChecked);
        foreach (int queryTokens in CudaUnits.QueryTokens)
        {
            yield return spec.DecodeUnitFor(queryTokens, teamUnits: false, IsChecked);
            yield return spec.DecodeUnitFor(queryTokens, teamUnits: true, IsChecked);
            if (queryTokens >= MaxQueryTokens)
            {
                break;
            }
        }
    }
}
