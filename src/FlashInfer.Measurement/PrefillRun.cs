namespace FlashInfer.Measurement;

/// <summary>A case of the prefill benchmark made ready: two sets of buffers with random data, its plan, its launches. The device does nothing else meanwhile.</summary>
internal sealed class PrefillRun : IDisposable
{
    private const int Sets = 2;

    private readonly List<IDisposable> _owned = [];
    private readonly IRound _round;
    private uint _seed;
    private long _stagedTokens;

    public PrefillRun(Device device, Rig rig, PrefillCase measured)
    {
        Case = measured;
        try
        {
            (Error, _round) = Prepare(device, rig);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public PrefillCase Case { get; }

    /// <summary>Against fp64 attention.</summary>
    public SampledError Error { get; }

    /// <summary>The case for the results file, measured alone.</summary>
    public Row Measure(Ceilings ceilings) => ToRow(Timing.OfFive(Us), ceilings);

    /// <summary>The case for the results file.</summary>
    public Row ToRow(Timing timing, Ceilings ceilings)
    {
        Row row = ToRow(Case, timing, ceilings) with { RelError = Error.Relative, MaxAbsError = Error.MaxAbs };
        if (_stagedTokens > 0)
        {
            row.Params["stagedTokens"] = _stagedTokens;
        }

        return row;
    }

    /// <summary>The case for the results file. Against the matrix product of a peer where there was one, as the larger part of its work is one.</summary>
    public static Row ToRow(PrefillCase measured, Timing timing, Ceilings ceilings)
    {
        double least = ceilings.MatmulTflops is { } matmul ? measured.Flops / matmul / 1e6 : ceilings.Us(measured.Bytes, measured.Flops);
        return new Row("prefill", measured.Name, measured.Params)
        {
            GBps = measured.Bytes / timing.Us / 1e3,
            Tflops = measured.Flops / timing.Us / 1e6,
            FractionOfCeiling = least / timing.Us,
            BoundBy = ceilings.MatmulTflops is null ? ceilings.BoundBy(measured.Bytes, measured.Flops) : "math",
        }.With(timing);
    }

    /// <summary>One round: microseconds of a launch.</summary>
    public double Us() => _round.Us();

    public void Dispose()
    {
        // A graph goes before what it uses.
        for (int i = _owned.Count - 1; i >= 0; i--)
        {
            _owned[i].Dispose();
        }
    }

    private (SampledError Error, IRound Round) Prepare(Device device, Rig rig)
    {
        AttentionSpec spec = Case.Spec;
        int rows = Case.QueryTokens.Sum();
        DeviceTensor[] query = Tensors(device, rig, spec.Dtype, rows, spec.Heads, spec.HeadDim);
        DeviceTensor[] output = Tensors(device, rig, spec.Dtype, rows, spec.Heads, spec.ValueDim);
        (Action<int, TensorView, TensorView> run, Func<int, int, SampledSequence> sample) = Case.PageSize is null
            ? Ragged(device, rig)
            : Paged(device, rig);
        run(0, query[0].View, output[0].View);
        int[] firstRows = Starts(Case.QueryTokens);
        SampledError error = SampledError.Of(
            spec,
            query[0].View,
            output[0].View,
            SampledError.Few(Case.Lengths.Length).Select(i => sample(i, firstRows[i]))
        );
        return (error, Own(rig.Rounds(Sets, set => run(set, query[set].View, output[set].View))));
    }

    /// <summary>Where each starts, and where the last one ends.</summary>
    private static int[] Starts(int[] counts)
    {
        int[] starts = new int[counts.Length + 1];
        for (int i = 0; i < counts.Length; i++)
        {
            starts[i + 1] = starts[i] + counts[i];
        }

        return starts;
    }

    private (Action<int, TensorView, TensorView> Run, Func<int, int, SampledSequence> Sample) Paged(Device device, Rig rig)
    {
        // As few layers as there may be: they are the sets of buffers.
        Workload workload = Own(new Workload(device, rig, Case.Spec, Case.Lengths, targetBytes: 0));
        BatchPrefillWithPagedKvCache prefill = Own(
            new BatchPrefillWithPagedKvCache(workload.Cache, Case.Lengths.Length, Case.QueryTokens.Sum())
        );
        prefill.Plan(workload.Sequences, Case.QueryTokens, causal: Case.IsCausal);
        _stagedTokens = prefill.PlanInfo.StagedTokens;
        return (
            (set, query, output) => prefill.Run(set, query, output),
            (sequence, firstRow) => workload.Sample(sequence, firstRow, Case.QueryTokens[sequence], Case.IsCausal)
        );
    }

    private (Action<int, TensorView, TensorView> Run, Func<int, int, SampledSequence> Sample) Ragged(Device device, Rig rig)
    {
        AttentionSpec spec = Case.Spec;
        int[] kvStarts = Starts(Case.Lengths);
        DeviceTensor[] key = Tensors(device, rig, spec.Dtype, kvStarts[^1], spec.KvHeads, spec.HeadDim);
        DeviceTensor[] value = Tensors(device, rig, spec.Dtype, kvStarts[^1], spec.KvHeads, spec.ValueDim);
        BatchPrefillWithRaggedKvCache prefill = Own(
            new BatchPrefillWithRaggedKvCache(device, spec, Case.Lengths.Length, Case.QueryTokens.Sum())
        );
        prefill.Plan(Starts(Case.QueryTokens), kvStarts, causal: Case.IsCausal);
        return (
            (set, query, output) => prefill.Run(query, key[set].View, value[set].View, output),
            (sequence, firstRow) =>
                new SampledSequence(
                    firstRow,
                    Case.QueryTokens[sequence],
                    Case.IsCausal,
                    SampledError.Gather(key[0].View, kvStarts[sequence], Case.Lengths[sequence]),
                    SampledError.Gather(value[0].View, kvStarts[sequence], Case.Lengths[sequence])
                )
        );
    }

    /// <summary>A tensor of random numbers for each set.</summary>
    private DeviceTensor[] Tensors(Device device, Rig rig, DType dtype, params int[] shape)
    {
        DeviceTensor[] tensors = [.. Enumerable.Range(0, Sets).Select(_ => Own(device.Allocate(dtype, shape)))];
        foreach (DeviceTensor tensor in tensors)
        {
            rig.Fill(tensor.View, ++_seed);
        }

        return tensors;
    }

    private T Own<T>(T owned)
        where T : IDisposable
    {
        _owned.Add(owned);
        return owned;
    }
}
