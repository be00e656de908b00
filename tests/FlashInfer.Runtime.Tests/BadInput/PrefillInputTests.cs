namespace FlashInfer.Tests.BadInput;

/// <summary>What the prefill wrappers refuse; after each refusal the plan of before still runs.</summary>
public sealed class PrefillInputTests : IDisposable
{
    private const int Heads = 4;
    private const int KvHeads = 2;
    private const int Dim = 64;

    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
    private readonly PagedKvCache _cache;
    private readonly BatchPrefillWithPagedKvCache _paged;
    private readonly BatchPrefillWithRaggedKvCache _ragged;
    private readonly Sequence[] _batch;
    private readonly DeviceTensor<Half> _memory;
    private readonly DeviceTensor<float> _lse;

    public PrefillInputTests()
    {
        AttentionSpec spec = new(Heads, KvHeads, Dim, 4, DType.Float16, DType.Float8E4M3);
        _cache = new PagedKvCache(_device, spec, layers: 2, pages: 16);
        _paged = new BatchPrefillWithPagedKvCache(_cache, maxSequences: 3, maxQueryTokens: 12);
        _ragged = new BatchPrefillWithRaggedKvCache(_device, spec, maxSequences: 3, maxQueryTokens: 12);
        _batch = [_cache.NewSequence(), _cache.NewSequence()];
        _memory = _device.Allocate<Half>(64 * Heads * Dim);
        _lse = _device.Allocate<float>(5, Heads);
        _memory.View.CopyFrom(new Half[_memory.Shape.Elements]);
        _cache.BeginForward(_batch, [3, 2]);
        _paged.Plan(_batch);
        _ragged.Plan([0, 3, 5], [0, 4, 10]);
    }

    private TensorView Query => View([5, Heads, Dim]);

    private TensorView Output => View([5, Heads, Dim], offset: 20 * Heads * Dim);

    private TensorView Tokens => View([5, KvHeads, Dim]);

    private TensorView Keys => View([10, KvHeads, Dim]);

    public void Dispose()
    {
        _paged.Append(1, Tokens, Tokens);
        _paged.Run(1, Query, Output, _lse.View);
        _ragged.Run(Query, Keys, Keys, Output, _lse.View);
        Assert.All(Output.As<Half>().ToArray(), value => Assert.Equal(Half.Zero, value));
        _ragged.Dispose();
        _paged.Dispose();
        _cache.Dispose();
        _memory.Dispose();
        _lse.Dispose();
        _device.Dispose();
    }

    [Theory]
    [InlineData(0, 1, "maxSequences")]
    [InlineData(65_537, 1, "maxSequences")]
    [InlineData(1, 0, "maxQueryTokens")]
    [InlineData(1, (1 << 22) + 1, "maxQueryTokens")]
    public void Sizes_of_the_wrappers_have_limits(int maxSequences, int maxQueryTokens, string name)
    {
        Refused.Range(name, "", () => new BatchPrefillWithPagedKvCache(_cache, maxSequences, maxQueryTokens).Dispose());
        Refused.Range(name, "", () => new BatchPrefillWithRaggedKvCache(_device, _cache.Spec, maxSequences, maxQueryTokens).Dispose());
    }

    [Fact]
    public void No_less_than_no_token_is_staged()
    {
        const string Message = "maxStagedTokens ('-1') must be a non-negative value.";
        Refused.Range("maxStagedTokens", Message, () => new BatchPrefillWithPagedKvCache(_cache, maxStagedTokens: -1).Dispose());
        Refused.Range(
            "maxStagedTokens",
            Message,
            () => new BatchPrefillWithRaggedKvCache(_device, _cache.Spec, maxStagedTokens: -1).Dispose()
        );
        Refused.Range("maxStagedTokens", Message, () => new SinglePrefill(_device, _cache.Spec, maxStagedTokens: -1).Dispose());
    }

    [Fact]
    public void Determinism_is_one_of_the_enums() =>
        Refused.Range(
            "determinism",
            "Expected Reproducible or BatchInvariant.",
            () => new BatchPrefillWithPagedKvCache(_cache, determinism: (Determinism)2).Dispose()
        );

