namespace FlashInfer.Tests.BadInput;

/// <summary>A cache or a wrapper belongs to one caller at a time and says so.</summary>
public class ThreadTests
{
    private const string Cache = "Another thread is using this PagedKvCache; it belongs to one caller at a time.";

    [Fact]
    public void Two_threads_inside_one_cache_are_told()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(1, 1, 64, 4, DType.Float16), 1, 4);
        using BatchDecodeWithPagedKvCache decode = new(cache, 4);
        Sequence sequence = cache.NewSequence();
        using ManualResetEventSlim inside = new();
        using ManualResetEventSlim leave = new();
        Thread other = new(() =>
        {
            using KvCacheUse use = new(cache, inside, leave);
        });
        other.Start();
        inside.Wait();

        Refused.Operation(Cache, () => cache.BeginForward(sequence, 1));
        Refused.Operation(Cache, () => cache.TryBeginForward(sequence, 1));
        Refused.Operation(Cache, () => cache.EndForward(sequence));
        Refused.Operation(Cache, () => cache.AbandonForward(sequence));
        Refused.Operation(Cache, () => cache.Free(sequence));
        Refused.Operation(Cache, () => decode.Plan([sequence]));
        leave.Set();
        other.Join();

        // Nothing stays locked: neither by the thread that left nor by those that were refused.
        cache.BeginForward(sequence, 1);
        decode.Plan([sequence]);
        Assert.Equal(1, sequence.KvLength);
    }

    [Fact]
    public void A_refused_call_leaves_the_cache_usable()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PagedKvCache cache = new(device, new AttentionSpec(1, 1, 64, 4, DType.Float16), 1, 4);
        using BatchDecodeWithPagedKvCache decode = new(cache, 4);
        Sequence sequence = cache.NewSequence();
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.BeginForward(sequence, 0));
        Assert.Throws<OutOfPagesException>(() => cache.BeginForward(sequence, 1000));
        Assert.Throws<ArgumentException>(() => decode.Plan([]));

        cache.BeginForward(sequence, 16);
        decode.Plan([sequence]);
    }

    /// <summary>Stands inside the cache until told to leave, as a long call would.</summary>
    private readonly ref struct KvCacheUse : IDisposable
    {
        private readonly FlashInfer.KvCache.UseGuard.Use _use;

        public KvCacheUse(PagedKvCache cache, ManualResetEventSlim inside, ManualResetEventSlim leave)
        {
            _use = cache.Enter();
            inside.Set();
            leave.Wait();
        }

        public void Dispose() => _use.Dispose();
    }
}
