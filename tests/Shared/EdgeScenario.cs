namespace FlashInfer.Tests;

/// <summary>
/// Results that follow without arithmetic, through every class: one key, no key, logits beyond what an exponential takes, a window that holds everything. Outputs
/// are exact.
/// </summary>
internal sealed class EdgeScenario(Device device, AttentionSpec spec)
{
    private const float Query = 64;

    public static void Check(Device device)
    {
        foreach (DType dtype in (DType[])[DType.Float16, DType.BFloat16])
        {
            foreach ((int heads, int kvHeads, int headDim, int pageSize) in ((int, int, int, int)[])[(32, 8, 128, 16), (4, 4, 64, 1)])
            {
                new EdgeScenario(device, new AttentionSpec(heads, kvHeads, headDim, pageSize, dtype)).CheckKeys();
                foreach (AttentionOptions options in (AttentionOptions[])[AttentionOptions.CustomMask, AttentionOptions.SlidingWindow])
                {
                    AttentionOptions both = options | AttentionOptions.Sinks;
                    AttentionVariant variant = AttentionVariant.Of(both)!;
                    new EdgeScenario(device, new AttentionSpec(heads, kvHeads, headDim, pageSize, dtype, variant: variant)).CheckOptions(
                        both
                    );
                }
            }
        }
    }

    private void CheckKeys()
    {
        double logit = -Query * Query * spec.HeadDim / Math.Sqrt(spec.HeadDim) * Math.Log2(Math.E);

        // One key: its value, whatever the logit. Of 34 query tokens the last sees it, the others nothing.
        foreach (int queryTokens in (int[])[1, 34])
        {
            All(
                [-1],
                queryTokens,
                (outputs, lses) =>
                {
                    for (int row = 0; row < queryTokens; row++)
                    {
                        bool sees = row == queryTokens - 1;
                        Assert.All(outputs[row], x => Assert.Equal(sees ? 1 : 0, x));
                        Assert.All(lses[row], x => Assert.Equal(sees ? logit : double.NegativeInfinity, x, Math.Abs(logit) * 1e-5));
                    }
                }
            );
        }

        // The largest logit takes all, wherever it stands: the others differ by more than a float's exponent.
        foreach (int length in (int[])[2, 65, 300])
        {
            foreach (int at in (int[])[0, length / 2, length - 1])
            {
                float[] signs = [.. Enumerable.Range(0, length).Select(i => i == at ? 1f : -1f)];
                All(
                    signs,
                    1,
                    (outputs, lses) =>
                    {
                        Assert.All(outputs[0], x => Assert.Equal(at + 1, x));
                        Assert.All(lses[0], x => Assert.Equal(-logit, x, Math.Abs(logit) * 1e-5));
                    }
                );
            }
        }
    }

    private void CheckOptions(AttentionOptions options)
    {
        // A mask that hides all: nothing but the sink, which has no value.
        float[] signs = [.. Enumerable.Repeat(-1f, 70)];
        float[] sinks = [.. Enumerable.Range(0, spec.Heads).Select(head => head * 0.25f)];
        if (options.HasFlag(AttentionOptions.CustomMask))
        {
            All(
                signs,
                3,
                (outputs, lses) =>
                {
                    Assert.All(outputs, row => Assert.All(row, x => Assert.Equal(0, x)));
                    Assert.All(
                        lses,
                        row => Assert.Equal(sinks.Select(sink => sink * Math.Log2(Math.E)), row, (a, b) => Math.Abs(a - b) < 1e-4)
                    );
                },
                () => new OptionArguments { CustomMask = new bool[3 * 70], Sinks = sinks }
            );
            return;
        }

        // A window larger than the sequence is none, bit for bit.
        List<(float[][] Outputs, double[][] Lses)> results = [];
        foreach (int window in (int[])[-1, 69, int.MaxValue])
        {
            All(
                [.. Enumerable.Range(0, 70).Select(i => (i % 7) / 4096f)],
                3,
                (outputs, lses) => results.Add((outputs, lses)),
                () => new OptionArguments { WindowLeft = window, Sinks = sinks }
            );
        }

        int each = results.Count / 3;
        for (int i = 0; i < results.Count; i++)
        {
            Assert.Equal(results[i % each].Outputs, results[i].Outputs);
            Assert.Equal(results[i % each].Lses, results[i].Lses);
        }
    }

    private delegate OptionArguments Arguments();

    /// <summary>By every class. Key i is its sign times the query, value i is i + 1.</summary>
    private void All(float[] signs, int queryTokens, Action<float[][], double[][]> check, Arguments? arguments = null)
    {
        float[] keys = Fill(signs.Length, spec.KvHeads, token => signs[token] * Query);
        float[] values = Fill(signs.Length, spec.KvHeads, token => token + 1);
        float[] queries = Fill(queryTokens, spec.Heads, _ => Query);
        using DeviceTensor key = device.Allocate(spec.Dtype, signs.Length, spec.KvHeads, spec.HeadDim);
        using DeviceTensor value = device.Allocate(spec.Dtype, signs.Length, spec.KvHeads, spec.HeadDim);
        using DeviceTensor query = device.Allocate(spec.Dtype, queryTokens, spec.Heads, spec.HeadDim);
        using DeviceTensor output = device.Allocate(spec.Dtype, queryTokens, spec.Heads, spec.HeadDim);
        using DeviceTensor<float> lse = device.Allocate<float>(queryTokens, spec.Heads);
        key.View.CopyFrom(keys);
        value.View.CopyFrom(values);
        query.View.CopyFrom(queries);

        using PagedKvCache cache = new(device, spec, 1, (signs.Length + spec.PageSize - 1) / spec.PageSize);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, signs.Length);
        cache.Append(0, [sequence], key.View, value.View);
        cache.EndForward(sequence);
        using (BatchPrefillWithPagedKvCache paged = new(cache, 1, queryTokens))
        {
            if (arguments is null)
            {
                paged.Plan([sequence], [queryTokens]);
            }
            else
            {
                paged.Plan([sequence], [queryTokens], new VariantArguments<OptionArguments>(arguments()));
            }

            Checked(() => paged.Run(0, query.View, output.View, lse.View));
        }

        if (queryTokens <= 8)
        {
            using BatchDecodeWithPagedKvCache decode = new(cache, 1, queryTokens);
            if (arguments is null)
            {
                decode.Plan([sequence], [queryTokens]);
            }
            else
            {
                decode.Plan([sequence], [queryTokens], new VariantArguments<OptionArguments>(arguments()));
            }

            Checked(() => decode.Run(0, query.View, output.View, lse.View));
        }

        using SinglePrefill single = new(device, spec, queryTokens);
        Checked(() =>
        {
            if (arguments is null)
            {
                single.Run(query.View, key.View, value.View, output.View, lse.View);
            }
            else
            {
                VariantArguments<OptionArguments> given = new(arguments());
                single.Run(query.View, key.View, value.View, given, output.View, lse.View);
            }
        });

        void Checked(Action run)
        {
            float[] poison = new float[queries.Length];
            poison.AsSpan().Fill(float.NaN);
            output.View.CopyFrom(poison);
            run();
            float[] outputs = new float[queries.Length];
            output.View.CopyTo(outputs);
            check([.. outputs.Chunk(spec.Heads * spec.HeadDim)], [.. lse.ToArray().Select(x => (double)x).Chunk(spec.Heads)]);
        }
    }

    private float[] Fill(int rows, int heads, Func<int, float> of) =>
        [.. Enumerable.Range(0, rows).SelectMany(row => Enumerable.Repeat(of(row), heads * spec.HeadDim))];
}