    [Fact]
    public void A_paged_plan_has_sequences_each_with_a_number_of_query_tokens_that_fit()
    {
        Refused.Argument("sequences", "0 sequences were given; expected 1 to 3.", () => _paged.Plan([]));
        Refused.Argument("queryTokens", "2 sequences but 1 numbers of query tokens were given.", () => _paged.Plan(_batch, [1]));
        Refused.Range(
            "queryTokens",
            "has -1 query tokens; expected 0 to 12. The wrapper's constructor takes a larger maxQueryTokens",
            () => _paged.Plan(_batch, [3, -1])
        );
        Refused.Argument(
            "queryTokens",
            "The 2 sequences have 13 query tokens; expected at most 12. The wrapper's constructor takes a larger maxQueryTokens",
            () => _paged.Plan(_batch, [12, 1])
        );
        Refused.Argument(
            "sequences",
            "has a forward open and stands in the batch twice",
            () => _paged.Plan([_batch[0], _batch[0]], [1, 1])
        );
    }

    [Fact]
    public void The_tokens_of_open_forwards_must_fit()
    {
        Sequence big = _cache.NewSequence();
        _cache.BeginForward(big, 13);
        Refused.Argument("queryTokens", "The 1 sequences have 13 query tokens; expected at most 12.", () => _paged.Plan([big]));
        _paged.Plan([big, _batch[0], _batch[1]], [1, 3, 1]);
        _paged.Plan(_batch);
    }

    [Theory]
    [InlineData(0f)]
    [InlineData(-0.1f)]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    [InlineData(3e38f)]
    [InlineData(1e-45f)]
    public void The_softmax_scale_must_be_above_zero(float smScale)
    {
        const string Message = "Prefill needs a finite smScale above 0";
        Refused.Range("smScale", Message, () => _paged.Plan(_batch, smScale));
        Refused.Range("smScale", Message, () => _ragged.Plan([0, 3, 5], [0, 4, 10], smScale));
    }

    [Fact]
    public void Index_pointers_start_at_zero_and_never_go_down()
    {
        Refused.Argument(
            "qoIndptr",
            "qoIndptr has 0 numbers; expected 2 to 4, one more than there are sequences.",
            () => _ragged.Plan([], [])
        );
        Refused.Argument("qoIndptr", "qoIndptr has 1 numbers", () => _ragged.Plan([0], [0]));
        Refused.Argument("qoIndptr", "qoIndptr has 5 numbers", () => _ragged.Plan([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]));
        Refused.Argument("kvIndptr", "kvIndptr has 3 numbers but qoIndptr 2.", () => _ragged.Plan([0, 1], [0, 1, 2]));
        Refused.Argument("qoIndptr", "qoIndptr starts at 1; expected 0, the first row.", () => _ragged.Plan([1, 2], [0, 1]));
        Refused.Argument("kvIndptr", "kvIndptr starts at -1", () => _ragged.Plan([0, 2], [-1, 1]));
        Refused.Argument("qoIndptr", "qoIndptr goes down from 4 to 3 at 2", () => _ragged.Plan([0, 4, 3], [0, 4, 4]));
        Refused.Argument("kvIndptr", "kvIndptr goes down from 4 to 3 at 2", () => _ragged.Plan([0, 4, 4], [0, 4, 3]));
        Refused.Argument(
            "qoIndptr",
            "The 2 sequences have 13 query tokens; expected at most 12.",
            () => _ragged.Plan([0, 4, 13], [0, 4, 4])
        );
    }

