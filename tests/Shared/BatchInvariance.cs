namespace FlashInfer.Tests;

/// <summary>Sequences alone and in batches of all kinds, on the same data: with batch invariance their results have the same bits.</summary>
internal static class BatchInvariance
{
    /// <param name="device">The device.</param>
    /// <param name="spec">The configuration, of BFloat16.</param>
    /// <param name="maxQueryTokens">The most query tokens of a sequence.</param>
    /// <param name="prefill">Whether by the wrapper of prefill.</param>
    /// <param name="comparisons">Results compared at least.</param>
    public static void Check(Device device, AttentionSpec spec, int maxQueryTokens, bool prefill = false, int comparisons = 150)
    {
        int seed = System.Random.Shared.Next();
        Random random = new(seed);
        int[] lengths = [3000, 1, 1025, 40, 0, 1024, 700, 2049];
        using PagedKvCache cache = new(device, spec, 1, lengths.Sum(length => (length + spec.PageSize - 1) / spec.PageSize));
        using IPagedWrapper wrapper = prefill
            ? new PrefillWrapper(cache, 64, 64 * maxQueryTokens, Determinism.BatchInvariant)
            : new DecodeWrapper(cache, 64, maxQueryTokens, Determinism.BatchInvariant);
        Sequence[] sequences = [.. lengths.Select(_ => cache.NewSequence())];
        Sequence[] filled = [.. sequences.Where((_, i) => lengths[i] > 0)];
        cache.BeginForward(filled, [.. lengths.Where(length => length > 0)]);
        using (DeviceTensor<BFloat16> tokens = Draw(device, random, lengths.Sum(), spec.KvHeads, spec.HeadDim))
        {
            cache.Append(0, filled, tokens.View, tokens.View);
        }

        cache.EndForward(filled);
        int[] queryTokens = [.. lengths.Select((_, i) => prefill ? maxQueryTokens - (17 * i % maxQueryTokens) : 1 + (i % maxQueryTokens))];
        using DeviceTensor<BFloat16> query = Draw(device, random, lengths.Length * maxQueryTokens, spec.Heads, spec.HeadDim);

        (string Output, string Lse)[] alone = [.. Enumerable.Range(0, lengths.Length).Select(i => Run([i])[0])];
        for (int compared = 0; compared < comparisons; )
        {
            // Any members in any order, short ones more than once: many, as that moves what a block does.
            int[] batch =
            [
                .. Enumerable.Range(0, lengths.Length).Where(_ => random.Next(3) != 0),
                .. Enumerable.Repeat(3, random.Next(40)),
            ];
            random.Shuffle(batch);
            (string Output, string Lse)[] together = batch.Length == 0 ? [] : Run(batch);
            compared += batch.Length;
            for (int i = 0; i < batch.Length; i++)
            {
                Assert.True(
                    alone[batch[i]] == together[i],
                    $"seed {seed}: length {lengths[batch[i]]} differs in [{string.Join(", ", batch)}]"
                );
            }
        }

        (string, string)[] Run(int[] batch)
        {
            int[] tokens = [.. batch.Select(i => queryTokens[i])];
            int row = spec.Heads * spec.HeadDim;
            using DeviceTensor<BFloat16> packed = device.Allocate<BFloat16>(tokens.Sum(), spec.Heads, spec.HeadDim);
            using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(tokens.Sum(), spec.Heads, spec.HeadDim);
            using DeviceTensor<float> lse = device.Allocate<float>(tokens.Sum(), spec.Heads);
            BFloat16[] queries = query.View.ToArray();
            packed.View.CopyFrom([.. batch.SelectMany((i, n) => queries.Skip(i * maxQueryTokens * row).Take(tokens[n] * row))]);
            wrapper.Plan([.. batch.Select(i => sequences[i])], tokens);
            wrapper.Run(0, packed.View, output.View, lse.View);
            BFloat16[] outputs = output.View.ToArray();
            float[] lses = lse.View.ToArray();
            int[] first = [.. tokens.Select((_, n) => tokens[..n].Sum())];
            return
            [
                .. batch.Select(
                    (_, n) =>
                        (
                            string.Join(' ', outputs.Skip(first[n] * row).Take(tokens[n] * row).Select(x => x.Bits)),
                            string.Join(' ', lses.Skip(first[n] * spec.Heads).Take(tokens[n] * spec.Heads))
                        )
                ),
            ];
        }
    }

    private static DeviceTensor<BFloat16> Draw(Device device, Random random, int rows, int heads, int headDim)
    {
        DeviceTensor<BFloat16> tensor = device.Allocate<BFloat16>(rows, heads, headDim);
        tensor.View.CopyFrom([.. Enumerable.Range(0, (int)tensor.Shape.Elements).Select(_ => (BFloat16)((random.NextSingle() * 4) - 2))]);
        return tensor;
    }
}
