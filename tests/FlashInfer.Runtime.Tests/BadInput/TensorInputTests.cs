namespace FlashInfer.Tests.BadInput;

/// <summary>Tensors that Append and Run refuse; after each refusal the output is untouched and the plan still runs.</summary>
public sealed class TensorInputTests : IDisposable
{
    private const int Heads = 4;
    private const int KvHeads = 2;
    private const int Dim = 64;
    private const int Rows = 2;

    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
    private readonly PagedKvCache _cache;
    private readonly BatchDecodeWithPagedKvCache _decode;
    private readonly Sequence[] _batch;
    private readonly DeviceTensor<Half> _memory;
    private readonly DeviceTensor<Half> _output;
    private readonly DeviceTensor<float> _lse;

    public TensorInputTests()
    {
        _cache = new PagedKvCache(_device, new AttentionSpec(Heads, KvHeads, Dim, 4, DType.Float16), layers: 2, pages: 8);
        _decode = new BatchDecodeWithPagedKvCache(_cache, 4);
        _batch = [_cache.NewSequence(), _cache.NewSequence()];
        _memory = _device.Allocate<Half>(4096);
        _output = _device.Allocate<Half>(Rows, Heads, Dim);
        _lse = _device.Allocate<float>(Rows, Heads);
        _memory.View.CopyFrom(new Half[4096]);
        Half[] one = new Half[Rows * Heads * Dim];
        one.AsSpan().Fill(Half.One);
        _output.View.CopyFrom(one);
        _cache.KeyPages(0).As<Half>().CopyFrom(new Half[8 * 4 * KvHeads * Dim]);
        _cache.ValuePages(0).As<Half>().CopyFrom(new Half[8 * 4 * KvHeads * Dim]);
        _cache.BeginForward(_batch, [1, 2]);
        _decode.Plan(_batch);
    }

    private TensorView Query => View([Rows, Heads, Dim]);

    private TensorView Tokens => View([3, KvHeads, Dim]);

    public void Dispose()
    {
        Assert.All(_output.View.ToArray(), value => Assert.Equal(Half.One, value));
        _decode.Append(0, Tokens, Tokens);
        _decode.Run(0, Query, _output.View, _lse.View);
        Assert.All(_output.View.ToArray(), value => Assert.Equal(Half.Zero, value));
        _decode.Dispose();
        _cache.Dispose();
        _device.Dispose();
    }

    public static TheoryData<int[]> WrongQueries =>
        [
            new[] { Rows + 1, Heads, Dim },
            new[] { Rows - 1, Heads, Dim },
            new[] { Rows, KvHeads, Dim },
            new[] { Rows, Heads, 2 * Dim },
            new[] { Rows, Heads * Dim },
            new[] { 1, Rows, Heads, Dim },
        ];

    [Theory]
    [MemberData(nameof(WrongQueries))]
    public void Rank_rows_heads_and_head_dimension_must_be_the_plans(int[] shape)
    {
        string message = $"is Float16[{string.Join(", ", shape)}]; expected Float16[2, 4, 64].";
        Refused.Argument("query", $"query {message}", () => _decode.Run(0, View(shape), _output.View));
        Refused.Argument("output", $"output {message}", () => _decode.Run(0, Query, View(shape)));
    }

    [Theory]
    [InlineData(2, KvHeads, Dim)]
    [InlineData(4, KvHeads, Dim)]
    [InlineData(3, Heads, Dim)]
    [InlineData(3, KvHeads, 128)]
    public void New_tokens_must_be_those_of_the_open_forwards(params int[] shape)
    {
        string message = $"is Float16[{string.Join(", ", shape)}]; expected Float16[3, 2, 64].";
        Refused.Argument("key", $"key {message}", () => _decode.Append(0, View(shape), Tokens));
        Refused.Argument("value", $"value {message}", () => _decode.Append(0, Tokens, View(shape)));
        Refused.Argument("key", $"key {message}", () => _cache.Append(0, _batch, View(shape), Tokens));
        Refused.Argument("value", $"value {message}", () => _cache.Append(0, _batch, Tokens, View(shape)));
    }