    [Fact]
    public void Tensors_have_the_plans_rows_and_the_querys_type()
    {
        using DeviceTensor<Float8E4M3> eight = _device.Allocate<Float8E4M3>(10, KvHeads, Dim);
        Refused.Argument(
            "query",
            "query is Float16[4, 4, 64]; expected Float16[5, 4, 64].",
            () => _paged.Run(0, View([4, Heads, Dim]), Output)
        );
        Refused.Argument("output", "output is no tensor", () => _paged.Run(0, Query, default));
        Refused.Argument(
            "key",
            "key is Float16[4, 2, 64]; expected Float16[5, 2, 64].",
            () => _paged.Append(0, View([4, KvHeads, Dim]), Tokens)
        );
        Refused.Range("layer", "The cache has 2 layers", () => _paged.Run(2, Query, Output));
        Refused.Argument("query", "expected Float16[5, 4, 64]", () => _ragged.Run(View([6, Heads, Dim]), Keys, Keys, Output));
        Refused.Argument("key", "key is Float16[5, 2, 64]; expected Float16[10, 2, 64].", () => _ragged.Run(Query, Tokens, Keys, Output));
        Refused.Argument("value", "value is Float8E4M3[10, 2, 64]; expected Float16", () => _ragged.Run(Query, Keys, eight.View, Output));
        Refused.Argument(
            "output",
            "so that rows or heads overlap",
            () => _ragged.Run(Query, Keys, Keys, View([5, Heads, Dim], [0, Dim, 1]))
        );
        Refused.Argument("lse", "expected Float32[5, 4]", () => _ragged.Run(Query, Keys, Keys, Output, Query));
    }

    [Fact]
    public void Tensors_lie_on_the_wrappers_device()
    {
        using Device other = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using DeviceTensor<Half> foreign = other.Allocate<Half>(10, KvHeads, Dim);
        string message = $"lies on {other}, the wrapper on {_device} (opened twice); allocate it on the wrapper's device.";
        Refused.Argument("key", $"key {message}", () => _ragged.Run(Query, foreign.View, Keys, Output));
        Refused.Argument("value", $"value {message}", () => _ragged.Run(Query, Keys, foreign.View, Output));
    }

    [Fact]
    public void Without_a_plan_nothing_runs()
    {
        using BatchPrefillWithPagedKvCache paged = new(_cache, 3, 12);
        using BatchPrefillWithRaggedKvCache ragged = new(_device, _cache.Spec, 3, 12);
        Assert.Equal(("no plan", "no plan"), (paged.Explain(), ragged.Explain()));
        Assert.Throws<StalePlanException>(() => paged.PlanInfo);
        Assert.Throws<StalePlanException>(() => ragged.PlanInfo);
        Assert.Throws<StalePlanException>(() => paged.Run(0, Query, Output));
        Assert.Throws<StalePlanException>(() => ragged.Run(Query, Keys, Keys, Output));
    }

    [Fact]
    public void A_sequence_that_stands_in_a_batch_invariant_batch_too_often_is_refused()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 8 });
        using PagedKvCache cache = new(device, new AttentionSpec(1, 1, 64, 64, DType.Float16), 1, 100);
        using BatchPrefillWithPagedKvCache prefill = new(cache, 64, 64, Determinism.BatchInvariant);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 6000);
        cache.EndForward(sequence);
        prefill.Plan([sequence], [1]);
        Refused.Argument(
            "sequences",
            "the batch-invariant workspace has room for 8, as many as a full cache can have",
            () => prefill.Plan([.. Enumerable.Repeat(sequence, 9)], [.. Enumerable.Repeat(1, 9)])
        );
    }

    [Fact]
    public void Disposed_wrappers_say_so()
    {
        BatchPrefillWithPagedKvCache paged = new(_cache, 3, 12);
        BatchPrefillWithRaggedKvCache ragged = new(_device, _cache.Spec, 3, 12);
        paged.Dispose();
        paged.Dispose();
        ragged.Dispose();
        ragged.Dispose();
        Assert.Throws<ObjectDisposedException>(() => paged.Plan(_batch));
        Assert.Throws<ObjectDisposedException>(() => paged.Append(0, Tokens, Tokens));
        Assert.Throws<ObjectDisposedException>(() => paged.Run(0, Query, Output));
        Assert.Throws<ObjectDisposedException>(() => ragged.Plan([0, 1], [0, 1]));
        Assert.Throws<ObjectDisposedException>(() => ragged.Run(Query, Keys, Keys, Output));
    }

    private TensorView View(ReadOnlySpan<int> shape, ReadOnlySpan<long> strides = default, int offset = 0) =>
        _device.View<Half>(_memory.View.Address + (offset * 2), shape, strides);
}
