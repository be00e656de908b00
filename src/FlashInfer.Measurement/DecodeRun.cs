namespace FlashInfer.Measurement;

/// <summary>
/// A case of decode made ready: a launch per layer, layers cycling through more memory than the processor's caches hold. The device does
/// nothing else meanwhile.
/// </summary>
internal sealed class DecodeRun : IDisposable
{
    private readonly List<IDisposable> _owned = [];
    private readonly Workload _workload;
    private readonly IRound _round;

    public DecodeRun(Device device, Rig rig, DecodeCase measured)
    {
        Case = measured;
        AttentionSpec spec = measured.Spec;
        int rows = measured.Lengths.Length * measured.QueryTokens;
        try
        {
            _workload = Own(new Workload(device, rig, spec, measured.Lengths, rig.RotatedBytes));
            BatchDecodeWithPagedKvCache decode = Own(
                new BatchDecodeWithPagedKvCache(
                    _workload.Cache,
                    maxQueryTokens: measured.QueryTokens,
                    determinism: measured.IsBatchInvariant ? Determinism.BatchInvariant : Determinism.Reproducible
                )
            );
            DeviceTensor query = Own(device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim));
            DeviceTensor output = Own(device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim));
            rig.Fill(query.View, 99);
            decode.Plan(_workload.Sequences, [.. measured.Lengths.Select(_ => measured.QueryTokens)]);
            decode.Run(0, query.View, output.View);
            Error = SampledError.Of(
                spec,
                query.View,
                output.View,
                SampledError.Few(measured.Lengths.Length).Select(i => _workload.Sample(i, i * measured.QueryTokens, measured.QueryTokens))
            );
            _round = Own(rig.Rounds(_workload.Cache.Layers, layer => decode.Run(layer, query.View, output.View)));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public DecodeCase Case { get; }

    /// <summary>Against fp64 attention.</summary>
    public SampledError Error { get; }

    /// <summary>The case for the results file, measured.</summary>
    public Row Measure(Ceilings ceilings)
    {
        Timing timing = Timing.OfFive(_round.Us);
        double flops = Case.Flops;
        return new Row("decode", Case.Name, _workload.Params(Case.Variant, Case.QueryTokens))
        {
            GBps = _workload.KvBytes / timing.Us / 1e3,
            Tflops = flops / timing.Us / 1e6,
            FractionOfCeiling = ceilings.Us(_workload.KvBytes, flops) / timing.Us,
            BoundBy = ceilings.BoundBy(_workload.KvBytes, flops),
            RelError = Error.Relative,
            MaxAbsError = Error.MaxAbs,
        }.With(timing);
    }

    public void Dispose()
    {
        // A graph goes before what it uses.
        for (int i = _owned.Count - 1; i >= 0; i--)
        {
            _owned[i].Dispose();
        }
    }

    private T Own<T>(T owned)
        where T : IDisposable
    {
        _owned.Add(owned);
        return owned;
    }
}
