using System.Runtime.InteropServices;

namespace FlashInfer.Tests;

/// <summary>What a device in checked mode says of a page table that something has written over; the same on CPU and GPU.</summary>
internal sealed class CheckedScenario : IDisposable
{
    public const int Layers = 3;
    private const int PageSize = 16;
    private static readonly int[] s_lengths = [40, 0, 100];

    public CheckedScenario(Device device)
    {
        Device = device;
        Cache = new PagedKvCache(device, new AttentionSpec(4, 2, 64, PageSize, DType.BFloat16), Layers, pages: 20);
        Decode = new BatchDecodeWithPagedKvCache(Cache, maxSequences: 4);
        Sequences = [.. s_lengths.Select(_ => Cache.NewSequence())];
        Query = device.Allocate<BFloat16>(s_lengths.Length, 4, 64);
        Output = device.Allocate<BFloat16>(s_lengths.Length, 4, 64);
        using DeviceTensor<BFloat16> prompt = device.Allocate<BFloat16>(s_lengths.Sum(), 2, 64);
        prompt.CopyFrom([.. Enumerable.Range(0, s_lengths.Sum() * 128).Select(i => (BFloat16)(i % 7))]);
        Query.CopyFrom([.. Enumerable.Range(0, s_lengths.Length * 256).Select(i => (BFloat16)(i % 5))]);
        Sequence[] filled = [.. Sequences.Where((_, i) => s_lengths[i] > 0)];
        Cache.BeginForward(filled, [.. s_lengths.Where(length => length > 0)]);
        for (int layer = 0; layer < Layers; layer++)
        {
            Cache.Append(layer, filled, prompt.View, prompt.View);
        }

        Cache.EndForward(filled);
    }

    public Device Device { get; }

    public PagedKvCache Cache { get; }

    public BatchDecodeWithPagedKvCache Decode { get; }

    public Sequence[] Sequences { get; }

    public DeviceTensor<BFloat16> Query { get; }

    public DeviceTensor<BFloat16> Output { get; }

    /// <summary>Runs all of it.</summary>
    public static void Check(Device device)
    {
        Assert.True(device.IsChecked);
        foreach (int page in (int[])[20, -1, int.MaxValue, int.MinValue])
        {
            using CheckedScenario scenario = new(device);
            scenario.RunNamesTheSequence(page);
            scenario.AppendNamesTheSequence(page);
            scenario.TheCachesOwnAppendNamesTheSequence(page);
        }
    }

    /// <summary>Writes a page id into the table as the kernels see it, behind the cache's back.</summary>
    public void Poison(Sequence sequence, int index, int page)
    {
        nint entry = Cache.Table.Address + ((sequence.PageOffset + index) * sizeof(int));
        Device.Backend.CopyIn(entry, MemoryMarshal.AsBytes(new ReadOnlySpan<int>(in page)), null);
        Device.Synchronize();
    }

    /// <summary>Checks what the exception says of a page of the last sequence.</summary>
    public void Expect(DeviceAssertException e, string operation, int layer, int index, int page)
    {
        Sequence sequence = Sequences[2];
        Assert.Equal(operation, e.Operation);
        Assert.Equal(layer, e.Layer);
        Assert.Same(sequence, e.Sequence);
        Assert.Equal(page, e.Page);
        Assert.Equal(index, e.Token / PageSize);
        Assert.Contains(
            $"{operation} of layer {layer} found page {page} in the page table for token {e.Token} of {sequence}",
            e.Message,
            StringComparison.Ordinal
        );
        Assert.Contains($"20 pages, 0 to 19; the cache has put page {sequence.Pages[index]} there", e.Message, StringComparison.Ordinal);
    }

    public void Dispose()
    {
        Output.Dispose();
        Query.Dispose();
        Decode.Dispose();
        Cache.Dispose();
    }

    private void RunNamesTheSequence(int page)
    {
        Decode.Plan(Sequences);
        Decode.Run(1, Query.View, Output.View);
        float[] before = [.. Output.ToArray().Select(x => (float)x)];
        Assert.All(before, x => Assert.True(float.IsFinite(x)));

        Poison(Sequences[2], 5, page);
        Expect(
            Assert.Throws<DeviceAssertException>(() => Decode.Run(1, Query.View, Output.View)),
            "BatchDecodeWithPagedKvCache.Run",
            1,
            5,
            page
        );

        // One violation is told once, and does not stay.
        Poison(Sequences[2], 5, Sequences[2].Pages[5]);
        Decode.Run(1, Query.View, Output.View);
        Assert.Equal(before, Output.ToArray().Select(x => (float)x));
    }

    private void AppendNamesTheSequence(int page)
    {
        Cache.BeginForward(Sequences, [1, 20, 20]);
        Decode.Plan(Sequences);
        using DeviceTensor<BFloat16> tokens = Device.Allocate<BFloat16>(41, 2, 64);
        Poison(Sequences[2], 7, page);
        Expect(
            Assert.Throws<DeviceAssertException>(() => Decode.Append(2, tokens.View, tokens.View)),
            "BatchDecodeWithPagedKvCache.Append",
            2,
            7,
            page
        );
        Poison(Sequences[2], 7, Sequences[2].Pages[7]);
        Decode.Append(2, tokens.View, tokens.View);
        Cache.AbandonForward(Sequences);
    }

    private void TheCachesOwnAppendNamesTheSequence(int page)
    {
        Sequence[] two = [Sequences[0], Sequences[2]];
        Cache.BeginForward(two, [3, 4]);
        using DeviceTensor<BFloat16> tokens = Device.Allocate<BFloat16>(7, 2, 64);
        Cache.Append(0, two, tokens.View, tokens.View);
        Poison(Sequences[2], 6, page);
        Expect(
            Assert.Throws<DeviceAssertException>(() => Cache.Append(0, two, tokens.View, tokens.View)),
            "PagedKvCache.Append",
            0,
            6,
            page
        );
        Cache.AbandonForward(two);
    }
}
