namespace FlashInfer.GenerationSandbox;

/// <summary>One sequence without cache and plan, of a configuration whose values are shorter than its keys.</summary>
public static class SingleStep
{
    /// <summary>Prefills and decodes, by all overloads.</summary>
    /// <param name="device">The device.</param>
    /// <param name="tokens">Tokens of the sequence.</param>
    /// <param name="key">[tokens, 4, 192].</param>
    /// <param name="value">[tokens, 4, 128].</param>
    /// <param name="query">[tokens, 4, 192].</param>
    /// <returns>Outputs of ragged prefill, of the same without a plan, and of the last token's decode; and its LSE.</returns>
    public static (BFloat16[] Ragged, BFloat16[] Single, BFloat16[] Decoded, float[] Lse) Run(
        Device device,
        int tokens,
        ReadOnlySpan<BFloat16> key,
        ReadOnlySpan<BFloat16> value,
        ReadOnlySpan<BFloat16> query
    )
    {
        using LatentAttention.BatchPrefillWithRaggedKvCache ragged = new(device, maxSequences: 1, maxQueryTokens: tokens);
        using LatentAttention.SinglePrefill prefill = new(device, maxQueryTokens: tokens);
        using LatentAttention.SingleDecode decode = new(device);
        using LatentAttention.Key k = LatentAttention.AllocateKey(device, tokens);
        using LatentAttention.Value v = LatentAttention.AllocateValue(device, tokens);
        using LatentAttention.Query q = LatentAttention.AllocateQuery(device, tokens);
        using LatentAttention.Output o = LatentAttention.AllocateOutput(device, tokens);
        using LatentAttention.Lse2 l = LatentAttention.AllocateLse2(device, tokens);
        k.CopyFrom(key);
        v.CopyFrom(value);
        q.CopyFrom(query);

        ragged.Plan([0, tokens], [0, tokens]);
        using LatentAttention.Output first = ragged.Run(q, k, v);
        prefill.Run(q, k, v, o, smScale: 0.25f, causal: false);
        prefill.Run(q, k, v, o, l);
        using LatentAttention.Output second = prefill.Run(q, k, v);

        LatentAttention.Query last = new(q.View.Rows(tokens - 1, 1));
        using LatentAttention.Lse2 lastLse = LatentAttention.AllocateLse2(device, 1);
        using LatentAttention.Output third = decode.Run(last, k, v);
        decode.Run(last, k, v, third, lastLse);
        return (first.ToArray(), second.ToArray(), third.ToArray(), lastLse.ToArray());
    }
}
