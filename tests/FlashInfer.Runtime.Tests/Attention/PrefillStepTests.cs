namespace FlashInfer.Tests.Attention;

/// <summary>What a prefill step may consist of, and which changes make its plan stale.</summary>
public sealed class PrefillStepTests : IDisposable
{
    private static readonly AttentionSpec s_spec = new(4, 2, 64, 4, DType.BFloat16);

    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2 });
    private readonly PagedKvCache _cache;
    private readonly BatchPrefillWithPagedKvCache _prefill;
    private readonly DeviceTensor<BFloat16> _tokens;
    private readonly DeviceTensor<BFloat16> _query;
    private readonly DeviceTensor<BFloat16> _output;

    public PrefillStepTests()
    {
        _cache = new PagedKvCache(_device, s_spec, 1, 100);
        _prefill = new BatchPrefillWithPagedKvCache(_cache, 4, 100);
        _tokens = _device.Allocate<BFloat16>(100, 2, 64);
        _query = _device.Allocate<BFloat16>(100, 4, 64);
        _output = _device.Allocate<BFloat16>(100, 4, 64);
        Random random = new(1);
        _tokens.View.CopyFrom([.. Enumerable.Range(0, 100 * 2 * 64).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))]);
        _query.View.CopyFrom([.. Enumerable.Range(0, 100 * 4 * 64).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))]);
    }

    public void Dispose()
    {
        _output.Dispose();
        _query.Dispose();
        _tokens.Dispose();
        _prefill.Dispose();
        _cache.Dispose();
        _device.Dispose();
    }

    [Fact]
    public void A_prompt_in_chunks_gives_what_it_gives_as_a_whole()
    {
        Sequence whole = _cache.NewSequence();
        float[] expected = Step([whole], [90], first: 0);
        Sequence chunked = _cache.NewSequence();
        float[] chunks = [.. new[] { (0, 7), (7, 40), (47, 1), (48, 42) }.SelectMany(chunk => Step([chunked], [chunk.Item2], chunk.Item1))];

        Assert.Equal(expected.Length, chunks.Length);
        for (int i = 0; i < expected.Length; i++)
        {
            Assert.Equal(expected[i], chunks[i], 4e-3f);
        }
    }

    [Fact]
    public void One_token_gives_what_decode_gives()
    {
        Sequence sequence = _cache.NewSequence();
        Step([sequence], [55], first: 0);
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4);
        decode.Plan([sequence]);
        decode.Run(0, _query.View.Rows(0, 1), _output.View.Rows(0, 1));
        float[] expected = [.. _output.View.Rows(0, 1).ToArray().Select(x => (float)x)];
        _prefill.Plan([sequence], [1]);
        _prefill.Run(0, _query.View.Rows(0, 1), _output.View.Rows(0, 1));
        float[] actual = [.. _output.View.Rows(0, 1).ToArray().Select(x => (float)x)];
        for (int i = 0; i < expected.Length; i++)
        {
            Assert.Equal(expected[i], actual[i], 2e-3f);
        }
    }

    [Fact]
    public void Sequences_without_query_tokens_have_no_row_but_their_tokens_are_appended()
    {
        (Sequence a, Sequence b, Sequence idle) = (_cache.NewSequence(), _cache.NewSequence(), _cache.NewSequence());
        _cache.BeginForward([a, b], [6, 5]);
        _prefill.Plan([a, idle, b], [6, 0, 0]);
        Assert.Equal((3, 6, 6L), (_prefill.PlanInfo.Sequences, _prefill.PlanInfo.Rows, _prefill.PlanInfo.Tokens));
        TensorView<BFloat16> eleven = _tokens.View.Rows(0, 11);
        _prefill.Append(0, eleven, eleven);
        _prefill.Run(0, _query.View.Rows(0, 6), _output.View.Rows(0, 6));
        _cache.EndForward([a, b]);
        _prefill.Plan([a, idle, b], [0, 0, 1]);
        _prefill.Run(0, _query.View.Rows(0, 1), _output.View.Rows(0, 1));
        _prefill.Plan([idle]);
        Assert.Equal((0, 0), (_prefill.PlanInfo.Rows, _prefill.PlanInfo.Items));
        _prefill.Run(0, _query.View.Rows(0, 0), _output.View.Rows(0, 0));
    }

    [Theory]
    [InlineData("begin")]
    [InlineData("abandon")]
    [InlineData("free")]
    public void A_change_of_a_planned_sequence_makes_the_plan_stale(string change)
    {
        Sequence sequence = _cache.NewSequence();
        _cache.BeginForward(sequence, 8);
        if (change == "begin")
        {
            _cache.EndForward(sequence);
        }

        _prefill.Plan([sequence], [3]);
        switch (change)
        {
            case "begin":
                _cache.BeginForward(sequence, 1);
                break;
            case "abandon":
                _cache.AbandonForward(sequence);
                break;
            default:
                _cache.Free(sequence);
                break;
        }

        StalePlanException stale = Assert.Throws<StalePlanException>(() =>
            _prefill.Run(0, _query.View.Rows(0, 3), _output.View.Rows(0, 3))
        );
        Assert.Contains(sequence.ToString(), stale.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Ending_the_forward_keeps_the_plan_but_nothing_is_appended_any_more()
    {
        Sequence sequence = _cache.NewSequence();
        _cache.BeginForward(sequence, 8);
        _prefill.Plan([sequence]);
        TensorView<BFloat16> eight = _tokens.View.Rows(0, 8);
        _prefill.Append(0, eight, eight);
        _cache.EndForward(sequence);
        _prefill.Run(0, _query.View.Rows(0, 8), _output.View.Rows(0, 8));
        Assert.Throws<InvalidOperationException>(() => _prefill.Append(0, eight, eight));
    }

    [Theory]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float8E5M2)]
    public void Batch_invariant_results_have_the_same_bits_in_every_batch(DType kvDtype)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        AttentionSpec spec = new(4, 1, 64, 16, DType.BFloat16, kvDtype);
        using PagedKvCache cache = new(device, spec, 1, 1200);
        using BatchPrefillWithPagedKvCache prefill = new(cache, 8, 400, Determinism.BatchInvariant);
        Sequence[] sequences = [.. Enumerable.Range(0, 4).Select(_ => cache.NewSequence())];
        int[] lengths = [9000, 40, 300, 5000];
        int[] queryTokens = [6, 40, 100, 1];
        cache.BeginForward(sequences, lengths);
        Random random = new(3);
        using DeviceTensor<BFloat16> kv = device.Allocate<BFloat16>(lengths.Sum(), 1, 64);
        kv.View.CopyFrom([.. Enumerable.Range(0, lengths.Sum() * 64).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))]);
        cache.Append(0, sequences, kv.View, kv.View);
        cache.EndForward(sequences);
        ushort[] Run(params int[] members)
        {
            int rows = members.Sum(i => queryTokens[i]);
            using DeviceTensor<BFloat16> query = device.Allocate<BFloat16>(rows, 4, 64);
            using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(rows, 4, 64);
            // The first member's queries are the same wherever it is alone or first.
            Random fill = new(4);
            query.View.CopyFrom([.. Enumerable.Range(0, rows * 256).Select(_ => (BFloat16)(fill.NextSingle() - 0.5f))]);
            prefill.Plan([.. members.Select(i => sequences[i])], [.. members.Select(i => queryTokens[i])]);
            prefill.Run(0, query.View, output.View);
            return [.. output.View.Rows(0, queryTokens[members[0]]).ToArray().Select(x => x.Bits)];
        }

        Assert.Equal(Run(0), Run(0, 1, 2, 3));
        Assert.Equal(Run(2), Run(2, 3, 0, 1));
        Assert.Equal(Run(3), Run(3, 1, 1, 1, 2));
    }

    /// <summary>Appends tokens and attends with them; rows of both are taken from a place on.</summary>
    private float[] Step(Sequence[] sequences, int[] counts, int first)
    {
        int rows = counts.Sum();
        _cache.BeginForward(sequences, counts);
        _prefill.Plan(sequences);
        TensorView<BFloat16> tokens = _tokens.View.Rows(first, rows);
        _prefill.Append(0, tokens, tokens);
        _prefill.Run(0, _query.View.Rows(first, rows), _output.View.Rows(0, rows));
        _cache.EndForward(sequences);
        return [.. _output.View.Rows(0, rows).ToArray().Select(x => (float)x)];
    }
}
