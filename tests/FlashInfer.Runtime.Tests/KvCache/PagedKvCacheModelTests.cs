using CsCheck;

namespace FlashInfer.Tests.KvCache;

/// <summary>Random calls, legal and not, against a simple model. A failure prints the seed and the shortest run of calls that fails.</summary>
public class PagedKvCacheModelTests
{
    private static readonly Gen<int> s_pages = Gen.Frequency((1, Gen.Int[1, 6]), (2, Gen.Int[7, 60]), (2, Gen.Int[61, 300]));

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(16)]
    public void Any_calls_leave_the_cache_as_the_model_says(int pageSize)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        Gen.Select(s_pages, CacheOperation.Any.Array[1, 120])
            .Sample(
                (pages, operations) =>
                {
                    using CacheRun run = new(device, pageSize, pages);
                    foreach (CacheOperation operation in operations)
                    {
                        run.Do(operation);
                    }

                    run.FreeAll();
                },
                iter: 400,
                threads: 2,
                print: sample => $"pages {sample.Item1}:\n{string.Join("\n", (object[])sample.Item2)}"
            );
    }
}
