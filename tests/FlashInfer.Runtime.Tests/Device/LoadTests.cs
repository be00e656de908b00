namespace FlashInfer.Tests.Devices;

/// <summary>When kernels are loaded, who waits for them, and who is told that they can't be.</summary>
public sealed class LoadTests
{
    private static readonly TimeSpan Long = TimeSpan.FromSeconds(30);
    private static readonly AttentionSpec Spec = new(2, 1, 64, 4, DType.Float16);

    [Theory]
    [InlineData(KernelKinds.Decode, 2)]
    [InlineData(KernelKinds.PrefillPaged, 2)]
    [InlineData(KernelKinds.Cascade, 3)]
    public void A_wrappers_kernels_are_loaded_beside_its_caches(KernelKinds kinds, int kernels)
    {
        using Barrier all = new(kernels);
        int met = 0;
        using SlowLoads loads = new()
        {
            Append = Meet,
            Decode = Meet,
            Prefill = Meet,
        };
        using PagedKvCache cache = new(loads.Device, Spec, layers: 1, pages: 8);
        using IDisposable wrapper = kinds switch
        {
            KernelKinds.Decode => new BatchDecodeWithPagedKvCache(cache),
            KernelKinds.PrefillPaged => new BatchPrefillWithPagedKvCache(cache),
            _ => new MultiLevelCascadeAttention(cache),
        };

        Assert.Equal(kernels, met);

        void Meet()
        {
            if (all.SignalAndWait(Long))
            {
                Interlocked.Increment(ref met);
            }
        }
    }

    [Fact]
    public void A_step_is_right_however_late_its_kernels_are()
    {
        using SlowLoads loads = new() { Append = static () => Thread.Sleep(20), Decode = static () => Thread.Sleep(10) };
        DecodeScenario.Check(loads.Device, DecodeCase.Draw(Random.Shared.Next(), tokens: 100));
    }

    [Fact]
    public async Task A_cache_is_there_before_append_which_waits()
    {
        using ManualResetEventSlim loaded = new();
        using SlowLoads loads = new() { Append = () => Assert.True(loaded.Wait(Long)) };
        using PagedKvCache cache = new(loads.Device, Spec, layers: 1, pages: 8);
        using DeviceTensor tokens = loads.Device.Allocate(DType.Float16, 3, 1, 64);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, tokens: 3);

        Task append = Task.Run(() => cache.Append(0, [sequence], tokens, tokens));
        Assert.NotSame(append, await Task.WhenAny(append, Task.Delay(50)));
        loaded.Set();
        await append;

        Assert.Equal(1, loads.Appends);
    }

    [Fact]
    public void A_wrapper_tells_that_append_failed_and_the_next_one_tries_again()
    {
        using SlowLoads loads = new() { Append = static () => throw new FlashInferException("no append") };
        using PagedKvCache cache = new(loads.Device, Spec, layers: 1, pages: 8);
        int before = loads.LiveAllocations;

        Assert.Equal("no append", Assert.Throws<FlashInferException>(() => new BatchDecodeWithPagedKvCache(cache)).Message);
        Assert.Equal("no append", Assert.Throws<FlashInferException>(() => new BatchPrefillWithPagedKvCache(cache)).Message);
        Assert.Equal("no append", Assert.Throws<FlashInferException>(() => new MultiLevelCascadeAttention(cache)).Message);
        Assert.Equal(before, loads.LiveAllocations);

        loads.Append = static () => { };
        using BatchDecodeWithPagedKvCache decode = new(cache);
        Assert.Equal(1, loads.Appends);
    }

    [Fact]
    public void A_cache_that_can_have_no_kernel_is_not_made()
    {
        using SlowLoads loads = new() { Append = static () => throw new FlashInferException("no compiler"), InBackground = false };

        FlashInferException e = Assert.Throws<FlashInferException>(() => new PagedKvCache(loads.Device, Spec, layers: 1, pages: 8));
        Assert.Equal("no compiler", e.Message);
        Assert.Equal(0, loads.LiveAllocations);
    }

    [Fact]
    public async Task A_device_that_is_disposed_meanwhile_waits_for_the_load()
    {
        using ManualResetEventSlim begun = new();
        using ManualResetEventSlim loaded = new();
        using SlowLoads loads = new()
        {
            Append = () =>
            {
                begun.Set();
                Assert.True(loaded.Wait(Long));
            },
        };
        PagedKvCache cache = new(loads.Device, Spec, layers: 1, pages: 8);
        Assert.True(begun.Wait(Long));
        cache.Dispose();

        Task dispose = Task.Run(loads.Dispose);
        Assert.NotSame(dispose, await Task.WhenAny(dispose, Task.Delay(50)));
        loaded.Set();
        await dispose;

        Assert.Equal(0, loads.Appends);
    }
}
