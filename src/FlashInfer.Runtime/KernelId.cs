namespace FlashInfer;

/// <summary>What a kernel does.</summary>
internal enum KernelFamily
{
    Append,
    Decode,
    WideDecode,
    PrefillPaged,
    PrefillPagedStaged,
    PrefillRagged,
    PrefillRaggedStaged,
    DecodeRagged,
    MergeStates,
}

/// <summary>Which kernel of a configuration.</summary>
/// <param name="Family">What it does.</param>
/// <param name="QueryTokens">Decode, wide or not: the most query tokens of a sequence, one of <see cref="CudaUnits.QueryTokens"/>.</param>
/// <param name="TeamUnits">Decode: whether each team (a warp) takes units of its own.</param>
internal readonly record struct KernelId(KernelFamily Family, int QueryTokens = 1, bool TeamUnits = false)
{
    /// <summary>The one architecture that has a use for it; null when all have.</summary>
    public string? Architecture { get; init; }

    /// <summary>Whether an architecture has a use for it.</summary>
    public bool Serves(string architecture) => Architecture is null || Architecture == architecture;

    /// <summary>A configuration's kernels of some kinds, those needed first in front: the one answer for warm-up, for bundles and for the tool.</summary>
    public static IEnumerable<KernelId> Of(KernelKinds kinds, AttentionShape shape)
    {
        if (!shape.HasCache)
        {
            kinds &= KernelKinds.PrefillRagged | KernelKinds.SingleDecode;
        }

        if (!shape.HasPrefill)
        {
            kinds &= KernelKinds.ShortDecode | KernelKinds.SpeculativeDecode;
        }

        if (kinds.HasFlag(KernelKinds.Append))
        {
            yield return new KernelId(KernelFamily.Append);
        }

        foreach (int queryTokens in CudaUnits.QueryTokens)
        {
            KernelKinds several = queryTokens == 1 ? KernelKinds.None : KernelKinds.SpeculativeDecode;
            bool decodesSingles = queryTokens == 1 && kinds.HasFlag(KernelKinds.PrefillPaged) && shape.IsQuantised;
            foreach (KernelId kernel in Decode(shape, queryTokens).Append(new(KernelFamily.Decode, queryTokens, TeamUnits: true)))
            {
                if (kinds.HasFlag((kernel.TeamUnits ? KernelKinds.ShortDecode : KernelKinds.Decode) | several))
                {
                    yield return kernel;
                }
                else if (decodesSingles)
                {
                    // Prefill that stages leaves single tokens to decode.
                    yield return Staged(kernel);
                }
            }
        }

        if (kinds.HasFlag(KernelKinds.PrefillPaged))
        {
            yield return new KernelId(KernelFamily.PrefillPaged);
            if (CudaUnits.HasStagedPrefill(shape, isPaged: true))
            {
                yield return Staged(new(KernelFamily.PrefillPagedStaged));
            }
        }

        bool single = kinds.HasFlag(KernelKinds.SingleDecode);
        bool hasOwn = CudaUnits.HasRaggedDecode(shape);
        if (single && hasOwn)
        {
            yield return new KernelId(KernelFamily.DecodeRagged);
        }

        if (kinds.HasFlag(KernelKinds.PrefillRagged) || (single && !hasOwn))
        {
            yield return new KernelId(KernelFamily.PrefillRagged);
        }

        if (kinds.HasFlag(KernelKinds.PrefillRagged) && CudaUnits.HasStagedPrefill(shape, isPaged: false))
        {
            yield return Staged(new(KernelFamily.PrefillRaggedStaged));
        }

        if (kinds.HasFlag(KernelKinds.Cascade))
        {
            yield return new KernelId(KernelFamily.MergeStates);
        }
    }

    /// <summary>What a wrapper of decode asks for when it is made: the kernel of few columns, and that of many where there is one.</summary>
    /// <param name="shape">A legal shape.</param>
    /// <param name="queryTokens">The most query tokens of a sequence, one of <see cref="CudaUnits.QueryTokens"/>.</param>
    public static IEnumerable<KernelId> Decode(AttentionShape shape, int queryTokens)
    {
        yield return new KernelId(KernelFamily.Decode, queryTokens);
        if (CudaUnits.HasWideDecode(shape, queryTokens))
        {
            yield return new KernelId(KernelFamily.WideDecode, queryTokens);
        }
    }

    private static KernelId Staged(KernelId kernel) => kernel with { Architecture = CudaUnits.StagedArchitecture };
}
