namespace FlashInfer.Tests;

/// <summary>What a quantised cache does with its scales, on any device.</summary>
internal static class QuantisedScenario
{
    private const int HeadDim = 64;

    /// <summary>Every 16-bit pattern under several scales: what is stored is what the conversion makes of x / scale, bit for bit.</summary>
    public static void StoresEveryPattern(Device device)
    {
        StoresEveryPattern(device, DType.Float16, BitConverter.UInt16BitsToHalf, x => (float)x);
        StoresEveryPattern(device, DType.BFloat16, BFloat16.FromBits, x => x);
    }

    /// <summary>
    /// Scales that are set between two runs count in the next one, with the same plan: values' scales in the output, and keys' scales
    /// exactly as smScale does.
    /// </summary>
    public static void ScalesApplyToWhatIsStored(Device device)
    {
        int seed = Random.Shared.Next();
        Random random = new(seed);
        AttentionSpec spec = new(4, 2, HeadDim, 16, DType.Float16, DType.Float8E4M3);
        using PagedKvCache cache = new(device, spec, layers: 2, pages: 64);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Sequence sequence = cache.NewSequence();
        using DeviceTensor<Half> tokens = device.Allocate<Half>(700, 2, HeadDim);
        using DeviceTensor<Half> query = device.Allocate<Half>(1, 4, HeadDim);
        using DeviceTensor<Half> output = device.Allocate<Half>(1, 4, HeadDim);
        using DeviceTensor<float> lse = device.Allocate<float>(1, 4);
        tokens.CopyFrom(Draw(tokens.Shape));
        query.CopyFrom(Draw(query.Shape));
        cache.SetScales(1, [0.02f, 0.01f], [0.01f, 0.02f]);
        cache.BeginForward(sequence, 700);
        cache.Append(1, [sequence], tokens, tokens);
        cache.EndForward(sequence);

        decode.Plan([sequence], smScale: 0.25f);
        (float[] first, float[] firstLse) = Run();
        cache.SetScales(1, [0.02f, 0.01f], [0.02f, 0.04f]);
        (float[] doubled, float[] sameLse) = Run();
        Near(first.Select(x => 2 * x), doubled, 2e-3);
        Near(firstLse, sameLse, 1e-5);

        cache.SetScales(1, [0.04f, 0.02f], [0.01f, 0.02f]);
        decode.Plan([sequence], smScale: 0.125f);
        (float[] same, sameLse) = Run();
        Near(first, same, 2e-3);
        Near(firstLse, sameLse, 1e-5);

        // The other layer has its own, never set.
        Assert.Equal([1f, 1f], cache.KeyScales(0).ToArray());
        Assert.Equal([0.04f, 0.02f], cache.KeyScales(1).ToArray());
        Assert.Equal([0.01f, 0.02f], cache.ValueScales(1).ToArray());

        Half[] Draw(TensorShape shape) =>
            [.. Enumerable.Range(0, (int)shape.Elements).Select(_ => (Half)((random.NextSingle() - 0.5f) * 4))];

        (float[] Output, float[] Lse) Run()
        {
            decode.Run(1, query.View, output.View, lse.View);
            return ([.. output.ToArray().Select(x => (float)x)], lse.ToArray());
        }

        void Near(IEnumerable<float> expected, float[] actual, double tolerance)
        {
            foreach ((float e, float a) in expected.Zip(actual))
            {
                Assert.True(Math.Abs(e - a) <= tolerance * Math.Max(0.1, Math.Abs(e)), $"{a:r} instead of {e:r}, seed {seed}");
            }
        }
    }

    private static void StoresEveryPattern<T>(Device device, DType dtype, Func<ushort, T> fromBits, Func<T, float> widen)
        where T : unmanaged
    {
        const int Tokens = 65_536 / HeadDim;
        const int KvHeads = 4;
        float[] scales = [1f, 0.0371f, 1e-38f, 3e30f];
        T[] patterns = new T[Tokens * KvHeads * HeadDim];
        for (int i = 0; i < patterns.Length; i++)
        {
            patterns[i] = fromBits((ushort)((i / HeadDim / KvHeads * HeadDim) + (i % HeadDim)));
        }

        foreach (DType kvDtype in (DType[])[DType.Float8E4M3, DType.Float8E5M2])
        {
            Func<float, byte> round = kvDtype == DType.Float8E4M3 ? x => ((Float8E4M3)x).Bits : x => ((Float8E5M2)x).Bits;
            using PagedKvCache cache = new(device, new AttentionSpec(KvHeads, KvHeads, HeadDim, Tokens, dtype, kvDtype), 1, 1);
            using DeviceTensor<T> tokens = device.Allocate<T>(Tokens, KvHeads, HeadDim);
            tokens.CopyFrom(patterns);
            cache.SetScales(0, scales, [.. scales.Reverse()]);
            Sequence sequence = cache.NewSequence();
            cache.BeginForward(sequence, Tokens);
            cache.Append(0, [sequence], tokens, tokens);
            cache.EndForward(sequence);
            Check(Bits(cache.KeyPages(0)), scales, "key");
            Check(Bits(cache.ValuePages(0)), [.. scales.Reverse()], "value");

            void Check(byte[] stored, float[] scales, string what)
            {
                for (int i = 0; i < stored.Length; i++)
                {
                    float value = widen(patterns[i]);
                    float scale = scales[i / HeadDim % KvHeads];
                    byte expected = round(value / scale);

                    // One NaN is as good as another.
                    bool isSame = stored[i] == expected || (float.IsNaN(value) && IsNaN(stored[i]));
                    Assert.True(isSame, $"{what} {value:r} / {scale:r} is stored as {kvDtype} 0x{stored[i]:X2}, expected 0x{expected:X2}");
                }
            }

            bool IsNaN(byte bits) =>
                kvDtype == DType.Float8E4M3 ? Float8E4M3.IsNaN(Float8E4M3.FromBits(bits)) : Float8E5M2.IsNaN(Float8E5M2.FromBits(bits));
        }
    }

    private static byte[] Bits(TensorView pages) =>
        pages.Dtype == DType.Float8E4M3
            ? [.. pages.As<Float8E4M3>().ToArray().Select(x => x.Bits)]
            : [.. pages.As<Float8E5M2>().ToArray().Select(x => x.Bits)];
}
