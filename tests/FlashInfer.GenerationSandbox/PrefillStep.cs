namespace FlashInfer.GenerationSandbox;

/// <summary>One prefill step with everything that a generated configuration offers.</summary>
public static class PrefillStep
{
    /// <summary>Appends the tokens of two prompts and attends with them, over pages and without.</summary>
    /// <param name="device">The device.</param>
    /// <param name="tokens">Tokens of each prompt.</param>
    /// <param name="key">[tokens, 8, 128].</param>
    /// <param name="value">[tokens, 8, 128].</param>
    /// <param name="query">[tokens, 32, 128].</param>
    /// <param name="paged">Receives the output over pages, [tokens, 32, 128].</param>
    /// <param name="ragged">Receives the output without pages, [tokens, 32, 128].</param>
    /// <param name="lse">[tokens, 32].</param>
    public static void Run(
        Device device,
        (int First, int Second) tokens,
        ReadOnlySpan<BFloat16> key,
        ReadOnlySpan<BFloat16> value,
        ReadOnlySpan<BFloat16> query,
        Span<BFloat16> paged,
        Span<BFloat16> ragged,
        Span<float> lse
    )
    {
        int all = tokens.First + tokens.Second;
        using RootAttention.PagedKvCache cache = new(device, layers: 1, pages: 64);
        using RootAttention.BatchPrefillWithPagedKvCache prefill = new(cache, maxSequences: 2, maxQueryTokens: all);
        using RootAttention.BatchPrefillWithRaggedKvCache prompts = new(device, maxSequences: 2, maxQueryTokens: all);
        using RootAttention.Key k = RootAttention.AllocateKey(device, all);
        using RootAttention.Value v = RootAttention.AllocateValue(device, all);
        using RootAttention.Query q = RootAttention.AllocateQuery(device, all);
        using RootAttention.Output o = RootAttention.AllocateOutput(device, all);
        using RootAttention.Lse2 l = RootAttention.AllocateLse2(device, all);
        k.CopyFrom(key);
        v.CopyFrom(value);
        q.CopyFrom(query);

        Sequence[] sequences = [cache.NewSequence(), cache.NewSequence()];
        cache.BeginForward(sequences, [tokens.First, tokens.Second]);
        prefill.Plan(sequences);
        prefill.Append(0, k, v);
        prefill.Run(0, q, o, l);
        prefill.Run(0, q, o);
        cache.EndForward(sequences);
        o.CopyTo(paged);

        prompts.Plan([0, tokens.First, all], [0, tokens.First, all]);
        prompts.Run(q, k, v, o);
        prompts.Run(q, k, v, o, l);
        using RootAttention.Output again = prompts.Run(q, k, v);
        again.CopyTo(ragged);
        l.CopyTo(lse);
    }
}
