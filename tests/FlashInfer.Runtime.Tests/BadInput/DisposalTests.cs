namespace FlashInfer.Tests.BadInput;

/// <summary>Disposed things say so, in whatever order they were disposed, and disposing again does nothing.</summary>
public class DisposalTests
{
    private static readonly AttentionSpec s_spec = new(2, 1, 64, 4, DType.Float16);

    public static TheoryData<int[]> Orders
    {
        get
        {
            TheoryData<int[]> orders = [];
            for (int code = 0; code < 256; code++)
            {
                int[] order = [code & 3, (code >> 2) & 3, (code >> 4) & 3, code >> 6];
                if (order.Distinct().Count() == 4)
                {
                    orders.Add(order);
                }
            }

            return orders;
        }
    }

    [Theory]
    [MemberData(nameof(Orders))]
    public void Any_order_of_disposal_is_safe_and_what_is_gone_says_so(int[] order)
    {
        Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2 });
        PagedKvCache cache = new(device, s_spec, 1, 4);
        BatchDecodeWithPagedKvCache decode = new(cache, 4);
        DeviceTensor<Half> rows = device.Allocate<Half>(1, 2, 64);
        DeviceTensor<Half> tokens = device.Allocate<Half>(1, 1, 64);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 1);
        decode.Plan([sequence]);
        decode.Append(0, tokens.View, tokens.View);
        decode.Run(0, rows.View, rows.View);
        TensorView view = rows.View;
        IDisposable[] things = [device, cache, decode, rows];
        bool[] gone = new bool[4];
        foreach (int index in order)
        {
            things[index].Dispose();
            gone[index] = true;
            Throws(gone[0], () => device.Synchronize());
            Throws(gone[0], () => device.TrimMemory());
            Throws(gone[0], () => device.Allocate<float>(1).Dispose());
            Throws(gone[0], () => _ = device.View<float>(16, [1]));
            Throws(gone[0], () => new PagedKvCache(device, s_spec, 1, 1).Dispose());
            Throws(gone[0] || gone[1], () => cache.NewSequence());
            Throws(gone[0] || gone[1], () => cache.TryBeginForward([], []));
            Throws(gone[0] || gone[1], () => _ = cache.KeyPages(0).Address);
            Throws(gone[0] || gone[1], () => new BatchDecodeWithPagedKvCache(cache).Dispose());
            Throws(gone[0] || gone[1] || gone[2], () => decode.Plan([sequence]));
            Throws(gone[0] || gone[1] || gone[2], () => decode.Append(0, tokens.View, tokens.View));
            Throws(gone[0] || gone[3], () => _ = view.Address);
            Throws(gone[0] || gone[3], () => view.As<Half>().ToArray());
            Throws(gone[0] || gone[3], () => view.As<Half>().CopyFrom(new Half[128]));
            Throws(gone.Any(g => g), () => decode.Run(0, view, view));
        }

        // What can be asked without memory still answers.
        Assert.Equal((1, 1, 3), (sequence.KvLength, sequence.Pages.Length, cache.FreePages));
        Assert.Contains("1 sequence with 1 token", decode.Explain(), StringComparison.Ordinal);
        Assert.Equal("Float16[1, 2, 64]", $"{view.Dtype}{view.Shape}");
        tokens.Dispose();
        Array.ForEach(things, thing => thing.Dispose());
    }

    [Fact]
    public void A_view_of_a_disposed_caches_pages_says_so()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        PagedKvCache cache = new(device, s_spec, 1, 4);
        TensorView keys = cache.KeyPages(0);
        cache.Dispose();

        Assert.Throws<ObjectDisposedException>(() => keys.As<Half>().ToArray());
    }

    private static void Throws(bool throws, Action action)
    {
        if (throws)
        {
            Assert.Throws<ObjectDisposedException>(action);
        }
        else
        {
            action();
        }
    }
}
