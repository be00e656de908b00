namespace FlashInfer.GenerationSandbox;

/// <summary>One decode step with everything that a generated configuration offers.</summary>
public static class DecodeStep
{
    /// <summary>Compiles the kernels of all configurations.</summary>
    /// <param name="device">The device.</param>
    /// <param name="cancellationToken">Stops waiting.</param>
    public static async Task WarmupAsync(Device device, CancellationToken cancellationToken)
    {
        await RootAttention.WarmupAsync(device, KernelKinds.All, cancellationToken).ConfigureAwait(false);
        await Warmup<HalfAttention>(device).ConfigureAwait(false);
        await Warmup<InternalAttention>(device).ConfigureAwait(false);
        await Warmup<QuantisedAttention>(device).ConfigureAwait(false);
        await Warmup<GlobalAttention>(device).ConfigureAwait(false);
        await Warmup<Models.OddAttention>(device).ConfigureAwait(false);
    }

    /// <summary>Appends one token and attends to it.</summary>
    /// <param name="device">The device.</param>
    /// <param name="key">[1, 8, 128].</param>
    /// <param name="value">[1, 8, 128].</param>
    /// <param name="query">[1, 32, 128].</param>
    /// <param name="output">[1, 32, 128].</param>
    /// <param name="lse">[1, 32].</param>
    public static void Run(
        Device device,
        ReadOnlySpan<BFloat16> key,
        ReadOnlySpan<BFloat16> value,
        ReadOnlySpan<BFloat16> query,
        Span<BFloat16> output,
        Span<float> lse
    )
    {
        using RootAttention.PagedKvCache cache = new(device, layers: 1, pages: 8);
        using RootAttention.BatchDecodeWithPagedKvCache decode = new(cache, maxSequences: 1);
        using RootAttention.Key k = RootAttention.AllocateKey(device, 1);
        using RootAttention.Value v = RootAttention.AllocateValue(device, 1);
        using RootAttention.Query q = RootAttention.AllocateQuery(device, 1);
        using RootAttention.Output o = RootAttention.AllocateOutput(device, 1);
        using RootAttention.Lse2 l = RootAttention.AllocateLse2(device, 1);
        k.CopyFrom(key);
        v.CopyFrom(value);
        q.CopyFrom(query);

        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, tokens: 1);
        cache.Append(0, sequence, k, v);
        cache.Append(0, [sequence], k, v);
        decode.Plan([sequence]);
        decode.Append(0, k, v);
        decode.Run(0, q, o);
        decode.Run(0, q, o, l);
        using RootAttention.Output again = decode.Run(0, q);
        cache.EndForward(sequence);

        o.CopyTo(output);
        l.CopyTo(lse);
    }

    /// <summary>Quantises one token and gives the scales back.</summary>
    /// <param name="device">The device.</param>
    /// <param name="key">[1, 8, 96].</param>
    /// <param name="value">[1, 8, 96].</param>
    /// <param name="scales">Scales of the keys, [8].</param>
    /// <returns>What is stored of the key: [1, 8, 96].</returns>
    public static Float8E4M3[] Quantise(Device device, ReadOnlySpan<BFloat16> key, ReadOnlySpan<BFloat16> value, ReadOnlySpan<float> scales)
    {
        using QuantisedAttention.PagedKvCache cache = new(device, layers: 1, pages: 1);
        using QuantisedAttention.Key k = QuantisedAttention.AllocateKey(device, 1);
        using QuantisedAttention.Value v = QuantisedAttention.AllocateValue(device, 1);
        k.CopyFrom(key);
        v.CopyFrom(value);
        cache.SetScales(0, keyScale: 1f, valueScale: 1f);
        cache.SetScales(0, scales, scales);

        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, tokens: 1);
        cache.Append(0, sequence, k, v);
        cache.EndForward(sequence);
        TensorView<Float8E4M3> pages = cache.KeyPages(0).As<Float8E4M3>();
        return pages.ToArray()[..(QuantisedAttention.KvHeads * QuantisedAttention.HeadDim)];
    }

    /// <summary>Gives memory of somebody else a role.</summary>
    /// <param name="device">The device.</param>
    /// <param name="address">Where it lies.</param>
    /// <param name="tokens">How many tokens it holds.</param>
    public static HalfAttention.Query Borrow(Device device, nint address, int tokens)
    {
        ArgumentNullException.ThrowIfNull(device);
        return new(device.View<Half>(address, [tokens, HalfAttention.Heads, HalfAttention.HeadDim]));
    }

    private static Task Warmup<T>(Device device)
        where T : IAttentionConfig => device.WarmupAsync(T.Spec);
}