    [Fact]
    public void Element_types_must_be_the_configurations()
    {
        using DeviceTensor<BFloat16> bfloat = _device.Allocate<BFloat16>(Rows, Heads, Dim);
        using DeviceTensor<Half> half = _device.Allocate<Half>(Rows, Heads);
        Refused.Argument(
            "query",
            "query is BFloat16[2, 4, 64]; expected Float16[2, 4, 64].",
            () => _decode.Run(0, bfloat.View, _output.View)
        );
        Refused.Argument("output", "output is BFloat16[2, 4, 64]", () => _decode.Run(0, Query, bfloat.View));
        Refused.Argument("lse", "lse is Float16[2, 4]; expected Float32[2, 4].", () => _decode.Run(0, Query, _output.View, half.View));
        Refused.Argument("key", "key is BFloat16[2, 4, 64]; expected Float16[3, 2, 64].", () => _decode.Append(0, bfloat.View, Tokens));
    }

    [Fact]
    public void No_tensor_is_refused_where_one_is_needed()
    {
        Refused.Argument("query", "query is no tensor; expected Float16[2, 4, 64].", () => _decode.Run(0, default, _output.View));
        Refused.Argument("output", "output is no tensor", () => _decode.Run(0, Query, default));
        Refused.Argument("value", "value is no tensor; expected Float16[3, 2, 64].", () => _decode.Append(0, Tokens, default));
    }

    [Fact]
    public void Tensors_must_lie_on_the_caches_device()
    {
        using Device other = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using DeviceTensor<Half> foreign = other.Allocate<Half>(Rows, Heads, Dim);
        using DeviceTensor<Half> tokens = other.Allocate<Half>(3, KvHeads, Dim);
        using DeviceTensor<float> lse = other.Allocate<float>(Rows, Heads);
        string message = $"lies on {other}, the cache on {_device} (opened twice); allocate it on the cache's device.";
        Refused.Argument("query", $"query {message}", () => _decode.Run(0, foreign.View, _output.View));
        Refused.Argument("output", $"output {message}", () => _decode.Run(0, Query, foreign.View));
        Refused.Argument("lse", $"lse {message}", () => _decode.Run(0, Query, _output.View, lse.View));
        Refused.Argument("key", $"key {message}", () => _decode.Append(0, tokens.View, Tokens));
        Refused.Argument("value", $"value {message}", () => _cache.Append(0, _batch, Tokens, tokens.View));
    }

    [Fact]
    public void Addresses_and_strides_must_suit_16_byte_accesses()
    {
        int[] shape = [Rows, Heads, Dim];
        foreach (
            TensorView view in new[]
            {
                View(shape, [Heads * Dim, Dim, 1], offset: 1),
                View(shape, [Heads * Dim, Dim, 2]),
                View(shape, [Heads * (Dim + 4), Dim + 4, 1]),
                View(shape, [(Heads * Dim) + 1, Dim, 1]),
            }
        )
        {
            string message =
                $"has address 0x{view.Address:x} and strides [{view.Stride(0)}, {view.Stride(1)}, {view.Stride(2)}]; kernels need the head dimension contiguous, and rows and heads aligned to 16 bytes.";
            Refused.Argument("query", $"query {message}", () => _decode.Run(0, view, _output.View));
            Refused.Argument("output", $"output {message}", () => _decode.Run(0, Query, view));
        }
    }

    [Theory]
    [InlineData(0, Dim)]
    [InlineData(Dim, Dim)]
    [InlineData(Heads * Dim, 0)]
    [InlineData(Heads * Dim, 8)]
    [InlineData((Heads * Dim) - 8, Dim)]
    public void An_output_whose_rows_or_heads_overlap_is_refused(long rowStride, long headStride)
    {
        TensorView output = View([Rows, Heads, Dim], [rowStride, headStride, 1]);
        Refused.Argument(
            "output",
            $"output is [2, 4, 64] with strides [{rowStride}, {headStride}, 1], so that rows or heads overlap",
            () => _decode.Run(0, Query, output)
        );
    }

