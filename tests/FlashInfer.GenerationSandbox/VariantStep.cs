using FlashInfer.Tests.Variants;

namespace FlashInfer.GenerationSandbox;

/// <summary>Plans of configurations with a variant of attention: all overloads.</summary>
public static class VariantStep
{
    /// <summary>Prefills and decodes with a relative bias.</summary>
    /// <param name="device">The device.</param>
    /// <param name="documents">The document of each token.</param>
    /// <param name="key">[tokens, 8, 128].</param>
    /// <param name="value">[tokens, 8, 128].</param>
    /// <param name="query">[tokens, 32, 128].</param>
    /// <returns>
    /// Outputs of a prefill over pages, of one over ragged keys and values, of one without a plan, and of the last token's decode, with a
    /// plan and without.
    /// </returns>
    public static (BFloat16[] Paged, BFloat16[] Ragged, BFloat16[] Single, BFloat16[] Decoded, BFloat16[] SingleDecoded) Run(
        Device device,
        ReadOnlySpan<int> documents,
        ReadOnlySpan<BFloat16> key,
        ReadOnlySpan<BFloat16> value,
        ReadOnlySpan<BFloat16> query
    )
    {
        int tokens = documents.Length;
        using DocumentMaskAttention.PagedKvCache cache = new(device, layers: 1, pages: 8);
        using DocumentMaskAttention.BatchPrefillWithPagedKvCache paged = new(cache);
        using DocumentMaskAttention.BatchPrefillWithRaggedKvCache ragged = new(device);
        using DocumentMaskAttention.BatchDecodeWithPagedKvCache decode = new(cache, maxQueryTokens: 2);
        using DocumentMaskAttention.Key k = DocumentMaskAttention.AllocateKey(device, tokens);
        using DocumentMaskAttention.Value v = DocumentMaskAttention.AllocateValue(device, tokens);
        using DocumentMaskAttention.Query q = DocumentMaskAttention.AllocateQuery(device, tokens);
        k.CopyFrom(key);
        v.CopyFrom(value);
        q.CopyFrom(query);
        DocumentMaskAttention.Arguments arguments = new() { Documents = documents, MaxTokens = tokens };

        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, tokens);
        paged.Plan([sequence], new() { Documents = documents, MaxTokens = tokens });
        paged.Plan([sequence], [tokens], arguments, causal: true);
        paged.Append(0, k, v);
        using DocumentMaskAttention.Output first = paged.Run(0, q);
        ragged.Plan([0, tokens], [0, tokens], arguments);
        using DocumentMaskAttention.Output second = ragged.Run(q, k, v);
        cache.EndForward(sequence);

        using DocumentMaskAttention.Query last = new(q.View.Rows(tokens - 1, 1));
        decode.Plan([sequence], [1], arguments);
        decode.Plan([sequence], arguments);
        using DocumentMaskAttention.Output third = decode.Run(0, last);

        using DocumentMaskAttention.SinglePrefill single = new(device);
        using DocumentMaskAttention.SingleDecode singleDecode = new(device);
        using DocumentMaskAttention.Output fourth = single.Run(q, k, v, arguments);
        using DocumentMaskAttention.Output fifth = singleDecode.Run(last, k, v, arguments);
        return (first.ToArray(), second.ToArray(), fourth.ToArray(), third.ToArray(), fifth.ToArray());
    }
}
