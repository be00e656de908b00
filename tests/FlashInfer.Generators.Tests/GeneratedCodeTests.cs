extern alias runtime;

using FlashInfer.GenerationSandbox;
using BFloat16 = runtime::FlashInfer.BFloat16;
using Device = runtime::FlashInfer.Device;
using Float8E4M3 = runtime::FlashInfer.Float8E4M3;

namespace FlashInfer.Generators.Tests;

/// <summary>Generated code at work on the CPU device. Numerics are the runtime's tests' business; here the shells are to pass all through.</summary>
public sealed class GeneratedCodeTests : IDisposable
{
    private readonly Device _device = Device.OpenCpu();

    public void Dispose() => _device.Dispose();

    [Fact]
    public void A_decode_step_over_one_token_gives_that_tokens_value()
    {
        Random random = new(1);
        BFloat16[] key = Values(random, RootAttention.KvHeads * RootAttention.HeadDim);
        BFloat16[] value = Values(random, RootAttention.KvHeads * RootAttention.HeadDim);
        BFloat16[] query = Values(random, RootAttention.Heads * RootAttention.HeadDim);
        BFloat16[] output = new BFloat16[query.Length];
        float[] lse = new float[RootAttention.Heads];
        DecodeStep.Run(_device, key, value, query, output, lse);

        for (int head = 0; head < RootAttention.Heads; head++)
        {
            int kvHead = head / RootAttention.GroupSize;
            double dot = 0;
            for (int i = 0; i < RootAttention.HeadDim; i++)
            {
                float k = (float)key[(kvHead * RootAttention.HeadDim) + i];
                dot += k * (double)(float)query[(head * RootAttention.HeadDim) + i];
                Assert.Equal((float)value[(kvHead * RootAttention.HeadDim) + i], (float)output[(head * RootAttention.HeadDim) + i]);
            }

            // One score: the log-sum-exp is that score, in base 2.
            Assert.Equal(dot / Math.Sqrt(RootAttention.HeadDim) * Math.Log2(Math.E), lse[head], 1e-4);
        }
    }

    [Fact]
    public void A_prefill_step_gives_the_same_over_pages_and_without()
    {
        Random random = new(3);
        const int Tokens = 21 + 9;
        BFloat16[] key = Values(random, Tokens * RootAttention.KvHeads * RootAttention.HeadDim);
        BFloat16[] value = Values(random, Tokens * RootAttention.KvHeads * RootAttention.HeadDim);
        BFloat16[] query = Values(random, Tokens * RootAttention.Heads * RootAttention.HeadDim);
        BFloat16[] paged = new BFloat16[query.Length];
        BFloat16[] ragged = new BFloat16[query.Length];
        float[] lse = new float[Tokens * RootAttention.Heads];
        PrefillStep.Run(_device, (21, 9), key, value, query, paged, ragged, lse);

        Assert.Equal(paged, ragged);
        // The first token of each prompt sees itself only.
        foreach (int token in (int[])[0, 21])
        {
            for (int head = 0; head < RootAttention.Heads; head++)
            {
                int kv = ((token * RootAttention.KvHeads) + (head / RootAttention.GroupSize)) * RootAttention.HeadDim;
                int row = ((token * RootAttention.Heads) + head) * RootAttention.HeadDim;
                Assert.Equal(value[kv..(kv + RootAttention.HeadDim)], paged[row..(row + RootAttention.HeadDim)]);
            }
        }

        Assert.All(lse, x => Assert.True(float.IsFinite(x)));
    }

    [Fact]
    public void Values_of_another_size_and_one_sequence_without_a_plan()
    {
        Random random = new(4);
        const int Tokens = 19;
        const int Row = 4 * 128;
        BFloat16[] key = Values(random, Tokens * 4 * 192);
        BFloat16[] value = Values(random, Tokens * Row);
        (BFloat16[] ragged, BFloat16[] single, BFloat16[] decoded, float[] lse) = SingleStep.Run(
            _device,
            Tokens,
            key,
            value,
            Values(random, Tokens * 4 * 192)
        );

        Assert.Equal((4 * 128 * Tokens, Row), (ragged.Length, decoded.Length));
        Assert.Equal(value[..Row], ragged[..Row]);
        Assert.Equal(ragged, single);
        Assert.Equal(ragged[^Row..], decoded);
        Assert.All(lse, x => Assert.True(float.IsFinite(x)));
    }

