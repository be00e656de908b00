using FlashInfer.Cpu;

namespace FlashInfer.Tests.BadInput;

/// <summary>Arguments of caches and their forwards. That a refused call changes nothing is also what the model-based tests check.</summary>
public sealed class CacheInputTests : IDisposable
{
    private static readonly AttentionSpec s_spec = new(2, 1, 64, 4, DType.Float16);

    private readonly Device _device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
    private readonly PagedKvCache _cache;
    private readonly Sequence _open;
    private readonly Sequence _idle;

    public CacheInputTests()
    {
        _cache = new PagedKvCache(_device, s_spec, layers: 1, pages: 8);
        (_open, _idle) = (_cache.NewSequence(), _cache.NewSequence());
        _cache.BeginForward([_open, _idle], [5, 4]);
        _cache.EndForward(_idle);
    }

    public void Dispose()
    {
        // Whatever was refused: the cache is as the constructor left it.
        Assert.Equal((0, 5, 2, 4, 0, 1, 5), State());
        _cache.Dispose();
        _device.Dispose();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(int.MinValue)]
    public void Counts_below_one_are_refused(int count)
    {
        Refused.Range(
            "layers",
            $"layers ('{count}') must be greater than or equal to '1'",
            () => _ = new PagedKvCache(_device, s_spec, count, 1)
        );
        Refused.Range(
            "pages",
            $"pages ('{count}') must be greater than or equal to '1'",
            () => _ = new PagedKvCache(_device, s_spec, 1, count)
        );
        Refused.Range("maxSequences", $"'{count}'", () => _ = new BatchDecodeWithPagedKvCache(_cache, count));
        Refused.Range("options.CpuThreads", $"'{count}'", () => Device.OpenCpu(new DeviceOptions { CpuThreads = count }));
        Refused.Range(
            "tokens",
            $"Sequence 0 of the batch begins {count} tokens; expected 1 or more.",
            () => _cache.BeginForward(_idle, count)
        );
        Refused.Range(
            "tokens",
            $"Sequence 0 of the batch begins {count} tokens; expected 1 or more.",
            () => _cache.TryBeginForward([_idle], count)
        );
    }

    [Fact]
    public void A_batch_that_cannot_be_freed_is_left_as_it_is()
    {
        Sequence freed = _cache.NewSequence();
        _cache.Free(freed);

        Refused.Argument("sequences", "stands in it twice", () => _cache.Free([_open, _idle, _open]));
        Refused.Argument("sequence", $"({freed}) was freed", () => _cache.Free([_open, freed]));
    }

    [Fact]
    public void Nothing_stands_for_a_device_a_spec_or_a_cache()
    {
        Assert.Equal("device", Assert.Throws<ArgumentNullException>(() => _ = new PagedKvCache(null!, s_spec, 1, 1)).ParamName);
        Assert.Equal("spec", Assert.Throws<ArgumentNullException>(() => _ = new PagedKvCache(_device, null!, 1, 1)).ParamName);
        Assert.Equal("cache", Assert.Throws<ArgumentNullException>(() => _ = new BatchDecodeWithPagedKvCache(null!)).ParamName);
    }

    [Fact]
    public void Batches_above_65536_are_refused() =>
        Refused.Range("maxSequences", "'65537'", () => _ = new BatchDecodeWithPagedKvCache(_cache, 65_537));

    [Theory]
    [InlineData(0)]
    [InlineData(9)]
    [InlineData(-1)]
    public void Query_tokens_that_no_kernel_serves_are_refused(int count)
    {
        Refused.Range(
            "maxQueryTokens",
            "Decode serves 1 to 8 query tokens a sequence",
            () => _ = new BatchDecodeWithPagedKvCache(_cache, 4, count)
        );
        Refused.Range(
            "determinism",
            "Expected Reproducible or BatchInvariant.",
            () => _ = new BatchDecodeWithPagedKvCache(_cache, 4, 1, (Determinism)(count + 5))
        );
    }

    [Fact]
    public void Query_tokens_that_do_not_fit_the_batch_are_refused_and_the_plan_stays()
    {
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4, maxQueryTokens: 3);
        decode.Plan([_open, _idle], [3, 1]);
        string plan = decode.Explain();
        foreach (int count in (int[])[4, -1, int.MinValue])
        {
            Refused.Range(
                "queryTokens",
                $"Sequence 1 of the batch ({_idle}) has {count} query tokens; expected 0 to 3.",
                () => decode.Plan([_open, _idle], [1, count])
            );
        }

