using FlashInfer.Cpu;
using FlashInfer.Tests.BadInput;

namespace FlashInfer.Tests.KvCache;

/// <summary>The scales of a quantised cache: what they do, and which are refused.</summary>
public sealed class QuantisedCacheTests : IDisposable
{
    private readonly Device _device = Device.OpenCpu();

    public void Dispose() => _device.Dispose();

    [Fact]
    public void Every_pattern_is_stored_as_its_quotient_rounds() => QuantisedScenario.StoresEveryPattern(_device);

    [Fact]
    public void Scales_apply_to_what_is_stored() => QuantisedScenario.ScalesApplyToWhatIsStored(_device);

    [Fact]
    public void Scales_are_ones_until_set_and_part_of_the_caches_bytes()
    {
        AttentionSpec spec = new(6, 3, 96, 16, DType.BFloat16, DType.Float8E5M2);
        using PagedKvCache cache = new(_device, spec, layers: 2, pages: 10);
        using PagedKvCache plain = new(_device, new AttentionSpec(6, 3, 96, 16, DType.BFloat16), layers: 2, pages: 10);

        for (int layer = 0; layer < 2; layer++)
        {
            Assert.Equal([1f, 1f, 1f], cache.KeyScales(layer).ToArray());
            Assert.Equal([1f, 1f, 1f], cache.ValueScales(layer).ToArray());
        }

        // Half of the elements' bytes, and 2 * layers scales for 3 heads at multiples of 16 bytes.
        long elements = 2L * 2 * 10 * 16 * 3 * 96;
        Assert.Equal(elements - (2 * 2 * 16), plain.Bytes - cache.Bytes);
        Assert.Equal((DType.Float8E5M2, new TensorShape(10, 16, 3, 96)), (cache.KeyPages(1).Dtype, cache.KeyPages(1).Shape));
    }

    [Fact]
    public void A_cache_and_its_scales_are_freed_together()
    {
        int before = ((CpuBackend)_device.Backend).LiveAllocations;
        PagedKvCache cache = new(_device, new AttentionSpec(1, 1, 64, 16, DType.Float16, DType.Float8E4M3), 1, 1);
        TensorView<float> scales = cache.KeyScales(0);
        cache.Dispose();

        Assert.Equal(before, ((CpuBackend)_device.Backend).LiveAllocations);
        Assert.Throws<ObjectDisposedException>(() => scales.ToArray());
        Assert.Throws<ObjectDisposedException>(() => cache.SetScales(0, 1, 1));
        Assert.Throws<ObjectDisposedException>(() => cache.KeyScales(0));
    }

    [Fact]
    public void Bad_scales_are_refused_and_change_nothing()
    {
        using PagedKvCache cache = new(_device, new AttentionSpec(4, 2, 64, 16, DType.Float16, DType.Float8E4M3), layers: 2, pages: 1);
        cache.SetScales(1, [0.5f, 2f], [3f]);
        foreach (float bad in (float[])[0, -1, float.NaN, float.PositiveInfinity, float.NegativeInfinity])
        {
            Refused.Range(
                "keyScales",
                $"Scale 1 of keyScales is {bad}; expected a finite number above 0",
                () => cache.SetScales(1, [1f, bad], [1f])
            );
            Refused.Range(
                "valueScales",
                $"Scale 0 of valueScales is {bad}; expected a finite number above 0",
                () => cache.SetScales(1, 7f, bad)
            );
        }

        Refused.Argument(
            "keyScales",
            "keyScales has 3 scales; expected 2, one for each KV head, or 1 for all of them.",
            () => cache.SetScales(1, [1f, 1f, 1f], [1f])
        );
        Refused.Argument("valueScales", "valueScales has 0 scales; expected 2", () => cache.SetScales(1, [1f], []));
        Refused.Range("layer", "The cache has 2 layers; expected 0 to 1.", () => cache.SetScales(2, 1f, 1f));
        Refused.Range("layer", "The cache has 2 layers; expected 0 to 1.", () => cache.ValueScales(-1));
        Assert.Equal([0.5f, 2f], cache.KeyScales(1).ToArray());
        Assert.Equal([3f, 3f], cache.ValueScales(1).ToArray());
    }

    [Fact]
    public void A_cache_of_16_bits_has_no_scales()
    {
        using PagedKvCache cache = new(_device, new AttentionSpec(4, 2, 64, 16, DType.Float16), layers: 1, pages: 1);
        const string Message = "The cache holds Float16, which has no scales";
        Refused.Operation(Message, () => cache.SetScales(0, 1f, 1f));
        Refused.Operation(Message, () => cache.SetScales(0, [1f, 1f], [1f, 1f]));
        Refused.Operation(Message, () => cache.KeyScales(0));
        Refused.Operation(Message, () => cache.ValueScales(0));
    }

    [Fact]
    public void What_is_appended_has_16_bits()
    {
        using PagedKvCache cache = new(_device, new AttentionSpec(4, 2, 64, 16, DType.Float16, DType.Float8E4M3), layers: 1, pages: 1);
        using DeviceTensor<Float8E4M3> quantised = _device.Allocate<Float8E4M3>(1, 2, 64);
        using DeviceTensor<Half> tokens = _device.Allocate<Half>(1, 2, 64);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 1);
        Refused.Argument(
            "key",
            "key is Float8E4M3[1, 2, 64]; expected Float16[1, 2, 64].",
            () => cache.Append(0, [sequence], quantised, tokens)
        );
        cache.Append(0, [sequence], tokens, tokens);
    }
}