    [Fact]
    public void A_quantised_cache_takes_16_bit_tokens_and_keeps_8_bit_ones()
    {
        Random random = new(2);
        BFloat16[] key = Values(random, QuantisedAttention.KvHeads * QuantisedAttention.HeadDim);
        float[] scales = [.. Enumerable.Range(1, QuantisedAttention.KvHeads).Select(static head => head / 3f)];

        Float8E4M3[] stored = DecodeStep.Quantise(_device, key, key, scales);

        Assert.Equal(key.Select((k, i) => (Float8E4M3)((float)k / scales[i / QuantisedAttention.HeadDim])), stored);
    }

    [Fact]
    public async Task Kernels_of_all_configurations_warm_up() => await DecodeStep.WarmupAsync(_device, CancellationToken.None);

    [Fact]
    public void A_tensor_tells_its_role_and_shape()
    {
        using RootAttention.Query query = RootAttention.AllocateQuery(_device, 3);
        Assert.Equal(3, query.Tokens);
        Assert.Equal("[3, 32, 128]", query.Shape.ToString());
        Assert.StartsWith("RootAttention.Query BFloat16[3, 32, 128] on ", query.ToString(), StringComparison.Ordinal);
        using RootAttention.Lse2 lse = RootAttention.AllocateLse2(_device, 0);
        Assert.Equal("[0, 32]", lse.Shape.ToString());
    }

    [Fact]
    public void Values_come_back_as_an_array_and_an_lse_as_natural_logarithms_too()
    {
        using RootAttention.Lse2 lse = RootAttention.AllocateLse2(_device, 1);
        float[] values = new float[RootAttention.Heads];
        values.AsSpan().Fill(float.NegativeInfinity);
        values[1] = 2;
        lse.CopyFrom(values);

        Assert.Equal(values, lse.ToArray());
        float[] natural = lse.ToNaturalLog();
        Assert.Equal(RootAttention.Heads, natural.Length);
        Assert.Equal(float.NegativeInfinity, natural[0]);
        Assert.Equal(1.38629436f, natural[1]);
    }

    [Fact]
    public void A_view_of_another_shape_is_refused()
    {
        using var memory = _device.Allocate<BFloat16>(3, RootAttention.KvHeads, RootAttention.HeadDim);
        RootAttention.Key key = new(memory.View);
        Assert.Equal(3, key.Tokens);
        ArgumentException error = Assert.Throws<ArgumentException>(() => new RootAttention.Query(memory.View));
        Assert.Contains("[3, 8, 128]", error.Message, StringComparison.Ordinal);
        Assert.Contains("[any, 32, 128]", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => new RootAttention.Value(default));
    }

    [Fact]
    public void Only_the_owner_frees()
    {
        BFloat16[] host = new BFloat16[RootAttention.KvHeads * RootAttention.HeadDim];
        RootAttention.Key owner = RootAttention.AllocateKey(_device, 1);
        new RootAttention.Key(owner.View).Dispose();
        owner.CopyFrom(host);
        owner.Dispose();
        owner.Dispose();
        Assert.Throws<ObjectDisposedException>(() => owner.CopyFrom(host));
        default(RootAttention.Key).Dispose();
    }

    [Fact]
    public void A_run_without_a_plan_fails_in_the_overload_that_allocates_too()
    {
        using RootAttention.PagedKvCache cache = new(_device, layers: 1, pages: 1);
        using RootAttention.BatchDecodeWithPagedKvCache decode = new(cache, maxSequences: 1);
        using RootAttention.Query query = RootAttention.AllocateQuery(_device, 1);
        Assert.Throws<runtime::FlashInfer.StalePlanException>(() => decode.Run(0, query));
    }

    [Fact]
    public void Null_is_named()
    {
        Assert.Throws<ArgumentNullException>("device", () => RootAttention.AllocateQuery(null!, 1));
        Assert.Throws<ArgumentNullException>(
            "device",
            () =>
            {
                _ = RootAttention.WarmupAsync(null!);
            }
        );
        Assert.Throws<ArgumentNullException>("device", () => new RootAttention.PagedKvCache(null!, 1, 1));
        Assert.Throws<ArgumentNullException>("cache", () => new RootAttention.BatchDecodeWithPagedKvCache(null!));
    }

    private static BFloat16[] Values(Random random, int count) =>
        [.. Enumerable.Range(0, count).Select(_ => (BFloat16)(float)(random.NextDouble() - 0.5))];
}