        Refused.Argument("queryTokens", "2 sequences but 1 numbers of query tokens were given.", () => decode.Plan([_open, _idle], [1]));
        Assert.Equal(plan, decode.Explain());
    }

    [Fact]
    public void Accepting_more_than_was_begun_is_refused()
    {
        foreach (int count in (int[])[6, -1, int.MinValue])
        {
            Refused.Range(
                "acceptedTokens",
                $"{count} tokens of sequence 0 of the batch ({_open}) are to stay; expected 0 to 5, those of its forward.",
                () => _cache.EndForward(_open, count)
            );
        }

        Refused.Argument(
            "acceptedTokens",
            "1 sequences but 2 token counts were given; expected one for each.",
            () => _cache.EndForward([_open], [1, 1])
        );
        Refused.Operation($"({_idle}) has no forward open", () => _cache.EndForward(_idle, 0));
    }

    [Fact]
    public void A_batch_with_more_parts_than_a_full_cache_has_is_refused()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 4 });
        using PagedKvCache cache = new(device, s_spec, layers: 1, pages: 800);
        using BatchDecodeWithPagedKvCache decode = new(cache, 8, 1, Determinism.BatchInvariant);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 3100);
        cache.EndForward(sequence);
        decode.Plan([sequence]);
        Refused.Argument(
            "sequences",
            "The batch has 8 parts of long sequences; the batch-invariant workspace has room for 6",
            () => decode.Plan([sequence, sequence])
        );
        Assert.Equal(4, decode.PlanInfo.Items);
    }

    [Fact]
    public void More_tokens_than_positions_have_bits_are_refused() =>
        Refused.Range(
            "pages",
            "536870912 pages of 4 tokens are more than 2147483647 tokens, and positions are 32-bit; expected at most 536870911 pages.",
            () => _ = new PagedKvCache(_device, s_spec, 1, 1 << 29)
        );

    [Fact]
    public void A_page_table_beyond_an_array_is_refused() =>
        Refused.Range(
            "pages",
            "The page table of 100000000 pages would have",
            () => _ = new PagedKvCache(_device, new AttentionSpec(1, 1, 64, 1, DType.Float16), 1, 100_000_000)
        );

    [Fact]
    public void A_cache_of_more_bytes_than_64_bits_count_is_refused() =>
        Refused.Range(
            "layers",
            "2147483647 layers of 2000000 pages (1024 heads, 1024 kvHeads, headDim 256, pageSize 1024, Float16, KV Float16 Nhd) would take 4611686016279904256000000 bytes, which no device has",
            () => _ = new PagedKvCache(_device, new AttentionSpec(1024, 1024, 256, 1024, DType.Float16), int.MaxValue, 2_000_000)
        );

    [Fact]
    public void A_cache_that_memory_cannot_hold_leaves_nothing_behind()
    {
        int before = ((CpuBackend)_device.Backend).LiveAllocations;
        AttentionSpec spec = new(1024, 1024, 256, 1024, DType.Float16);
        FlashInferException e = Assert.Throws<FlashInferException>(() => _ = new PagedKvCache(_device, spec, 1000, 10_000));

        Assert.Contains("cannot allocate 10737418240000000 bytes", e.Message, StringComparison.Ordinal);
        Assert.Equal(before, ((CpuBackend)_device.Backend).LiveAllocations);
    }

    [Fact]
    public void Sequences_of_another_cache_are_refused_everywhere()
    {
        using PagedKvCache other = new(_device, s_spec, 1, 4);
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4);
        using DeviceTensor<Half> tokens = _device.Allocate<Half>(1, 1, 64);
        Sequence foreign = other.NewSequence();
        other.BeginForward(foreign, 1);
        const string Message = "1 page) belongs to another cache; pass one that NewSequence of this cache made.";
        foreach (Action<Sequence> call in Calls(decode, tokens.View))
        {
            Refused.Argument("sequence", Message, () => call(foreign));
        }

        Assert.Equal((1, 3), (foreign.KvLength, other.FreePages));
    }

    [Fact]
    public void Freed_sequences_are_refused_everywhere()
    {
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4);
        using DeviceTensor<Half> tokens = _device.Allocate<Half>(1, 1, 64);
        Sequence freed = _cache.NewSequence();
        _cache.Free(freed);
        foreach (Action<Sequence> call in Calls(decode, tokens.View))
        {
            string message = $"Sequence 0 of the batch (sequence {freed.Id} (freed)) was freed; make a new one with NewSequence.";
            Refused.Argument("sequence", message, () => call(freed));
        }

        Assert.True(freed.Pages.IsEmpty);
    }

    [Fact]
    public void Null_sequences_are_refused_everywhere()
    {
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4);
        using DeviceTensor<Half> tokens = _device.Allocate<Half>(1, 1, 64);
        foreach (Action<Sequence> call in Calls(decode, tokens.View))
        {
            Refused.Check<ArgumentNullException>("sequence", "Sequence 0 of the batch is null.", () => call(null!));
        }
    }

    [Fact]
    public void A_sequence_stands_in_a_batch_once()
    {
        Sequence fresh = _cache.NewSequence();
        const string Twice = "stands in it twice; expected different ones.";
        Refused.Argument("sequences", $"Sequence 1 of the batch ({fresh}) {Twice}", () => _cache.BeginForward([fresh, fresh], [1, 1]));
        Refused.Argument("sequences", $"Sequence 1 of the batch ({_open}) {Twice}", () => _cache.EndForward([_open, _open]));
        Refused.Argument("sequences", $"Sequence 1 of the batch ({_open}) {Twice}", () => _cache.AbandonForward([_open, _open]));
        using BatchDecodeWithPagedKvCache decode = new(_cache, 4);
        Refused.Argument(
            "sequences",
            $"Sequence 2 of the batch ({_open}) has a forward open and stands in the batch twice.",
            () => decode.Plan([_open, _idle, _open])
        );
    }

    [Fact]
    public void Forwards_open_once_and_close_once()
    {
        Refused.Operation($"({_open}) has a forward open; call EndForward or AbandonForward first.", () => _cache.BeginForward(_open, 1));
        Refused.Operation($"({_idle}) has no forward open; call BeginForward first.", () => _cache.EndForward(_idle));
        Refused.Operation($"({_idle}) has no forward open; call BeginForward first.", () => _cache.AbandonForward(_idle));
        Refused.Operation($"Sequence 1 of the batch ({_idle}) has no forward open", () => _cache.EndForward([_open, _idle]));
    }

    [Fact]
    public void Every_sequence_has_a_token_count() =>
        Refused.Argument("tokens", "1 sequences but 2 token counts were given", () => _cache.BeginForward([_idle], [1, 2]));

    [Theory]
    [InlineData(21, 6)]
    [InlineData(int.MaxValue - 4, 536_870_911)]
    [InlineData(int.MaxValue, 536_870_912)]
    public void Out_of_pages_says_how_many_are_needed_free_and_there(int tokens, int needed)
    {
        OutOfPagesException e = Assert.Throws<OutOfPagesException>(() => _cache.BeginForward(_idle, tokens));

        Assert.Equal((needed, 5, 8), (e.Needed, e.Free, e.Total));
        Assert.StartsWith($"{needed} more pages are needed but 5 of 8 are free; ", e.Message, StringComparison.Ordinal);
        Assert.False(_cache.TryBeginForward(_idle, tokens));
    }

    [Fact]
    public void A_batch_gets_pages_for_all_or_none()
    {
        Sequence[] batch = [_cache.NewSequence(), _idle, _cache.NewSequence()];
        OutOfPagesException e = Assert.Throws<OutOfPagesException>(() => _cache.BeginForward(batch, [8, 8, int.MaxValue]));
        Assert.Equal(536_870_916, e.Needed);
        Assert.Throws<ArgumentOutOfRangeException>(() => _cache.BeginForward(batch, [1, 1, 0]));
        Assert.All(batch, sequence => Assert.False(sequence.IsInForward));
    }

    private Action<Sequence>[] Calls(BatchDecodeWithPagedKvCache decode, TensorView tokens) =>
        [
            sequence => _cache.BeginForward(sequence, 1),
            sequence => _cache.TryBeginForward(sequence, 1),
            sequence => _cache.EndForward(sequence),
            sequence => _cache.AbandonForward(sequence),
            sequence => _cache.Free(sequence),
            sequence => _cache.Append(0, [sequence], tokens, tokens),
            sequence => decode.Plan([sequence]),
        ];

    private (int, int, int, int, int, int, int) State() =>
        (_open.Length, _open.ForwardTokens, _open.PageCount, _idle.Length, _idle.ForwardTokens, _idle.PageCount, _cache.FreePages);
}
