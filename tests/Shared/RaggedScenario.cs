using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>
/// Attention over ragged keys and values through the public API: tensors of all kinds of strides, NaN in their gaps and behind the last row,
/// poisoned outputs. Compares with the oracle on the same rounded inputs.
/// </summary>
internal sealed class RaggedScenario<T>
    where T : unmanaged
{
    private readonly Device _device;
    private readonly DecodeCase _case;
    private readonly RaggedApi _how;
    private readonly Func<float, T> _from;
    private readonly Func<T, float> _to;
    private readonly Random _random;

    public RaggedScenario(Device device, DecodeCase prefillCase, RaggedApi how, Func<float, T> from, Func<T, float> to)
    {
        _how = how;
        _device = device;
        _case = prefillCase;
        _from = from;
        _to = to;
        _random = new Random(prefillCase.Seed * 37);
    }

    /// <summary>Sequences that the plan cut.</summary>
    public int SplitSequences { get; private set; }

    /// <summary>Tokens whose keys the plan staged.</summary>
    public long StagedTokens { get; private set; }

    public ScenarioErrors Run()
    {
        int[] queryTokens = _case.QueryTokens ?? _case.Lengths;
        int[] qoIndptr = Indptr(queryTokens);
        int[] kvIndptr = Indptr(_case.Lengths);
        int rows = qoIndptr[^1];
        int valueDim = _case.ValueDim ?? _case.HeadDim;
        using TestRows<T> query = Rows(rows, _case.Heads, _case.HeadDim, 1);
        using TestRows<T> key = Rows(kvIndptr[^1], _case.KvHeads, _case.HeadDim, _case.Amplitude);
        using TestRows<T> value = Rows(kvIndptr[^1], _case.KvHeads, valueDim, _case.Amplitude);
        using TestRows<T> output = Rows(rows, _case.Heads, valueDim, float.NaN);
        using DeviceTensor<float> lse = _device.Allocate<float>(rows, _case.Heads);
        lse.View.CopyFrom([.. Enumerable.Repeat(float.NaN, rows * _case.Heads)]);
        Attend(new RaggedTensors(query.View, key.View, value.View, output.View, lse.View), qoIndptr, kvIndptr);

        int[] owners = [.. Enumerable.Range(0, queryTokens.Length).SelectMany(i => Enumerable.Repeat(i, queryTokens[i]))];
        int row = _case.Heads * valueDim;
        RowCheck check = new($"{_how}, {_case}", row, valueDim);
        return check.Compare(
            output.Written($"{_how}, {_case}"),
            lse.View.ToArray(),
            RowCheck.Sample(_random, [.. owners.Select(owner => _case.Lengths[owner])], row),
            (i, expected, expectedLse) =>
            {
                int owner = owners[i];
                int after = _case.Causal ? qoIndptr[owner + 1] - 1 - i : 0;
                AttentionOracle.Decode(
                    query.Values(i, 1),
                    key.Values(kvIndptr[owner], _case.Lengths[owner]),
                    value.Values(kvIndptr[owner], _case.Lengths[owner]),
                    Math.Max(0, _case.Lengths[owner] - after),
                    _case.Heads,
                    _case.KvHeads,
                    _case.HeadDim,
                    _case.SmScale ?? (1f / MathF.Sqrt(_case.HeadDim)),
                    expected,
                    expectedLse,
                    _case.Variant?.Oracle(_case.KvHeads, owner, i - qoIndptr[owner], queryTokens[owner], _case.Lengths[owner]),
                    valueDim
                );
            }
        );
    }

    private void Attend(in RaggedTensors tensors, int[] qoIndptr, int[] kvIndptr)
    {
        if (_how != RaggedApi.Batch)
        {
            Single(tensors);
            return;
        }

        using BatchPrefillWithRaggedKvCache prefill = new(
            _device,
            _case.Spec,
            maxSequences: Math.Max(4, kvIndptr.Length - 1),
            maxQueryTokens: Math.Max(1, qoIndptr[^1]),
            _case.Determinism,
            maxStagedTokens: _case.MaxStagedTokens ?? kvIndptr[^1],
            StagingOnCpu.For(_device, _case.Spec, isPaged: false)
        )
        {
            Stages = _case.Stages,
        };
        if (_case.Variant is { } variant)
        {
            variant.Plan(prefill, qoIndptr, kvIndptr, _case.SmScale, _case.Causal);
        }
        else
        {
            prefill.Plan(qoIndptr, kvIndptr, _case.SmScale, _case.Causal);
        }

        Assert.Equal((qoIndptr.Length - 1, qoIndptr[^1]), (prefill.PlanInfo.Sequences, prefill.PlanInfo.Rows));
        SplitSequences = prefill.PlanInfo.SplitSequences;
        StagedTokens = prefill.PlanInfo.StagedTokens;
        prefill.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse);
    }

    /// <summary>The one sequence of the case, without a plan; twice, the second time from the plan that was kept.</summary>
    private void Single(in RaggedTensors tensors)
    {
        if (_how == RaggedApi.SinglePrefill)
        {
            using SinglePrefill prefill = new(_device, _case.Spec, Math.Max(1, tensors.Query.Shape[0]), _case.Determinism);
            for (int i = 0; i < 2; i++)
            {
                if (_case.Variant is { } variant)
                {
                    variant.Run(prefill, tensors, _case.SmScale, _case.Causal);
                }
                else
                {
                    prefill.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse, _case.SmScale, _case.Causal);
                }
            }

            return;
        }

        using SingleDecode decode = new(_device, _case.Spec, _case.Determinism);
        for (int i = 0; i < 2; i++)
        {
            if (_case.Variant is { } variant)
            {
                variant.Run(decode, tensors, _case.SmScale);
            }
            else
            {
                decode.Run(tensors.Query, tensors.Key, tensors.Value, tensors.Output, tensors.Lse, _case.SmScale);
            }
        }
    }

    private TestRows<T> Rows(int rows, int heads, int headDim, float amplitude) =>
        new(_device, _random, _from, _to, rows, heads, headDim, amplitude);

    private static int[] Indptr(int[] counts)
    {
        int[] indptr = new int[counts.Length + 1];
        for (int i = 0; i < counts.Length; i++)
        {
            indptr[i + 1] = indptr[i] + counts[i];
        }

        return indptr;
    }
}

/// <summary>The class that a case is driven through.</summary>
internal enum RaggedApi
{
    Batch,
    SinglePrefill,
    SingleDecode,
}

/// <summary>The tensors of a call.</summary>
internal readonly record struct RaggedTensors(TensorView Query, TensorView Key, TensorView Value, TensorView Output, TensorView Lse);