    [Fact]
    public void Rows_inside_heads_are_a_legal_output()
    {
        Half[] ones = [.. Enumerable.Repeat(Half.One, 3072)];
        _memory.View.Rows(1024, 3072).CopyFrom(ones);
        TensorView query = View([Rows, Heads, Dim], [0, 0, 1]);
        TensorView output = View([Rows, Heads, Dim], [Dim, Rows * Dim, 1], offset: 1024);
        _decode.Append(0, Tokens, Tokens);
        _decode.Run(0, query, output);

        Assert.All(_memory.View.Rows(1024, Rows * Heads * Dim).ToArray(), value => Assert.Equal(Half.Zero, value));
        Assert.All(_memory.View.Rows(1024 + (Rows * Heads * Dim), 1024).ToArray(), value => Assert.Equal(Half.One, value));
    }

    [Fact]
    public void The_LSE_must_be_contiguous()
    {
        using DeviceTensor<float> wide = _device.Allocate<float>(Rows, 2 * Heads);
        TensorView lse = _device.View<float>(wide.View.Address, [Rows, Heads], [2 * Heads, 1]);
        Refused.Argument(
            "lse",
            "lse has gaps between its elements; expected a contiguous [2, 4].",
            () => _decode.Run(0, Query, _output.View, lse)
        );
        Refused.Argument("lse", "lse is Float32[2, 8]; expected Float32[2, 4].", () => _decode.Run(0, Query, _output.View, wide.View));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(-1)]
    [InlineData(int.MaxValue)]
    public void Layers_are_counted_from_zero(int layer)
    {
        const string Message = "The cache has 2 layers; expected 0 to 1.";
        Refused.Range("layer", Message, () => _decode.Run(layer, Query, _output.View));
        Refused.Range("layer", Message, () => _decode.Append(layer, Tokens, Tokens));
        Refused.Range("layer", Message, () => _cache.Append(layer, _batch, Tokens, Tokens));
        Refused.Range("layer", Message, () => _cache.KeyPages(layer));
        Refused.Range("layer", Message, () => _cache.ValuePages(layer));
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    [InlineData(float.NegativeInfinity)]
    public void The_softmax_scale_must_be_finite(float smScale) =>
        Refused.Range("smScale", "smScale must be a finite number, such as 1 / sqrt(headDim).", () => _decode.Plan(_batch, smScale));

    [Fact]
    public void A_plan_needs_a_sequence() =>
        Refused.Argument("sequences", "0 sequences were given; expected 1 to 4.", () => _decode.Plan([]));

    [Fact]
    public void Appending_without_an_open_forward_is_refused()
    {
        using BatchDecodeWithPagedKvCache idle = new(_cache, 4);
        idle.Plan([_cache.NewSequence()]);
        Refused.Operation(
            "None of the planned sequences had a forward open; call BeginForward before Plan",
            () => idle.Append(0, Tokens, Tokens)
        );
    }

    [Fact]
    public void Appending_after_the_forward_was_ended_is_refused_and_committed_tokens_stay()
    {
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4);
        Sequence sequence = _cache.NewSequence();
        _cache.BeginForward(sequence, 3);
        decode.Plan([sequence]);
        decode.Append(0, Tokens, Tokens);
        _cache.EndForward(sequence);
        _memory.View.CopyFrom([.. Enumerable.Repeat(Half.One, 4096)]);
        Refused.Operation("The plan has 3 new tokens but forwards with 3 of them were ended since", () => decode.Append(0, Tokens, Tokens));

        int page = sequence.Pages[0];
        Assert.All(_cache.KeyPages(0).As<Half>().Rows(page, 1).ToArray(), value => Assert.Equal(Half.Zero, value));
        _memory.View.CopyFrom(new Half[4096]);
    }

    private TensorView View(ReadOnlySpan<int> shape, ReadOnlySpan<long> strides = default, int offset = 0) =>
        _device.View<Half>(_memory.View.Address + (offset * 2), shape, strides);
}
