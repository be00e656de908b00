using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Cpu;

namespace FlashInfer.Tests.Cpu;

public sealed unsafe class CpuAppendTests : IDisposable
{
    private readonly CpuBackend _backend = new(3);
    private readonly Random _random;
    private readonly int _seed = Random.Shared.Next();

    public CpuAppendTests() => _random = new Random(_seed);

    public void Dispose() => _backend.Dispose();

    [Theory]
    [InlineData(KvLayout.Nhd, 16, false)]
    [InlineData(KvLayout.Nhd, 5, true)]
    [InlineData(KvLayout.Hnd, 16, true)]
    [InlineData(KvLayout.Hnd, 1, false)]
    [InlineData(KvLayout.Nhd, 1024, false)]
    public void New_tokens_land_bit_for_bit_and_nothing_else_changes(KvLayout layout, int pageSize, bool strided)
    {
        // Enough tokens in the second case to be copied by several threads.
        foreach (int[] counts in new int[][] { [1, 0, 37, 16, 5], [700, 1, 300] })
        {
            AttentionSpec spec = new(4, 2, 64, pageSize, DType.BFloat16, kvLayout: layout);
            Check(spec, counts, strided);
        }
    }

    [Fact]
    public void Page_table_updates_write_only_their_entries()
    {
        using AttentionKernels kernels = _backend.LoadKernels(new AttentionSpec(1, 1, 64, 16, DType.Float16));
        nint table = _backend.Allocate(5 * sizeof(int));
        new int[] { 10, 11, 12, 13, 14 }.CopyTo(new Span<int>((void*)table, 5));
        nint list = _backend.Allocate(sizeof(ListHeader) + (2 * sizeof(PageTableUpdate)));
        *(ListHeader*)list = new ListHeader { Count = 2 };
        PageTableUpdate* updates = (PageTableUpdate*)((ListHeader*)list + 1);
        updates[0] = new PageTableUpdate { Index = 4, Page = 99 };
        updates[1] = new PageTableUpdate { Index = 0, Page = 77 };
        kernels.UpdatePageTable(new PageTableParams { Pages = table, Updates = list }, 2, null);
        Assert.Equal(new int[] { 77, 11, 12, 13, 99 }, new ReadOnlySpan<int>((void*)table, 5).ToArray());
    }

    private void Check(AttentionSpec spec, int[] counts, bool strided)
    {
        int tokens = counts.Sum();
        long headStride = spec.HeadDim + (strided ? 3 : 0);
        long rowStride = (spec.KvHeads * headStride) + (strided ? 7 : 0);
        (long page, long token, long head) = AttentionCase.Strides(spec, strided ? 16 : 0);
        int[] starts = [.. counts.Select(_ => _random.Next(50))];
        int[] pageCounts = [.. counts.Select((count, i) => (starts[i] + count + spec.PageSize - 1) / spec.PageSize)];
        int[] ids = [.. Enumerable.Range(0, pageCounts.Sum() + 2)];
        _random.Shuffle(ids);
        int[] offsets = [.. pageCounts.Select((_, i) => pageCounts[..i].Sum())];
        nint table = _backend.Allocate(ids.Length * sizeof(int));
        ids.CopyTo(new Span<int>((void*)table, ids.Length));

        int cacheLength = checked((int)(page * ids.Length));
        (nint newKeys, ushort[] keys) = RandomBits(rowStride * tokens);
        (nint newValues, ushort[] values) = RandomBits(rowStride * tokens);
        (nint keyCache, ushort[] expectedKeys) = RandomBits(cacheLength);
        (nint valueCache, ushort[] expectedValues) = RandomBits(cacheLength);
        List<AppendItem> items = [];
        for (int sequence = 0, row = 0; sequence < counts.Length; row += counts[sequence++])
        {
            for (int i = 0; i < counts[sequence]; i++)
            {
                int position = starts[sequence] + i;
                long at = (ids[offsets[sequence] + (position / spec.PageSize)] * page) + (position % spec.PageSize * token);
                for (int element = 0; element < spec.KvHeads * spec.HeadDim; element++)
                {
                    long from = ((row + i) * rowStride) + (element / spec.HeadDim * headStride) + (element % spec.HeadDim);
                    long to = at + (element / spec.HeadDim * head) + (element % spec.HeadDim);
                    expectedKeys[to] = keys[from];
                    expectedValues[to] = values[from];
                }

                if (i % 16 == 0)
                {
                    items.Add(
                        new AppendItem
                        {
                            Row = row + i,
                            Count = Math.Min(16, counts[sequence] - i),
                            Position = position,
                            PageOffset = offsets[sequence],
                        }
                    );
                }
            }
        }

        nint plan = _backend.Allocate(sizeof(ListHeader) + (items.Count * sizeof(AppendItem)));
        *(ListHeader*)plan = new ListHeader { Count = items.Count };
        items.ToArray().CopyTo(new Span<AppendItem>((ListHeader*)plan + 1, items.Count));
        AppendParams args = new()
        {
            Key = newKeys,
            Value = newValues,
            KeyCache = keyCache,
            ValueCache = valueCache,
            Pages = table,
            Plan = plan,
            KeyRowStride = rowStride,
            KeyHeadStride = headStride,
            ValueRowStride = rowStride,
            ValueHeadStride = headStride,
            PageStride = page,
            TokenStride = token,
            HeadStride = head,
        };
        using AttentionKernels kernels = _backend.LoadKernels(spec);
        kernels.Append(args, new ListLaunch(items.Count, items.Count, 1, false), null);
        Assert.True(expectedKeys.AsSpan().SequenceEqual(new ReadOnlySpan<ushort>((void*)keyCache, cacheLength)), $"keys, seed {_seed}");
        Assert.True(
            expectedValues.AsSpan().SequenceEqual(new ReadOnlySpan<ushort>((void*)valueCache, cacheLength)),
            $"values, seed {_seed}"
        );
    }

    private (nint Address, ushort[] Bits) RandomBits(long length)
    {
        ushort[] bits = new ushort[length];
        _random.NextBytes(MemoryMarshal.AsBytes(bits.AsSpan()));
        nint address = _backend.Allocate(length * sizeof(ushort));
        bits.CopyTo(new Span<ushort>((void*)address, bits.Length));
        return (address, bits);
    }
}
